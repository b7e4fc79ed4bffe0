"""BaichuanForCausalLM.forward of Baichuan 2, with its local variables: 7B turns queries and keys, 13B adds ALiBi.

One map makes queries, keys and values; the head's rows are brought to length one in every step; a second loss keeps
logits small. 7B hands a mask to torch's scaled_dot_product_attention, 13B writes attention out, and always checkpoints
its layers in training. Both would take xformers if it were there. Source: the code of the repositories
(baichuan-inc/Baichuan2-7B-Chat and Baichuan2-13B-Chat, modeling_baichuan.py of late 2023).
"""

from __future__ import annotations

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.losses.labels import shifted
from oomph.losses.own import check_own
from oomph.programs.cache import Cache
from oomph.programs.frame import call, full_attention, refuse_positions
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

sliding_windows = full_attention("model.layers")
QKV = 3  # queries, keys and values come from one map


def buffers(m: Bound) -> list[Sym]:
    """Return what is on the device beside the parameters: 7B's tables of cos and sin, fp32, in each layer."""
    attention = next(iter(m.model.layers)).self_attn
    if not attention.rotary:
        return []
    names = ("cos_cached", "sin_cached") * len(m.model.layers.stacked)
    return [m.tape.empty((1, 1, attention.positions, attention.head_dim), "fp32", op=name) for name in names]


def leave_behind(m: Bound, job: TrainJob) -> None:
    """Allocate what an earlier forward pass left: 13B's ALiBi mask."""
    if not next(iter(m.model.layers)).self_attn.rotary:
        alibi_mask(m.model, m.model.embed_tokens.weight.dtype, job.seq_len)


def alibi_mask(m: Bound, dtype: str, length: Size) -> Sym:
    """Mirror get_alibi_mask, made on the host, copied to the device and kept: [N, S, S] in the embeddings' dtype."""
    if "alibi_mask" not in m.parts:
        heads = next(iter(m.layers)).self_attn.num_heads
        made = m.tape.empty((heads, length, length), dtype, op="alibi_mask")
        m.parts["alibi_mask"] = m.tape.note(made, "kept by a module")
    found: Sym = m.parts["alibi_mask"]
    return found


def own_attention(query_states: Sym, key_states: Sym, value_states: Sym, attention_mask: Sym) -> tuple[Sym, Sym]:
    """Mirror BaichuanAttention.forward of 13B between its maps: scores are divided, masked and bounded from below."""
    attn_weights = ops.matmul(query_states, ops.transpose(key_states, 2, 3)) / 1.0
    attn_weights = attn_weights + attention_mask
    attn_weights = ops.at_least(attn_weights)
    attn_weights = ops.softmax(attn_weights)
    attn_output = ops.matmul(attn_weights, value_states)
    return ops.transpose(attn_output, 1, 2), attn_weights


def apply_rotary_pos_emb(q: Sym, k: Sym, position_ids: Sym) -> tuple[Sym, Sym]:
    """Mirror 7B's apply_rotary_pos_emb: rows of the layer's tables are picked, q and k turned in fp32."""
    shape = (*position_ids.shape, q.shape[-1])
    cos = ops.unsqueeze(q.tape.empty(shape, "fp32", op="index"), 1)
    sin = ops.unsqueeze(q.tape.empty(shape, "fp32", op="index"), 1)
    q_embed = turned(q, cos, sin)
    k_embed = turned(k, cos, sin)
    return ops.cast(q_embed, q.dtype), ops.cast(k_embed, k.dtype)


def turned(x: Sym, cos: Sym, sin: Sym) -> Sym:
    """Mirror a half of apply_rotary_pos_emb: x is cast to fp32 twice."""
    return (ops.cast(x, "fp32") * cos) + (ops.rotate_half(ops.cast(x, "fp32")) * sin)


def attention(m: Bound, hidden_states: Sym, attention_mask: Sym, position_ids: Sym | None) -> Sym:
    """Mirror the attention's forward: q, k and v are views of one map's result."""
    batch, length, hidden = hidden_states.shape
    proj = m.W_pack(hidden_states)
    shape = (batch, length, m.num_heads, m.head_dim)
    proj = ops.transpose(ops.unsqueeze(ops.view(proj, (batch, length, QKV, hidden)), 0), 0, 3)
    proj = ops.view(proj, (QKV, batch, length, hidden))  # squeeze(-2)
    query_states = ops.transpose(ops.view(ops.select(proj, 0), shape), 1, 2)
    key_states = ops.transpose(ops.view(ops.select(proj, 0), shape), 1, 2)
    value_states = ops.transpose(ops.view(ops.select(proj, 0), shape), 1, 2)
    attn_weights = None
    if position_ids is None:
        attn_output, attn_weights = own_attention(query_states, key_states, value_states, attention_mask)
    else:
        query_states, key_states = apply_rotary_pos_emb(query_states, key_states, position_ids)
        attn_output = ops.sdpa_attention(query_states, key_states, value_states, attention_mask, 0.0)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, hidden)))
    projected: Sym = m.o_proj(attn_output)
    attn_output = projected
    del attn_weights, projected
    return attn_output


def layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror BaichuanLayer.forward."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    hidden_states = attention(m.self_attn, hidden_states, attention_mask, position_ids)
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.post_attention_layernorm(hidden_states)
    hidden_states = m.mlp(hidden_states)
    hidden_states = residual + hidden_states
    return hidden_states


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    position_ids: Sym | None = None,
    inputs_embeds: Sym | None = None,
) -> Sym:
    """Mirror BaichuanModel.forward of 13B, and Model.forward of 7B."""
    turns = bool(next(iter(m.layers)).self_attn.rotary)
    position_ids = m.tape.empty((1, input_ids.shape[1]), "int64", op="arange") if turns else None
    inputs_embeds = m.embed_tokens(input_ids)
    if turns:
        ones = None if attention_mask is not None else m.tape.empty(input_ids.shape, "bool", op="ones")
        attention_mask = decoder_mask(inputs_embeds, attention_mask)
        del ones
    else:
        alibi = alibi_mask(m, inputs_embeds.dtype, input_ids.shape[1])
        if attention_mask is None:
            attention_mask = alibi
        else:
            expanded_mask = expanded(attention_mask, alibi.dtype)
            inverted_mask = inverted([expanded_mask])
            attention_mask = inverted_mask + ops.unsqueeze(alibi, 0)
    hidden_states: Sym = inputs_embeds
    for index, each in enumerate(m.layers):
        arguments = (attention_mask, position_ids) if turns else (attention_mask,)
        hidden_states = call(each, index, layer, checkpointing, None, hidden_states, *arguments)
        del arguments
    m.tape.end_layers()
    hidden_states = m.norm(hidden_states)
    return hidden_states


def expanded(attention_mask: Sym, dtype: str) -> Sym:
    """Mirror what 13B makes of a padding mask [B, S]: ones where tokens see each other, numbers [B, 1, S, S]."""
    tape, (batch, length) = attention_mask.tape, attention_mask.shape
    square = (batch, length, length)
    expanded_mask = tape.empty((batch, length), dtype, op="to")
    product = tape.empty(square, dtype, op="mul")
    positive = tape.empty(square, "bool", op="gt")
    del product
    lower = tape.empty(square, "bool", op="tril")
    del positive
    difference = tape.empty(square, dtype, op="sub")
    equal = tape.empty(square, "bool", op="eq")
    del difference
    allowed = tape.empty(square, "bool", op="mul")
    del lower, equal
    expanded_mask = allowed
    del allowed
    return ops.cast(ops.unsqueeze(expanded_mask, 1), dtype)


def inverted(made: list[Sym]) -> Sym:
    """Mirror the end of _expand_mask, (1 - mask).masked_fill(..), which takes the mask over."""
    expanded_mask = made.pop()
    inverted_mask = ops.unary(expanded_mask, "rsub")
    return ops.masked_fill(inverted_mask, ops.cast(inverted_mask, "bool"))


def decoder_mask(inputs_embeds: Sym, attention_mask: Sym | None, scalar: bool = False) -> Sym:
    """Mirror 7B's _prepare_decoder_attention_mask: numbers [B, 1, S, S]; without padding it takes ones for a mask.

    `scalar`: the lowest number is a tensor for a moment (InternLM2).
    """
    tape, dtype, (batch, length) = inputs_embeds.tape, inputs_embeds.dtype, inputs_embeds.shape[:2]
    combined_attention_mask = causal_numbers(inputs_embeds, scalar)
    expanded_attn_mask = inverted([tape.empty((batch, 1, length, length), dtype, op="to")])
    return expanded_attn_mask + combined_attention_mask


def causal_numbers(inputs_embeds: Sym, scalar: bool = False) -> Sym:
    """Mirror _make_causal_mask: fp32 zeros and lowest numbers [S, S], then in the embeddings' dtype."""
    tape, length = inputs_embeds.tape, inputs_embeds.shape[1]
    lowest = tape.empty((), "fp32", op="lift_fresh") if scalar else None
    mask = tape.empty((length, length), "fp32", op="full")
    del lowest
    mask_cond = tape.empty((length,), "int64", op="arange")
    next_cond = ops.unary(mask_cond, "add")
    below = tape.empty((length, length), "bool", op="lt")
    del next_cond, below
    return ops.cast(mask, inputs_embeds.dtype)


def causal_lm(
    m: Bound,
    input_ids: Sym,
    labels: Sym | None,
    checkpointing: Checkpointing,
    model_type: str,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    use_cache: bool = False,
    logits_to_keep: Size = 0,
) -> tuple[Sym | None, Sym, Cache | None]:
    """Mirror BaichuanForCausalLM.forward: loss and logits."""
    refuse_positions(position_ids)
    if checkpointing.kind != "none" or not next(iter(m.model.layers)).self_attn.rotary:
        checkpointing = Checkpointing("reentrant", 1)  # 13B's flag is a tuple, which is never false
    hidden_states = model(m.model, input_ids, checkpointing, attention_mask)
    m.tape.scope = "lm_head"
    logits = head(m.lm_head, hidden_states)
    loss = None
    if labels is not None:
        check_own(m.tape.loss)
        m.tape.scope = "loss"
        shift_logits, shift_labels = shifted(logits, labels)
        values = ops.largest(shift_logits)
        softmax_normalizer = ops.power(values)
        del values
        z_loss = ops.mean_of_all(softmax_normalizer) * 1.0
        loss = ops.cross_entropy(shift_logits, shift_labels) + z_loss
    return loss, logits, None


def head(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror NormHead.forward in training. Raises UnsupportedError for one with an adapter."""
    if "base_layer" in m.parts:
        raise UnsupportedError(
            "PEFT has no adapter for Baichuan 2's head, which is no nn.Linear.", "Leave lm_head out."
        )
    norm_weight = ops.unit_rows(m.weight)
    return ops.linear(hidden_states, norm_weight)
