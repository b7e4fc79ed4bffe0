"""Gemma4ForCausalLM.forward, and Gemma4ForConditionalGeneration's on text alone, with their local variables.

Each layer is also handed an embedding of its own; the last layers reuse keys and values of earlier ones. Shape letters:
B batch, S sequence, H hidden, L layers, P size of the input per layer. Source: transformers 5.23,
models/gemma4/modeling_gemma4.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.blocks.shared_kv import SharedKVAttention
from oomph.errors import UsageError
from oomph.programs import llama
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frame import call, counted_positions
from oomph.programs.loss import kept
from oomph.programs.shared_kv import SharedStates
from oomph.programs.towers import tower_buffers
from oomph.programs.towers import updated as of_towers
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym

TOWERS = ("vision_tower", "audio_tower")
Tables = dict["Size | None", "tuple[Sym, Sym]"]  # cos and sin by the window of the layers that take them


def buffers(m: Bound) -> list[Sym]:
    """Return the towers' buffers, then the language model's."""
    inner = m.model
    if "language_model" not in inner.parts:
        return model_buffers(inner)
    found = [each for name in TOWERS if name in inner.parts for each in tower_buffers(inner[name])]
    return [*found, *model_buffers(inner.language_model)]


def model_buffers(m: Bound) -> list[Sym]:
    """Return the frequencies of each kind of layer, twice, and the factors of embeddings."""
    found = [each for size in sizes(m).values() for each in ops.rotary_buffers(m.tape, size)]
    for table in (m.embed_tokens, m.parts.get("embed_tokens_per_layer")):
        if table is not None:
            table.parts["embed_scale"] = m.tape.empty((), m.tape.loaded, op="embed_scale")
            found.append(table.embed_scale)
    return found


def sizes(m: Bound) -> dict[Size | None, Size]:
    """Return the head size of the layers of each window."""
    return {layer.self_attn.sliding_window: layer.self_attn.head_dim for layer in m.layers}


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return the window of every layer that has keys and values of its own."""
    return own_windows(m.model.parts.get("language_model", m.model))


def own_windows(m: Bound) -> list[Size | None]:
    """Return the window of every layer of the language model that has keys and values of its own."""
    attentions = [layer.self_attn for layer in m.layers]
    return [each.sliding_window for each in attentions if not isinstance(each.block, SharedKVAttention)]


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient."""
    return of_towers(m, parameters) if "language_model" in m.model.parts else parameters


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
) -> tuple[Sym | None, Sym | None, Cache | None]:
    """Mirror Gemma4ForCausalLM.forward or Gemma4ForConditionalGeneration.forward: loss, logits and cache."""
    inner = m.model
    whole = "language_model" in inner.parts
    body = with_towers if whole else model
    given = {"labels": labels} if whole else {}
    hidden_states, past_key_values = body(
        inner, input_ids, checkpointing, attention_mask, position_ids, past_key_values, use_cache=use_cache,
        logits_to_keep=logits_to_keep, **given,
    )  # fmt: skip
    if yes(hidden_states.shape[1] == input_ids.shape[1]):
        hidden_states = kept(hidden_states, logits_to_keep)
    table = (inner.language_model if whole else inner).embed_tokens.weight
    loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, 0)
    return loss, logits, past_key_values


def with_towers(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    position_ids: Sym | None,
    past_key_values: Cache | None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
    per_layer_inputs: Sym | None = None,
    logits_to_keep: Size = 0,
    labels: Sym | None = None,
) -> tuple[Sym, Cache | None]:
    """Mirror Gemma4Model.forward without images: it looks for placeholders all the same, and hands labels on."""
    tape, language_model, packed = m.tape, m.language_model, position_ids
    image_mask = tape.empty(input_ids.shape, "bool", op="eq")
    video_mask = tape.empty(input_ids.shape, "bool", op="eq")  # noqa: F841  these live to the end
    audio_mask = tape.empty(input_ids.shape, "bool", op="eq")  # noqa: F841
    multimodal_mask = ops.unary(ops.unary(image_mask, "bitwise_or"), "bitwise_or")
    llm_input_ids = ops.unary(input_ids, "clone")
    llm_input_ids = ops.where(multimodal_mask, llm_input_ids)
    inputs_embeds = language_model.embed_tokens(llm_input_ids)
    if "embed_tokens_per_layer" in language_model.parts:
        pad_embedding = ops.select(language_model.embed_tokens.weight, 0)
        pad_embedding = ops.unsqueeze(ops.unsqueeze(pad_embedding, 0), 0)
        llm_inputs_embeds = ops.where_either(  # noqa: F841  lives to the end
            ops.unsqueeze(multimodal_mask, 2), ops.expand(pad_embedding, inputs_embeds.shape), inputs_embeds
        )
        per_layer_inputs = inputs_per_layer(language_model, llm_input_ids)
    if position_ids is None:
        position_ids = counted_positions(inputs_embeds)
    causal_mask_mapping: llama.Masks = {}
    mask_kwargs = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}  # noqa: F841  lives to the end
    causal_mask_mapping |= masks_by_kind(language_model, inputs_embeds, attention_mask, past_key_values, packed)
    outputs = model(
        language_model, None, checkpointing, causal_mask_mapping, position_ids, past_key_values, inputs_embeds,
        per_layer_inputs, use_cache, logits_to_keep, labels=labels,
    )  # fmt: skip
    del packed
    return outputs


def masks_by_kind(
    m: Bound, inputs_embeds: Sym, attention_mask: Sym | None, past_key_values: Cache | None, packed: Sym | None
) -> llama.Masks:
    """Mirror create_masks_for_generate: a mask for each kind of layer, in the order of a set of their names."""
    return {
        window: ops.causal_mask(inputs_embeds, attention_mask, past_key_values, window, packed)
        for window in llama.as_a_set(list(sizes(m)))
    }


def model(
    m: Bound,
    input_ids: Sym | None,
    checkpointing: Checkpointing,
    attention_mask: Sym | llama.Masks | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: Sym | None = None,
    per_layer_inputs: Sym | None = None,
    use_cache: bool = False,
    logits_to_keep: Size = 0,
    **given: Sym | None,
) -> tuple[Sym, Cache | None]:
    """Mirror Gemma4TextModel.forward: the last hidden state [B, S, H], or its last tokens, and the cache.

    What else it is `given` checkpointed layers hold.
    """
    packed = position_ids
    check_checkpoints(m, checkpointing)
    if inputs_embeds is None:
        inputs_embeds = m.embed_tokens(input_ids)
    if "embed_tokens_per_layer" in m.parts:
        if per_layer_inputs is None and input_ids is not None:
            per_layer_inputs = inputs_per_layer(m, input_ids)
        per_layer_inputs = projected(m, inputs_embeds, per_layer_inputs)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, own_windows(m))
    if position_ids is None:
        position_ids = counted_positions(inputs_embeds)
    causal_mask_mapping: llama.Masks = {}
    if isinstance(attention_mask, dict):
        causal_mask_mapping = attention_mask
    else:
        mask_kwargs = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}  # noqa: F841  lives to the end
        for window in sorted(sizes(m), key=lambda window: window is not None):
            causal_mask_mapping[window] = ops.causal_mask(
                inputs_embeds, attention_mask, past_key_values, window, packed
            )  # fmt: skip
    hidden_states: Sym = inputs_embeds
    position_embeddings: Tables = {}
    for window in llama.as_a_set(list(sizes(m))):
        position_embeddings[window] = ops.rotary_tables(hidden_states, position_ids, sizes(m)[window])
    shared_kv_states: SharedStates = {}
    for index, layer in enumerate(m.layers):
        window, shares = layer.self_attn.sliding_window, isinstance(layer.self_attn.block, SharedKVAttention)
        if (
            shares
            and index == len(own_windows(m))
            and can_slice(hidden_states, causal_mask_mapping, past_key_values, logits_to_keep)
        ):
            hidden_states = last_of(hidden_states, logits_to_keep)
            per_layer_inputs = last_of(per_layer_inputs, logits_to_keep)
            position_embeddings = {
                kind: (last_of(cos, logits_to_keep), last_of(sin, logits_to_keep))
                for kind, (cos, sin) in position_embeddings.items()
            }
            causal_mask_mapping = {
                kind: None if mask is None else last_of(mask, logits_to_keep, 2)
                for kind, mask in causal_mask_mapping.items()
            }
        per_layer_input = None if per_layer_inputs is None else ops.select(per_layer_inputs, 2, index)
        hidden_states = call(
            layer, index, block, checkpointing, past_key_values, hidden_states, per_layer_input,
            shared_kv_states=shared_kv_states, position_embeddings=position_embeddings[window],
            attention_mask=causal_mask_mapping[window], position_ids=position_ids, **given,
        )  # fmt: skip
    m.tape.end_layers()
    hidden_states = m.norm(hidden_states)
    return hidden_states, past_key_values


def check_checkpoints(m: Bound, checkpointing: Checkpointing) -> None:
    """Refuse reentrant checkpoints of layers that reuse what layers without checkpoints make: torch fails on them."""
    attentions = [layer.self_attn for layer in m.layers]
    kept_graphs = {
        each.sliding_window for at, each in enumerate(attentions)
        if not isinstance(each.block, SharedKVAttention) and each.stores and not checkpointing.takes(at)
    }  # fmt: skip
    if m.tape.reentrant and any(
        isinstance(each.block, SharedKVAttention) and each.sliding_window in kept_graphs and checkpointing.takes(at)
        for at, each in enumerate(attentions)
    ):
        raise UsageError(
            "Reentrant checkpoints go back through the graph of keys and values that were made outside of one twice.",
            "Checkpoint every layer, or say --checkpointing non-reentrant.",
        )


def inputs_per_layer(m: Bound, input_ids: Sym) -> Sym:
    """Mirror get_per_layer_inputs: an embedding of each token for every layer, [B, S, L, P]."""
    return by_layer(m, m.embed_tokens_per_layer(input_ids))


def by_layer(m: Bound, x: Sym) -> Sym:
    """Return [B, S, L * P] as [B, S, L, P]."""
    size: Size = m.per_layer_projection_norm.size
    return ops.view(x, (*x.shape[:2], x.shape[-1] // size, size))


def projected(m: Bound, inputs_embeds: Sym, per_layer_inputs: Sym | None) -> Sym:
    """Mirror project_per_layer_inputs: what the embeddings say for every layer, and the layer's own beside it."""
    per_layer_projection: Sym = m.per_layer_model_projection(inputs_embeds) * 1.0
    per_layer_projection = by_layer(m, per_layer_projection)
    per_layer_projection = m.per_layer_projection_norm(per_layer_projection)
    if per_layer_inputs is None:
        return per_layer_projection
    return (per_layer_projection + per_layer_inputs) * 1.0


def can_slice(
    hidden_states: Sym, masks: llama.Masks, past_key_values: Cache | None, logits_to_keep: Size
) -> bool:  # fmt: skip
    """Mirror what _maybe_slice_kv_shared_inputs asks before the first layer that makes no keys."""
    if yes(hidden_states.shape[1] == 1):
        return False
    needs_masks = yes(logits_to_keep > 1) or (past_key_values is not None and past_key_values.is_static)
    return not (needs_masks and any(mask is None for mask in masks.values()))


def last_of(x: Any, logits_to_keep: Size, axis: int = 1) -> Sym:
    """Return the last places of an axis, of all of them an alias."""
    length = x.shape[axis]
    everything = yes(logits_to_keep == 0) or yes(logits_to_keep >= length)
    return ops.part(x, 0 if everything else length - logits_to_keep, length, axis)


def block(
    m: Bound,
    hidden_states: Sym,
    per_layer_input: Sym | None,
    shared_kv_states: SharedStates,
    position_embeddings: tuple[Sym, Sym],
    attention_mask: Sym | None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    index: int = 0,
    labels: Sym | None = None,
) -> Sym:
    """Mirror Gemma4TextDecoderLayer.forward."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    hidden_states, _ = m.self_attn(
        hidden_states, position_embeddings, attention_mask, shared_kv_states, past_key_values, index
    )
    hidden_states = m.post_attention_layernorm(hidden_states)
    hidden_states = residual + hidden_states

    residual = hidden_states
    hidden_states = m.pre_feedforward_layernorm(hidden_states)
    hidden_states = m.mlp(hidden_states)
    if "experts" in m.parts:
        hidden_states_1 = m.post_feedforward_layernorm_1(hidden_states)
        hidden_states_flat = ops.view(residual, (ops.rows(residual), residual.shape[-1]))
        _, top_k_weights, top_k_index = m.router(hidden_states_flat)
        hidden_states_2 = m.pre_feedforward_layernorm_2(hidden_states_flat)
        hidden_states_2 = m.experts(hidden_states_2, top_k_index, top_k_weights)
        hidden_states_2 = ops.view(hidden_states_2, residual.shape)
        hidden_states_2 = m.post_feedforward_layernorm_2(hidden_states_2)
        hidden_states = hidden_states_1 + hidden_states_2
    hidden_states = m.post_feedforward_layernorm(hidden_states)
    hidden_states = residual + hidden_states

    if per_layer_input is not None:
        residual = hidden_states
        hidden_states = m.per_layer_input_gate(hidden_states)
        hidden_states = ops.activate(m.mlp.activation, hidden_states)
        hidden_states = hidden_states * per_layer_input
        hidden_states = m.per_layer_projection(hidden_states)
        hidden_states = m.post_per_layer_input_norm(hidden_states)
        hidden_states = residual + hidden_states
    hidden_states = ops.scale_(hidden_states, m.layer_scalar)
    return hidden_states
