"""Lfm2ForCausalLM.forward and LFM2-MoE's with their local variables: short convolutions, attention in some layers.

Source: transformers 5.23, models/lfm2/modeling_lfm2.py and models/lfm2_moe/modeling_lfm2_moe.py.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from oomph import ops
from oomph.programs.cache import LINEAR, Cache, dynamic_cache
from oomph.programs.frame import call, counted_positions, language_model
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

Tables = tuple[Sym, Sym]


def buffers(m: Bound) -> list[Sym]:
    """Return the frequencies of the rotary embedding, which are kept twice."""
    return ops.rotary_buffers(m.tape, _rotary_size(m.model))


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: keys and values, or the last inputs of its convolution."""
    return _kinds(m.model)


def _kinds(m: Bound) -> list[Size | None]:
    return [LINEAR if "conv" in layer.parts else None for layer in m.layers]


def _rotary_size(m: Bound) -> Size:
    return next(layer.self_attn.head_dim for layer in m.layers if "self_attn" in layer.parts)


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_embeddings: Tables,
    position_ids: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror Lfm2DecoderLayer.forward."""
    residual = hidden_states
    if "conv" in m.parts:
        hidden_states = m.conv(m.operator_norm(hidden_states), past_key_values, attention_mask, index)
    else:
        hidden_states, _ = m.self_attn(
            m.operator_norm(hidden_states), position_embeddings, attention_mask, past_key_values, index
        )
    hidden_states = hidden_states + residual
    hidden_states = hidden_states + m.feed_forward(m.ffn_norm(hidden_states))
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
    ids_first: bool = False,
) -> tuple[Sym, Cache | None]:
    """Mirror Lfm2Model.forward, or Lfm2MoeModel.forward, where layers are handed position_ids first."""
    inputs_embeds = m.embed_tokens(input_ids)
    kinds = _kinds(m)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, kinds)
    packed = position_ids
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    causal_mask_mapping: dict[Size, Sym | None] = {}
    mask_kwargs = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}  # noqa: F841  lives to the end
    causal_mask_mapping |= {
        None: ops.causal_mask(inputs_embeds, attention_mask, past_key_values, packed=packed),
        LINEAR: ops.recurrent_mask(inputs_embeds, attention_mask),
    }
    hidden_states: Sym = inputs_embeds
    position_embeddings = ops.rotary_tables(hidden_states, position_ids, _rotary_size(m))
    tables, ids = {"position_embeddings": position_embeddings}, {"position_ids": position_ids}
    where = {**ids, **tables} if ids_first else {**tables, **ids}
    del tables, ids
    for index, layer in enumerate(m.layers):
        mask = causal_mask_mapping[kinds[index]]
        hidden_states = call(
            layer, index, block, checkpointing, past_key_values, hidden_states, attention_mask=mask, **where
        )  # fmt: skip
    del where, mask
    m.tape.end_layers()
    hidden_states = m.embedding_norm(hidden_states)
    return hidden_states, past_key_values


def causal_lm(
    m: Bound, input_ids: Sym, labels: Sym | None, checkpointing: Checkpointing, model_type: str, **given: Any
) -> Any:
    """Mirror Lfm2ForCausalLM.forward: loss, logits and cache."""
    body = partial(model, ids_first=model_type == "lfm2_moe")
    return language_model(body, "model", "embed_tokens")(m, input_ids, labels, checkpointing, model_type, **given)
