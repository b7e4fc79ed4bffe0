"""Qwen3NextForCausalLM.forward and that of Qwen3.5's text models, with their local variables.

Source: transformers 5.23, models/qwen3_next/modeling_qwen3_next.py, models/qwen3_5 and models/qwen3_5_moe.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from oomph import ops
from oomph.programs.cache import LINEAR, Cache, dynamic_cache
from oomph.programs.frame import call, counted_positions, language_model
from oomph.programs.layers import Tables
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym


def buffers(m: Bound) -> list[Sym]:
    """Return the frequencies of the rotary embedding, which are kept twice."""
    return ops.rotary_buffers(m.tape, _rotary_size(m.model))


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: keys and values, or states."""
    return _kinds(m.model)


def _kinds(m: Bound) -> list[Size | None]:
    return [LINEAR if "linear_attn" in layer.parts else None for layer in m.layers]


def _rotary_size(m: Bound) -> Size:
    return next(layer.self_attn.rotary_dim for layer in m.layers if "self_attn" in layer.parts)


def block(
    m: Bound,
    hidden_states: Sym,
    position_embeddings: Tables,
    attention_mask: Sym | None,
    position_ids: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror Qwen3NextDecoderLayer.forward."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    if "linear_attn" in m.parts:
        hidden_states = m.linear_attn(hidden_states, past_key_values, attention_mask, index)
    else:
        hidden_states, _ = m.self_attn(hidden_states, position_embeddings, attention_mask, past_key_values, index)
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
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
    sections: bool = False,
) -> tuple[Sym, Cache | None]:
    """Mirror Qwen3NextModel.forward; with `sections` Qwen3_5TextModel.forward, which has positions of three axes."""
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
    tables = ops.section_tables if sections else ops.rotary_tables
    position_embeddings = tables(hidden_states, position_ids, _rotary_size(m))
    for index, layer in enumerate(m.layers):
        mask = causal_mask_mapping[kinds[index]]
        hidden_states = call(
            layer, index, block, checkpointing, past_key_values, hidden_states,
            position_embeddings=position_embeddings, attention_mask=mask, position_ids=position_ids,
        )  # fmt: skip
    del mask
    m.tape.end_layers()
    hidden_states = m.norm(hidden_states)
    return hidden_states, past_key_values


def causal_lm(
    m: Bound, input_ids: Sym, labels: Sym | None, checkpointing: Checkpointing, model_type: str, **given: Any
) -> Any:
    """Mirror Qwen3NextForCausalLM.forward: loss, logits and cache."""
    body = partial(model, sections=model_type != "qwen3_next")
    return language_model(body, "model", "embed_tokens")(m, input_ids, labels, checkpointing, model_type, **given)
