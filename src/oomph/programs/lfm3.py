"""Lfm3ForCausalLM.forward with its local variables: LFM2's layers, attention with or without a window.

Masks and rotary tables are made for each kind of layer, masks in the order of a set of the kinds. Source: transformers
5.23, models/lfm3/modeling_lfm3.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.families.layer_types import FULL, SLIDING
from oomph.programs.cache import LINEAR, Cache, dynamic_cache
from oomph.programs.frame import call, counted_positions, language_model
from oomph.programs.layers import Tables
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

CONV = "conv"


def buffers(m: Bound) -> list[Sym]:
    """Return the frequencies of each kind of attention's rotary embedding, which are kept twice."""
    attending = {_kind(layer): layer.self_attn.head_dim for layer in m.model.layers if CONV not in layer.parts}
    return [each for size in attending.values() for each in ops.rotary_buffers(m.tape, size)]


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: keys and values, all or a window of them, or states."""
    return _kept(m.model)


def _kept(m: Bound) -> list[Size | None]:
    return [LINEAR if CONV in layer.parts else layer.self_attn.sliding_window for layer in m.layers]


def _kind(layer: Bound) -> str:
    if CONV in layer.parts:
        return CONV
    return FULL if layer.self_attn.sliding_window is None else SLIDING


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_embeddings: Tables | None,
    position_ids: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror Lfm3DecoderLayer.forward."""
    residual = hidden_states
    if CONV in m.parts:
        hidden_states = m.conv(m.operator_norm(hidden_states), past_key_values, attention_mask, index)
    else:
        hidden_states, _ = m.self_attn(
            m.operator_norm(hidden_states), position_embeddings, attention_mask, past_key_values, index
        )
    if "post_operator_norm" in m.parts:
        hidden_states = m.post_operator_norm(hidden_states)
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.ffn_norm(hidden_states)
    hidden_states = m.feed_forward(hidden_states)
    if "post_ffn_norm" in m.parts:
        hidden_states = m.post_ffn_norm(hidden_states)
    hidden_states = residual + hidden_states
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
    """Mirror Lfm3Model.forward."""
    kinds, kept = [_kind(layer) for layer in m.layers], _kept(m)
    windows = dict(zip(kinds, kept, strict=True))
    inputs_embeds = m.embed_tokens(input_ids)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, kept)
    packed = position_ids
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    causal_mask_mapping: dict[str, Sym | None] = {}
    for kind in set(kinds):
        causal_mask_mapping[kind] = (
            ops.recurrent_mask(inputs_embeds, attention_mask)
            if kind == CONV
            else ops.causal_mask(inputs_embeds, attention_mask, past_key_values, windows[kind], packed=packed)
        )
    hidden_states: Sym = inputs_embeds
    size = next(layer.self_attn.head_dim for layer in m.layers if CONV not in layer.parts)
    position_embeddings: dict[str, Any] = {
        kind: ops.rotary_tables(hidden_states, position_ids, size, "fp32") for kind in (FULL, SLIDING) if kind in kinds
    }
    for index, layer in enumerate(m.layers):
        hidden_states = call(
            layer, index, block, checkpointing, past_key_values, hidden_states,
            attention_mask=causal_mask_mapping[kinds[index]],
            position_embeddings=position_embeddings.get(kinds[index]),
            position_ids=position_ids,
        )  # fmt: skip
    mask_kwargs_cell = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}  # noqa: F841  of a closure
    m.tape.end_layers()
    hidden_states = m.embedding_norm(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "model", "embed_tokens")
