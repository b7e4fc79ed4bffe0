"""DbrxForCausalLM.forward with its local variables: fused and bounded queries, keys and values; experts in a loop.

The class has no other form of its experts, so what a step takes depends on the routing that a job assumes. Shape
letters: T tokens, H hidden, F expert ffn, E experts, k experts of a token. Source: transformers 5.23,
models/dbrx/modeling_dbrx.py.
"""

from __future__ import annotations

from functools import partial

from oomph import ops
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.experts import assumed_loads, check_mixture, column, hit
from oomph.programs.frame import call, counted_positions, full_attention, language_model
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

Tables = tuple[Sym, Sym]
sliding_windows = full_attention("transformer.blocks")


def buffers(m: Bound) -> list[Sym]:
    """Return the frequencies of the rotary embedding, which are kept twice."""
    return ops.rotary_buffers(m.tape, next(iter(m.transformer.blocks)).norm_attn_norm.attn.head_dim)


def ffn(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror DbrxFFN.forward: [B, S, H] through k experts a token."""
    check_mixture(m.tape)
    router_logits = m[m.router_name](hidden_states, partial(router, m))
    top_k_weights, top_k_index = route_tokens_to_experts(m, router_logits)
    output: Sym = m[m.experts_name](hidden_states, top_k_index, top_k_weights)
    return output


def router(m: Bound, linear: Bound, hidden_states: Sym) -> Sym:
    """Mirror DbrxRouter.forward: logits [T, E]. Where the config says so it shakes what it and the experts read."""
    if m.tape.training and m.shaken:
        hidden_states = ops.shake(hidden_states)
    hidden_states = ops.view(hidden_states, (ops.rows(hidden_states), hidden_states.shape[-1]))
    router_logits: Sym = linear.layer(hidden_states)
    return router_logits


def route_tokens_to_experts(m: Bound, router_logits: Sym) -> tuple[Sym, Sym]:
    """Mirror DbrxFFN.route_tokens_to_experts: weights, made to add up to 1 where the class does that, and int64 [T, k].

    A dtype that is spelled out holds under autocast too.
    """
    router_logits = ops.softmax_as_is(router_logits)
    router_top_value, router_indices = ops.topk(router_logits, m.top_k)
    if m.normalised:
        router_top_value = ops.divide(router_top_value, ops.sums_of_sizes(router_top_value))
    return router_top_value, router_indices


def experts(m: Bound, hidden_states: Sym, top_k_index: Sym, top_k_weights: Sym) -> Sym:
    """Mirror DbrxExperts.forward: one expert after another, each with the tokens that the job assumes for it."""
    tape, shape = m.tape, hidden_states.shape
    hidden_states = ops.view(hidden_states, (ops.rows(hidden_states), m.hidden_size))
    next_states = tape.empty(hidden_states.shape, hidden_states.dtype, op="zeros_like")
    expert_mask = ops.one_hot(top_k_index, m.num_experts + 1)
    loads = assumed_loads(m, *top_k_index.shape)
    expert_hit = hit(tape, m.num_experts + 1, len(loads))
    split_expert_shape = (m.num_experts, m.ffn_size, m.hidden_size)
    for load in loads:
        found = ops.nonzero(top_k_index, load)
        idx, token_idx = column(found, 0), column(found, 1)
        del found
        v1 = ops.pick(ops.view(m.value("v1"), split_expert_shape))
        w1 = ops.pick(ops.view(m.value("w1"), split_expert_shape))
        w2 = ops.pick(ops.view(m.value("w2"), split_expert_shape))
        states = called(m, ops.take(hidden_states, token_idx), w1, v1, w2)
        states = states * ops.take_pairs(top_k_weights, token_idx, idx)
        next_states = ops.index_add_in_place(next_states, token_idx, states)
    del expert_mask, expert_hit
    return ops.view(next_states, shape)


def called(m: Bound, x: Sym, expert_w1: Sym, expert_v1: Sym, expert_w2: Sym) -> Sym:
    """Mirror the call of the module that holds the experts: it holds what goes in until `expert` is over."""
    made = expert(m, x, expert_w1, expert_v1, expert_w2)
    return made


def expert(m: Bound, x: Sym, expert_w1: Sym, expert_v1: Sym, expert_w2: Sym) -> Sym:
    """Mirror DbrxExpertGLU.forward: [n, H] through one expert, whose matrices are all [F, H]."""
    gate_proj = ops.times(x, ops.transpose(expert_w1, 0, 1))
    up_proj = ops.times(x, ops.transpose(expert_v1, 0, 1))
    gate_proj = ops.activate(m.activation, gate_proj)
    intermediate_states = gate_proj * up_proj
    return ops.times(intermediate_states, expert_w2)


def norm_attention_norm(
    m: Bound,
    hidden_states: Sym,
    position_embeddings: Tables,
    attention_mask: Sym | None,
    past_key_values: Cache | None,
    index: int,
) -> tuple[Sym, Sym]:
    """Mirror DbrxNormAttentionNorm.forward: the residual and what the experts read."""
    residual_states = hidden_states
    hidden_states = ops.cast(m.norm_1(hidden_states), hidden_states.dtype)
    hidden_states, _ = m.attn(hidden_states, position_embeddings, attention_mask, past_key_values, index)
    hidden_states = hidden_states + residual_states
    residual_states = hidden_states
    hidden_states = ops.cast(m.norm_2(hidden_states), hidden_states.dtype)
    return residual_states, hidden_states


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_embeddings: Tables,
    position_ids: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror DbrxBlock.forward."""
    resid_states, hidden_states = norm_attention_norm(
        m.norm_attn_norm, hidden_states, position_embeddings, attention_mask, past_key_values, index
    )  # fmt: skip
    hidden_states = m.ffn(hidden_states)
    hidden_states = resid_states + hidden_states
    return hidden_states


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
) -> tuple[Sym, Cache | None]:
    """Mirror DbrxModel.forward."""
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, [None] * len(m.blocks.stacked))
    inputs_embeds = m.wte(input_ids)
    packed = position_ids
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    causal_mask = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, packed=packed)
    hidden_states: Sym = inputs_embeds
    size = next(iter(m.blocks)).norm_attn_norm.attn.head_dim
    position_embeddings = ops.rotary_tables(hidden_states, position_ids, size)
    for index, decoder_layer in enumerate(m.blocks):
        hidden_states = call(
            decoder_layer, index, block, checkpointing, past_key_values, hidden_states,
            position_embeddings=position_embeddings, attention_mask=causal_mask, position_ids=position_ids,
        )  # fmt: skip
    m.tape.end_layers()
    hidden_states = m.norm_f(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "transformer", "wte")
