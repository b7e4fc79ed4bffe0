"""Qwen2VLForConditionalGeneration.forward, that of Qwen2.5-VL and of Qwen3-VL, with their local variables.

Their language model counts positions in time, height and width. Source: transformers 5.23,
models/qwen2_vl/modeling_qwen2_vl.py, models/qwen2_5_vl/modeling_qwen2_5_vl.py, models/qwen3_vl/modeling_qwen3_vl.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.programs import llama
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frames import FRAMES, Frame
from oomph.programs.llava import sliding_windows
from oomph.programs.towers import tower_buffers, updated
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

__all__ = ["buffers", "causal_lm", "sliding_windows", "updated"]


def buffers(m: Bound) -> list[Sym]:
    """Return the tower's buffers, then the language model's."""
    return [*tower_buffers(m.model.visual), *llama.model_buffers(m.model.language_model)]


def text_model(
    m: Bound,
    checkpointing: Checkpointing,
    frame: Frame,
    attention_mask: Sym | None,
    position_ids: Sym | None,
    past_key_values: Cache | None,
    inputs_embeds: Sym,
    use_cache: bool,
) -> tuple[Sym, Cache | None]:
    """Mirror Qwen2_5_VLTextModel.forward, or Qwen3VLTextModel's, whose masks are told positions: the last hidden state
    [B, S, H] and the cache.

    position_ids [B, S] of a caller that packs; from them or a count [3, B, S] are made.
    """
    tape, windows = m.tape, llama.windows_of(m)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(tape, windows)
    batch, length = inputs_embeds.shape[:2]
    packed = position_ids if frame.packs else None
    if position_ids is None:
        position_ids = ops.unary(tape.empty((length,), "int64", op="arange"), "add")
    text_position_ids = position_ids if frame.packs else None
    causal_masks = {
        window: ops.causal_mask(inputs_embeds, attention_mask, past_key_values, window, packed, looks=frame.packs)
        for window in llama.mask_order(windows, frame)
    }
    if frame.masks == "one":
        attention_mask = causal_masks.pop(None)  # an argument dies before locals
    hidden_states = inputs_embeds
    grid = Sym((3, batch, length), "int64", position_ids.strides, position_ids.storage)
    size = llama.rotary_size(llama.attention(m))
    tables = ops.rotary_tables_3d(hidden_states, grid, size, frame.tables == "interleaved")
    del grid

    for index, layer in enumerate(m.layers):
        tape.begin_layer(index, layer.path)
        mask = causal_masks.get(windows[index], attention_mask)
        if checkpointing.takes(index):
            call = llama.Call(layer, frame, tables, mask, text_position_ids)
            layer_outputs = checkpointing(tape, call, hidden_states)
            del call
        else:
            layer_outputs = frame.layer(layer, frame, hidden_states, tables, mask, past_key_values, index)
        hidden_states = layer_outputs
        if not frame.ids_first:
            del layer_outputs  # a local of Qwen3-VL's alone
        del mask
    tape.end_layers()
    hidden_states = m.norm(hidden_states)
    return hidden_states, past_key_values


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
    """Mirror Qwen2_5_VLForConditionalGeneration.forward: loss, logits and cache; `model_type` is the text model's."""
    language_model = m.model.language_model
    inputs_embeds = language_model.embed_tokens(input_ids)
    hidden_states, past_key_values = text_model(
        language_model, checkpointing, FRAMES[model_type], attention_mask, position_ids, past_key_values,
        inputs_embeds, use_cache,
    )  # fmt: skip
    del inputs_embeds
    table = language_model.embed_tokens.weight
    loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, logits_to_keep)
    return loss, logits, past_key_values
