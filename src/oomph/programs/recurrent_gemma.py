"""RecurrentGemmaForCausalLM.forward with its local variables: a linear recurrence token by token, attention in between.

What a recurrence ends with stays with its module until the next forward pass, in training with the graph that it came
from: a checkpointed layer keeps all that it recomputed. Source: transformers 5.23,
models/recurrent_gemma/modeling_recurrent_gemma.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.programs.cache import LINEAR, Cache, dynamic_cache
from oomph.programs.frame import call, counted_positions, language_model
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, number, yes
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape
from oomph.tape.turns import READ, scan

MOST_TOKENS = 2048  # each is some twenty events in every layer; in training so many take ten seconds
RECURRENT, CONVOLUTION = "recurrent_states", "conv1d_state"  # attributes of modules, none before a forward pass
cache_made_before = True  # forward does not return the cache: who decodes makes it
settles = True  # states of a step are there in the next one


def buffers(m: Bound) -> list[Sym]:
    """Return the frequencies that every attention keeps twice, and the number embeddings are multiplied by."""
    attending = [layer.temporal_block for layer in m.model.layers if "q_proj" in layer.temporal_block.parts]
    found = [each for one in attending for each in ops.rotary_buffers(m.tape, one.rotary_dim)]
    m.model.made["normalizer"] = m.tape.empty((), "bf16", op="normalizer")
    return [*found, m.model.made["normalizer"]]


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: keys and values of a window, or states."""
    return windows_of(m.model)


def windows_of(m: Bound) -> list[Size | None]:
    """Return the windows of layers that attend, and which layers are recurrent."""
    blocks = [layer.temporal_block for layer in m.layers]
    return [LINEAR if "rg_lru" in one.parts else one.sliding_window for one in blocks]


def attention(
    m: Bound,
    hidden_states: Sym,
    position_ids: Sym,
    attention_mask: Sym | None,
    past_key_values: Cache | None,
    index: int,
) -> tuple[Sym, Sym | None]:
    """Mirror RecurrentGemmaAttention.forward, which makes tables of its own."""
    batch, length = hidden_states.shape[:2]
    heads, kv_heads = (batch, length, m.num_heads, m.head_dim), (batch, length, m.num_kv_heads, m.head_dim)
    query_states = ops.transpose(ops.view(m.q_proj(hidden_states), heads), 1, 2)
    key_states = ops.transpose(ops.view(m.k_proj(hidden_states), kv_heads), 1, 2)
    value_states = ops.transpose(ops.view(m.v_proj(hidden_states), kv_heads), 1, 2)
    cos, sin = ops.rotary_tables(value_states, position_ids, m.rotary_dim)
    query_states, key_states = ops.rotate(m.rotary, query_states, key_states, cos, sin)
    if past_key_values is not None:
        key_states, value_states = past_key_values.update(key_states, value_states, index)
    attn_output, attn_weights = ops.attention(query_states, key_states, value_states, attention_mask, m.dropout)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * m.head_dim)))
    attn_output = m.o_proj(attn_output)
    return attn_output, attn_weights


def rg_lru(m: Bound, activations: Sym, position_ids: Sym) -> Sym:
    """Mirror RecurrentGemmaRglru.forward: activations [B, S, W] in and out."""
    tape, (batch, length, width) = m.tape, activations.shape
    reset = tape.empty((*position_ids.shape, 1), "bool", op="eq")
    reshape_act = ops.view(activations, (batch * length, m.num_blocks, width // m.num_blocks))
    reshape_act = ops.transpose(reshape_act, 0, 1)
    res = gate(m, "input_gate", reshape_act)
    input_gate = ops.sigmoid(ops.view(ops.transpose(res, 0, 1), (batch, length, width)))
    res = gate(m, "recurrent_gate", reshape_act)
    recurrent_gate = ops.sigmoid(ops.view(ops.transpose(res, 0, 1), (batch, length, width)))
    log_recurrent_gate = recurrent_gate * 1.0 * ops.softplus(m.value("recurrent_param"))
    recurrent_gate = ops.exp(log_recurrent_gate)
    a_square = ops.exp(log_recurrent_gate * 1.0)
    gated_inputs = activations * input_gate
    multiplier = ops.bounded_sqrt(a_square * 1.0)
    multiplier = reset + ops.unary(reset, "bitwise_not") * multiplier
    normalized_x = gated_inputs * ops.cast(multiplier, activations.dtype)
    hidden_states, recurrent_states = rnn_scan(normalized_x, recurrent_gate, reset, m.made.get(RECURRENT))
    m.made[RECURRENT] = kept_state(recurrent_states)
    return hidden_states


def kept_state(state: Sym) -> Sym:
    """Return a state that stays with its module, named."""
    return state.tape.note(state, "kept by a module" if state.tape.training else "kv cache")


def gate(m: Bound, name: str, reshape_act: Sym) -> Sym:
    """Mirror torch.baddbmm of a gate's bias and weight: [N, B·S, W / N]."""
    return ops.biased_products(ops.unsqueeze(m.value(f"{name}_bias"), 1), reshape_act, m.value(f"{name}_weight"))


def rnn_scan(
    hidden_states: Sym, recurrent_gate: Sym, reset: Sym, recurrent_states: Sym | None
) -> tuple[Sym, Sym]:  # fmt: skip
    """Mirror RecurrentGemmaRglru._rnn_scan: one token after the other, in fp32."""
    tape, (batch, length, width) = hidden_states.tape, hidden_states.shape
    recurrent_gate = recurrent_gate * ops.unary(reset, "bitwise_not")
    if yes(length == 1):
        if recurrent_states is None:
            return hidden_states, ops.cast(ops.select(hidden_states, 1), "fp32")
        contextualized_states = ops.cast(recurrent_gate, "fp32") * ops.unsqueeze(recurrent_states, 1)
        contextualized_states = ops.add_(contextualized_states, ops.cast(hidden_states, "fp32"))
        return ops.cast(contextualized_states, hidden_states.dtype), ops.select(contextualized_states, 1)
    if recurrent_states is None:
        recurrent_states = tape.empty((batch, width), "fp32", op="zeros")
    contextualized_states = ops.zeros_like(hidden_states)
    for _ in scan(tape, _accepted(tape, length)):
        recurrent_states = ops.cast(ops.select(recurrent_gate, 1), "fp32") * recurrent_states
        recurrent_states = recurrent_states + ops.cast(ops.select(hidden_states, 1), "fp32")
        contextualized_states = ops.copy_into_place(
            contextualized_states, 1, ops.cast(recurrent_states, hidden_states.dtype)
        )
    return contextualized_states, recurrent_states


def _accepted(tape: Tape, length: Size) -> Size:
    """Return how many tokens are played one by one; refused where they are too many."""
    most = MOST_TOKENS if tape.training else READ * MOST_TOKENS
    if not yes(length <= most):
        raise UnsupportedError(
            f"oomph plays a recurrence of at most {most} tokens, one by one as transformers runs it, not of "
            f"{number(length)}.",
            f"Ask for at most {most} tokens (--seq, --context), or trace the real code: oomph trace.",
        )
    return length


def recurrent_block(m: Bound, input_states: Sym, position_ids: Sym, use_cache: bool) -> tuple[Sym, None]:
    """Mirror RecurrentGemmaRecurrentBlock.forward: with a cache a single token joins the last ones in the module's
    state, without one states are forgotten.
    """
    batch, seq_len = input_states.shape[:2]
    y_branch: Sym = m.linear_y(input_states)
    y_branch = ops.activate(m.activation, y_branch)
    x_branch: Sym = m.linear_x(input_states)
    x_branch = ops.transpose(x_branch, 1, 2)
    kernel, weight, bias = m.conv_1d.size[0], m.conv_1d.value("weight"), m.conv_1d.parts["bias"]
    if not use_cache:
        forget(m)
    elif CONVOLUTION not in m.made or not yes(m.made[CONVOLUTION].shape[0] == batch):
        set_up(m, batch, input_states.dtype)
    if use_cache and yes(seq_len == 1):
        conv_state = ops.cat([m.made[CONVOLUTION], x_branch], 2)
        x_branch = ops.sum_over(conv_state * ops.select(weight, 1), 2) + bias
        x_branch = ops.unsqueeze(x_branch, 2)
        m.made[CONVOLUTION] = kept_state(ops.slice_axis(conv_state, 2, 1, kernel))
    else:
        if use_cache:
            m.made[CONVOLUTION] = kept_state(ops.pad_axis(x_branch, 2, kernel - 1 - seq_len, 0))
        x_branch = ops.part(ops.conv1d(x_branch, weight, bias, kernel - 1), 0, seq_len)
    x_branch = rg_lru(m.rg_lru, ops.transpose(x_branch, 1, 2), position_ids)
    hidden_states = x_branch * y_branch
    hidden_states = m.linear_out(hidden_states)
    return hidden_states, None


def forget(m: Bound) -> None:
    """Drop the states of a recurrent block."""
    m.made.pop(CONVOLUTION, None)
    m.rg_lru.made.pop(RECURRENT, None)


def set_up(m: Bound, batch: Size, dtype: str) -> None:
    """Make the states of a recurrent block anew, as its own forward does: zeros."""
    shape = (batch, m.hidden_size, m.conv_kernel - 1)
    m.made[CONVOLUTION] = kept_state(m.tape.empty(shape, dtype, op="zeros"))
    m.rg_lru.made[RECURRENT] = kept_state(m.tape.empty((batch, m.width), "fp32", op="zeros"))


def set_up_cache(m: Bound, batch: Size, dtype: str) -> None:
    """Mirror RecurrentGemmaRecurrentBlock._setup_cache, which makes them in the other order."""
    m.rg_lru.made[RECURRENT] = kept_state(m.tape.empty((batch, m.width), "fp32", op="zeros"))
    shape = (batch, m.hidden_size, m.conv_kernel - 1)
    m.made[CONVOLUTION] = kept_state(m.tape.empty(shape, dtype, op="zeros"))


def mlp(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror RecurrentGemmaMlp.forward."""
    gate = ops.activate(m.activation, m.gate_proj(hidden_states))
    down: Sym = m.down_proj(gate * m.up_proj(hidden_states))
    return down


def block(
    m: Bound,
    activations: Sym,
    position_ids: Sym,
    attention_mask: Sym | None,
    use_cache: bool,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror RecurrentGemmaDecoderLayer.forward."""
    raw_activations = activations
    inputs_normalized = m.temporal_pre_norm(raw_activations)
    if "rg_lru" in m.temporal_block.parts:
        hidden_states, _ = recurrent_block(m.temporal_block, inputs_normalized, position_ids, use_cache)
    else:
        hidden_states, _ = attention(
            m.temporal_block, inputs_normalized, position_ids, attention_mask, past_key_values, index
        )  # fmt: skip
    residual = hidden_states + raw_activations
    hidden_states = m.channel_pre_norm(residual)
    hidden_states = mlp(m.mlp_block, hidden_states)
    hidden_states = hidden_states + residual
    return hidden_states


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    position_ids: Sym | None = None,
    attention_mask: Sym | None = None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
    past_key_values: Cache | None = None,
) -> tuple[Sym, None]:
    """Mirror RecurrentGemmaModel.forward, which does not return its cache."""
    windows = windows_of(m)
    window = next(each for each in windows if each is not LINEAR)
    inputs_embeds = m.embed_tokens(input_ids)
    hidden_states: Sym = inputs_embeds
    if use_cache and past_key_values is None:
        for layer in m.layers:
            if "rg_lru" in layer.temporal_block.parts:
                set_up_cache(layer.temporal_block, hidden_states.shape[0], hidden_states.dtype)
        past_key_values = dynamic_cache(m.tape, windows)
    packed = position_ids
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    causal_mask = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, window, packed)
    hidden_states = hidden_states * ops.cast(m.made["normalizer"], hidden_states.dtype)
    for index, residual_block in enumerate(m.layers):
        hidden_states = call(
            residual_block, index, block, checkpointing, past_key_values, hidden_states, position_ids, causal_mask,
            use_cache,
        )  # fmt: skip
    m.tape.end_layers()
    hidden_states = m.final_norm(hidden_states)
    return hidden_states, None


def causal_lm(
    m: Bound, input_ids: Sym, labels: Sym | None, checkpointing: Checkpointing, model_type: str, **given: Any
) -> Any:
    """Mirror RecurrentGemmaForCausalLM.forward, whose logits a tanh bounds."""
    m.tape.head = "softcap at once"
    return language_model(model, "model", "embed_tokens")(m, input_ids, labels, checkpointing, model_type, **given)
