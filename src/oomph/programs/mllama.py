"""MllamaForConditionalGeneration.forward: a Llama some of whose layers attend to images, or are left out without any.

Source: transformers 5.23, models/mllama/modeling_mllama.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.programs import layers, llama, mllama_vision, towers
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frames import LLAMA
from oomph.programs.towers import Images, check_room
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes, Size, product
from oomph.tape.sym import Sym

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

CROSS = "cross_attn"  # what the layers have that attend to images
IMAGE_TOKENS = 1  # of an image in the text, whatever its size


def buffers(m: Bound) -> list[Sym]:
    """Return inv_freq and original_inv_freq of the language model."""
    size = llama.rotary_size(llama.attention(m.model.language_model))
    return [m.tape.empty((size // 2,), "fp32", op="inv_freq") for _ in range(2)]


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return the window of every layer: none has one."""
    return [None] * len(m.model.language_model.layers.stacked)


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient: of text alone not the layers that attend to images."""
    found = towers.updated(m, parameters)
    if m.tape.images:
        return found
    left_out = tuple(f"{layer.path}." for layer in m.model.language_model.layers if CROSS in layer.parts)
    return [one for one in found if not one.made_for.startswith(left_out)]


@dataclass
class Seen:
    """What layers are handed of images: states of their patches, which tokens see which, and which see any. They die in
    this order.
    """

    states: Sym | None = None
    mask: Sym | None = None
    rows: Sym | None = None


def inputs_of_images(m: Bound, job: TrainJob | InferJob) -> Shapes:
    """Return what a batch has of images, and which tokens see which tiles."""
    return mllama_vision.inputs_of_tiles(m.model.vision_model.block, job)


def inputs_after_images(m: Bound, job: InferJob, new: Size) -> Shapes:
    """Return what tokens after images come with: which of them see which tiles, as `generate` hands it on."""
    return {"cross_attention_mask": ((job.batch, new, job.images, m.model.vision_model.block.max_tiles), "int64")}


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
    images: Images | None = None,
) -> tuple[Sym | None, Sym | None, Cache | None]:
    """Mirror MllamaForConditionalGeneration.forward: loss, logits and cache."""
    if images and past_key_values is not None and past_key_values.is_static:
        raise UnsupportedError("A static cache has no room for what is kept of images.", "Say --cache dynamic.")
    hidden_states, past_key_values = model(
        m.model, input_ids, checkpointing, attention_mask, position_ids, past_key_values, use_cache, images or {}
    )
    table = m.model.language_model.embed_tokens.weight
    loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, logits_to_keep)
    return loss, logits, past_key_values


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    position_ids: Sym | None,
    past_key_values: Cache | None,
    use_cache: bool,
    images: Images,
) -> tuple[Sym, Cache | None]:
    """Mirror MllamaModel.forward: the last hidden state [B, S, H] and the cache."""
    seen = Seen()
    vision_outputs = None
    if "pixel_values" in images:
        check_room(m, input_ids.shape[1], IMAGE_TOKENS)
        vision_outputs = image_features(m, images)
        seen.states = projected(m, vision_outputs)
        _check_checkpoints(m, seen.states, checkpointing)
    if "cross_attention_mask" in images:
        tokens, dtype = m.vision_model.num_patches, m.vision_model.patch_embedding.weight.dtype
        seen.mask, seen.rows = mllama_vision.cross_mask(images["cross_attention_mask"], tokens, dtype)
    hidden_states, past_key_values = text_model(
        m.language_model, input_ids, checkpointing, attention_mask, position_ids, past_key_values, use_cache, seen
    )
    seen.mask = None
    seen.states = None
    del vision_outputs
    seen.rows = None
    return hidden_states, past_key_values


def image_features(m: Bound, images: Images) -> Sym:
    """Return what the tower makes of a batch's images."""
    return mllama_vision.tower(
        m.vision_model, images["pixel_values"], images["aspect_ratio_ids"], images["aspect_ratio_mask"]
    )


def projected(m: Bound, states: Sym) -> Sym:
    """Return states of patches [B, I, T, P, V] as the language model sees them: [B·I·T, P, H]."""
    made: Sym = m.multi_modal_projector(states)
    return ops.view(made, (product(states.shape[:3]), states.shape[3], made.shape[-1]))


def _check_checkpoints(m: Bound, states: Sym, checkpointing: Checkpointing) -> None:
    """Refuse reentrant checkpoints of several layers that see states with a history: the first one's backward pass goes
    through all of it, the next one's finds it freed.
    """
    crossing = sum(CROSS in layer.parts for layer in m.language_model.layers)
    if states.requires_grad and checkpointing.kind in ("reentrant", "unsloth") and crossing > 1:
        raise UnsupportedError(
            "Reentrant checkpoints fail on images that several layers attend to: transformers goes through the tower's "
            "graph a second time.",
            "Say --checkpointing non-reentrant.",
        )


def text_model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    position_ids: Sym | None,
    past_key_values: Cache | None,
    use_cache: bool,
    seen: Seen,
) -> tuple[Sym, Cache | None]:
    """Mirror MllamaTextModel.forward."""
    tape, packed = m.tape, position_ids
    inputs_embeds = m.embed_tokens(input_ids)
    hidden_states = inputs_embeds
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(tape, [None] * len(m.layers.stacked))
    if position_ids is None:
        position_ids = ops.unary(tape.empty((inputs_embeds.shape[1],), "int64", op="arange"), "add")
        position_ids = ops.unsqueeze(position_ids, 0)
    causal_mask = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, None, packed, looks=True)
    tables = ops.rotary_tables(hidden_states, position_ids, llama.rotary_size(llama.attention(m)))
    for index, decoder_layer in enumerate(m.layers):
        tape.begin_layer(index, decoder_layer.path)
        crosses = CROSS in decoder_layer.parts
        if crosses and seen.states is None and _cached(past_key_values, index) is None:
            continue
        call = Call(decoder_layer, seen, causal_mask, position_ids, tables)
        if checkpointing.takes(index):
            hidden_states = checkpointing(tape, call, hidden_states)
        else:
            hidden_states = call(hidden_states, past_key_values, index)
        del call
    tape.end_layers()
    hidden_states = m.norm(hidden_states)
    del position_ids, inputs_embeds, causal_mask, tables
    return hidden_states, past_key_values


def _cached(past_key_values: Cache | None, index: int) -> tuple[Sym, Sym] | None:
    """Return keys and values that a layer keeps of images, None if it keeps none."""
    kept: Any = None if past_key_values is None else past_key_values.layers[index]
    return None if kept is None or kept.keys is None else (kept.keys, kept.values)


class Call:
    """partial(layer.__call__, **kwargs) as transformers hands it to checkpoint: it keeps the arguments alive, which die
    in the order in which the model's forward spells them.
    """

    def __init__(self, layer: Bound, seen: Seen, causal_mask: Sym | None, ids: Sym, tables: layers.Tables) -> None:
        self.layer = layer
        self.arguments: dict[str, Any] = {  # a dict, not attributes: instances of a class share the order of theirs
            "cross_attention_states": seen.states,
            "cross_attention_mask": seen.mask,
            "attention_mask": causal_mask,
            "full_text_row_masked_out_mask": seen.rows,
            "position_ids": ids,
            "position_embeddings": tables,
        }

    def __call__(self, hidden_states: Sym, past_key_values: Cache | None = None, index: int = 0) -> Sym:
        """Run the layer."""
        given = self.arguments
        if CROSS not in self.layer.parts:
            tables, mask = given["position_embeddings"], given["attention_mask"]
            return layers.residual(self.layer, LLAMA, hidden_states, tables, mask, past_key_values, index)
        states, mask = given["cross_attention_states"], given["cross_attention_mask"]
        rows = given["full_text_row_masked_out_mask"]
        return cross_layer(self.layer, hidden_states, states, mask, rows, past_key_values, index)


def cross_layer(
    m: Bound,
    hidden_states: Sym,
    states: Sym | None,
    mask: Sym,
    rows: Sym,
    past_key_values: Cache | None,
    index: int,
) -> Sym:
    """Mirror MllamaCrossAttentionDecoderLayer.forward."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    hidden_states, _ = cross_attention(m.cross_attn, hidden_states, states, mask, past_key_values, index)
    hidden_states = residual + ops.tanh(m.cross_attn_attn_gate) * hidden_states
    residual = hidden_states
    hidden_states = m.post_attention_layernorm(hidden_states)
    hidden_states = m.mlp(hidden_states)
    hidden_states = ops.view(rows, (*hidden_states.shape[:2], 1)) * hidden_states
    hidden_states = residual + ops.tanh(m.cross_attn_mlp_gate) * hidden_states
    return hidden_states


def cross_attention(
    m: Bound, hidden_states: Sym, states: Sym | None, mask: Sym, past_key_values: Cache | None, index: int
) -> tuple[Sym, Sym | None]:
    """Mirror MllamaTextCrossAttention.forward: keys and values of patches, or those that the cache keeps of them."""
    batch, length = hidden_states.shape[:2]
    query_states = m.q_proj(hidden_states)
    query_states = ops.transpose(ops.view(query_states, (batch, length, m.num_heads, m.head_dim)), 1, 2)
    query_states = m.q_norm(query_states)
    if states is None:
        kept = _cached(past_key_values, index)
        assert kept is not None
        key_states, value_states = kept
        del kept
    else:
        shape = (batch, product(states.shape[:2]) // batch, m.num_kv_heads, m.head_dim)
        key_states = m.k_proj(states)
        value_states = m.v_proj(states)
        key_states = ops.transpose(ops.view(key_states, shape), 1, 2)
        value_states = ops.transpose(ops.view(value_states, shape), 1, 2)
        key_states = m.k_norm(key_states)
        if past_key_values is not None:
            key_states, value_states = past_key_values.update(key_states, value_states, index)
    attn_output, attn_weights = ops.attention(query_states, key_states, value_states, mask, m.dropout)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * m.head_dim)))
    attn_output = m.o_proj(attn_output)
    return attn_output, attn_weights
