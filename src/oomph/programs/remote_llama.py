"""Decoders whose code comes with them and was Llama's of transformers 4.3x, with its local variables.

Each layer keeps tables of cos and sin for all positions, from which rows are picked; keys are repeated for every head
that shares them; layers return tuples; the class shifts the labels itself. What differs is in `CODE`. Source: the
repositories that scripts/record_remote_code.py names (MiniCPM-2B, InternLM-7B).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.losses.labels import shifted
from oomph.losses.own import check_own
from oomph.ops.attention import repeat_kv
from oomph.ops.kernel_choice import Call
from oomph.ops.sdpa import scaled_dot_product_attention
from oomph.programs.baichuan import causal_numbers, decoder_mask, inverted
from oomph.programs.cache import Cache
from oomph.programs.frame import call, check_length, full_attention
from oomph.programs.internlm2 import apply_rotary_pos_emb
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

sliding_windows = full_attention("model.layers")
KeyValue = tuple[Sym, Sym]


def causal_4d(inputs_embeds: Sym, attention_mask: Sym | None) -> Sym | None:
    """Mirror _prepare_4d_causal_attention_mask, or what it is for SDPA where there is padding.

    Numbers [1 or B, 1, S, S], none for one token where nothing is padded.
    """
    tape, (batch, length) = inputs_embeds.tape, inputs_embeds.shape[:2]
    for_sdpa = tape.kernel != "eager"
    if for_sdpa:
        ones = tape.empty((batch, length), "bool", op="eq")
        found = tape.empty((), "bool", op="all")
        del ones, found
    causal = None if yes(length == 1) else causal_numbers(inputs_embeds)
    if causal is None and attention_mask is None:
        return None
    shape = (1 if attention_mask is None else batch, 1, length, length)
    if attention_mask is None:
        return None if causal is None else ops.expand(ops.view(causal, (1, 1, length, length)), shape)
    expanded = inverted([tape.empty(shape, inputs_embeds.dtype, op="to")])
    if causal is not None:
        expanded = filled(tape, [expanded])
        del causal
    return unmasked(expanded) if for_sdpa else expanded


def filled(tape: Tape, made: list[Sym]) -> Sym:
    """Mirror causal_4d_mask.masked_fill(expanded_attn_mask.bool(), ..); the mask that it takes over dies."""
    expanded_attn_mask = made.pop()
    blocked = ops.cast(expanded_attn_mask, "bool")
    both = tape.empty(expanded_attn_mask.shape, expanded_attn_mask.dtype, op="masked_fill")
    del blocked, expanded_attn_mask
    return both


def unmasked(expanded_mask: Sym) -> Sym:
    """Mirror AttentionMaskConverter._unmask_unattended: rows that see nothing see all."""
    tape, shape = expanded_mask.tape, expanded_mask.shape
    equal = tape.empty(shape, "bool", op="eq")
    rows = tape.empty((*shape[:-1], 1), "bool", op="all")
    del equal
    others = tape.empty((*shape[:-1], 1), "bool", op="bitwise_not")
    del rows
    made = tape.empty(shape, expanded_mask.dtype, op="mul")
    del others
    return made


def internlm_mask(inputs_embeds: Sym, attention_mask: Sym | None) -> Sym:
    """Mirror InternLMModel._prepare_decoder_attention_mask: without padding it takes ones for a mask."""
    tape, ones = inputs_embeds.tape, None
    if attention_mask is None:
        ones = tape.empty(inputs_embeds.shape[:2], "bool", op="ones")
    made = decoder_mask(inputs_embeds, attention_mask, scalar=True)
    del ones
    return made


@dataclass(frozen=True)
class Code:
    """How one model's code differs.

    `turned_in_fp32`: queries and keys are turned in fp32. `scaled`: embeddings, what is added to the residual and what
    the head reads are multiplied by numbers. `bounded`: scores are not below the lowest number, and nothing of them is
    dropped. `sdpa`: the class can use it. `reentrant`: layers are checkpointed re-entrantly, whatever a job says.
    `unturned`: keys are kept as they were before. `fp32_logits`: logits are cast before the loss. `sliced`: the class
    knows pretraining_tp, as Llama's did since 4.31: all three maps come before their views, and a comprehension
    captures the last hidden state, which so outlives other locals. `mask` makes the numbers [B, 1, S, S] that are added
    to scores.
    """

    turned_in_fp32: bool = False
    scaled: bool = False
    bounded: bool = False
    sdpa: bool = True
    reentrant: bool = False
    unturned: bool = False
    fp32_logits: bool = True
    sliced: bool = True
    mask: Callable[[Sym, Sym | None], Sym | None] = causal_4d


CODE = {
    "internlm": Code(
        bounded=True, sdpa=False, reentrant=True, unturned=True, fp32_logits=False, sliced=False, mask=internlm_mask
    ),
    "minicpm": Code(turned_in_fp32=True, scaled=True),
}


def buffers(m: Bound) -> list[Sym]:
    """Return what is on the device beside the parameters: frequencies, cos and sin of all positions, in each layer."""
    attention = next(iter(m.model.layers)).self_attn
    size, table = attention.head_dim, (attention.positions, attention.head_dim)
    found = []
    for layer in m.model.layers:
        found.append(m.tape.empty((size // 2,), "fp32", op="inv_freq"))
        for name in ("cos_cached", "sin_cached"):
            made = layer.self_attn.parts[name] = m.tape.empty(table, "fp32", op=name)
            found.append(made)
    return found


def tables(m: Bound, value_states: Sym) -> KeyValue:
    """Mirror the rotary embedding's forward: rows of the layer's tables, cast if values have another dtype."""
    length, dtype = value_states.shape[2], value_states.dtype
    cos = ops.cast(ops.slice_axis(m.cos_cached, 0, 0, length), dtype)
    sin = ops.cast(ops.slice_axis(m.sin_cached, 0, 0, length), dtype)
    return cos, sin


def turned_in_fp32(q: Sym, k: Sym, cos: Sym, sin: Sym, position_ids: Sym) -> KeyValue:
    """Mirror MiniCPM's apply_rotary_pos_emb."""
    orig_dtype, shape = k.dtype, (*position_ids.shape, q.shape[-1])
    cos = ops.unsqueeze(q.tape.empty(shape, cos.dtype, op="index"), 1)
    sin = ops.unsqueeze(q.tape.empty(shape, sin.dtype, op="index"), 1)
    q_fp32 = ops.cast(q, "fp32")
    k_fp32 = ops.cast(k, "fp32")
    q_embed = (q_fp32 * cos) + (ops.rotate_half(q_fp32) * sin)
    k_embed = (k_fp32 * cos) + (ops.rotate_half(k_fp32) * sin)
    return ops.cast(q_embed, orig_dtype), ops.cast(k_embed, orig_dtype)


def scored(m: Bound, code: Code, query_states: Sym, key_states: Sym, value_states: Sym, mask: Sym | None) -> Any:
    """Mirror the attention's forward between its maps: the output [B, S, N, D] and the weights."""
    attn_weights = ops.matmul(query_states, ops.transpose(key_states, 2, 3)) / 1.0
    if mask is not None:
        attn_weights = attn_weights + mask
        if code.bounded:
            attn_weights = ops.at_least(attn_weights)
    attn_weights = ops.cast(ops.softmax_in_fp32(attn_weights), query_states.dtype)
    if not code.bounded:
        attn_weights = ops.dropout(attn_weights, m.dropout)
    attn_output = ops.matmul(attn_weights, value_states)
    attn_output = ops.transpose(attn_output, 1, 2)
    return ops.contiguous(attn_output), attn_weights


def heads(m: Bound, states: Sym, count: Size) -> Sym:
    """Return what a map made [B, S, N·D] with its heads in front [B, N, S, D]."""
    return ops.transpose(ops.view(states, (*states.shape[:2], count, m.head_dim)), 1, 2)


def attention(
    m: Bound,
    code: Code,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_ids: Sym,
    presents: list[KeyValue] | None,
) -> Sym:
    """Mirror FooAttention.forward, or FooSdpaAttention's."""
    bsz, q_len, hidden = hidden_states.shape
    shared = m.num_heads // m.num_kv_heads
    maps, counts = (m.q_proj, m.k_proj, m.v_proj), (m.num_heads, m.num_kv_heads, m.num_kv_heads)
    if code.sliced:
        made = [one(hidden_states) for one in maps]
        query_states, key_states, value_states = map(partial(heads, m), made, counts)
        del made
    else:
        query_states, key_states, value_states = (
            heads(m, one(hidden_states), count) for one, count in zip(maps, counts, strict=True)
        )
    if presents is not None and code.unturned:
        presents.append((key_states, value_states))
    eager = m.tape.kernel == "eager"
    cos, sin = tables(m, ops.cast(value_states, "fp32") if code.turned_in_fp32 and eager else value_states)
    turn = turned_in_fp32 if code.turned_in_fp32 else apply_rotary_pos_emb
    query_states, key_states = turn(query_states, key_states, cos, sin, position_ids)
    if presents is not None and not code.unturned:
        presents.append((key_states, value_states))
    key_states = repeat_kv(key_states, shared)
    value_states = repeat_kv(value_states, shared)
    attn_weights = None
    if eager:
        attn_output, attn_weights = scored(m, code, query_states, key_states, value_states, attention_mask)
    else:
        if attention_mask is not None:
            query_states = ops.contiguous(query_states)
            key_states = ops.contiguous(key_states)
            value_states = ops.contiguous(value_states)
        rate = m.dropout if m.tape.dropout else 0.0
        causal = attention_mask is None and not yes(q_len == 1)
        attn_output = scaled_dot_product_attention(
            query_states, key_states, value_states, Call(attention_mask, rate, causal)
        )
        attn_output = ops.contiguous(ops.transpose(attn_output, 1, 2))
    attn_output = ops.contiguous(ops.view(attn_output, (bsz, q_len, hidden)))
    attn_output = m.o_proj(attn_output)
    del attn_weights
    projected: Sym = attn_output
    return projected


def layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_ids: Sym,
    past_key_values: list[KeyValue] | None = None,
    index: int = 0,
    *,
    code: Code,
) -> tuple[Sym, None]:
    """Mirror FooDecoderLayer.forward; `past_key_values`, if any, takes what the layer would cache."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    hidden_states = attention(m.self_attn, code, hidden_states, attention_mask, position_ids, past_key_values)
    hidden_states = residual + (hidden_states * 1.0 if code.scaled else hidden_states)
    residual = hidden_states
    hidden_states = m.post_attention_layernorm(hidden_states)
    hidden_states = m.mlp(hidden_states)
    hidden_states = residual + (hidden_states * 1.0 if code.scaled else hidden_states)
    return hidden_states, None


def model(
    m: Bound,
    code: Code,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    position_ids: Sym | None,
    presents: list[KeyValue] | None,
) -> Sym:
    """Mirror FooModel.forward: what the last layer returned is held to the end."""
    tape, length = m.tape, input_ids.shape[1]
    check_length(next(iter(m.layers)).self_attn.positions, length)
    if position_ids is None:
        position_ids = ops.unsqueeze(tape.empty((length,), "int64", op="arange"), 0)
    inputs_embeds = m.embed_tokens(input_ids)
    if code.scaled:
        inputs_embeds = inputs_embeds * 1.0
    masked = tape.kernel == "eager" or tape.holes  # SDPA needs none of a batch without padding
    attention_mask = code.mask(inputs_embeds, attention_mask) if masked else None
    hidden_states: Sym = inputs_embeds
    caches: Any = presents if checkpointing.kind == "none" else None
    for index, each in enumerate(m.layers):
        layer_outputs = call(
            each, index, layer, checkpointing, caches, hidden_states, attention_mask, position_ids, code=code
        )
        hidden_states = layer_outputs[0]
    tape.end_layers()
    hidden_states = m.norm(hidden_states)
    return hidden_states


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
) -> tuple[Sym | None, Sym, Any]:
    """Mirror FooForCausalLM.forward: loss and logits."""
    tape, code = m.tape, CODE[model_type]
    if use_cache and labels is None:
        raise UnsupportedError(f"oomph plays {model_type} in training only.", "Say --cache none.")
    if not code.sdpa:
        tape.kernel = "eager"
    if checkpointing.kind != "none":  # the class checkpoints all its layers
        checkpointing = replace(checkpointing, every=1)
    if checkpointing.kind != "none" and code.reentrant:
        checkpointing = Checkpointing("reentrant", 1)
    if code.bounded and yes(input_ids.shape[1] == 1):
        raise UnsupportedError(f"oomph cannot play {model_type} with sequences of one token.", "Take longer ones.")
    presents: list[KeyValue] | None = [] if use_cache else None
    hidden_states = model(m.model, code, input_ids, checkpointing, attention_mask, position_ids, presents)
    logits = head(m, hidden_states / 1.0 if code.scaled else hidden_states)
    if code.fp32_logits:
        logits = ops.cast(logits, "fp32")
    loss = shift_logits = shift_labels = None
    if labels is not None:
        check_own(tape.loss)
        tape.scope = "loss"
        shift_logits, shift_labels = shifted(logits, labels)
        loss = ops.cross_entropy(shift_logits, shift_labels)
    if code.sliced:
        del shift_logits, shift_labels
    return loss, logits, presents


def head(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror the head's forward: its weight is the embedding's where they are tied."""
    if "base_layer" in m.lm_head.parts or m.lm_head.parts.get("weight") is not None:
        logits: Sym = m.lm_head(hidden_states)
        return logits
    return ops.linear(hidden_states, m.model.embed_tokens.weight)
