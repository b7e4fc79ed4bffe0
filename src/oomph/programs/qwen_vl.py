"""Qwen2VLForConditionalGeneration.forward, that of Qwen2.5-VL and of Qwen3-VL, with their local variables.

Their language model counts positions in time, height and width. Source: transformers 5.23,
models/qwen2_vl/modeling_qwen2_vl.py, models/qwen2_5_vl/modeling_qwen2_5_vl.py, models/qwen3_vl/modeling_qwen3_vl.py.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from oomph import ops
from oomph.blocks.vision_native import GlmVision, Qwen3Vision, QwenVision
from oomph.job import InferJob, TrainJob
from oomph.ops.fused_head import take_where
from oomph.programs import glm_vision, llama, qwen3_vision, qwen_vision, towers
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frames import FRAMES, Frame
from oomph.programs.llava import sliding_windows
from oomph.programs.qwen_vision import Grid, grid_of
from oomph.programs.towers import Images, check_room, tower_buffers
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes, Size, product
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

__all__ = ["buffers", "causal_lm", "inputs_of_images", "leave_behind", "sliding_windows", "updated"]


def buffers(m: Bound) -> list[Sym]:
    """Return the tower's buffers, then the language model's."""
    return [*tower_buffers(m.model.visual), *llama.model_buffers(m.model.language_model)]


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient: in reentrant checkpoints of Qwen3-VL's tower, or
    GLM-4V's, none where nothing before them trains. Its class names no input embeddings, to whose output PEFT would
    hang a gradient.
    """
    found, path = towers.updated(m, parameters), m.model.visual.path
    inputs = tuple(f"{path}.{name}." for name in ("patch_embed", "pos_embed", "post_conv_layernorm", "embeddings"))
    if not m.tape.reentrant or isinstance(m.model.visual.block, QwenVision):
        return found
    if any(one.made_for.startswith(inputs) for one in found):
        return found
    return [one for one in found if not one.made_for.startswith(f"{path}.blocks.")]


def text_model(
    m: Bound,
    checkpointing: Checkpointing,
    frame: Frame,
    attention_mask: Sym | None,
    position_ids: Sym | None,
    past_key_values: Cache | None,
    inputs_embeds: Sym,
    use_cache: bool,
    visual_pos_masks: Sym | None = None,
    deepstack_visual_embeds: Sequence[Sym] = (),
) -> tuple[Sym, Cache | None]:
    """Mirror Qwen2_5_VLTextModel.forward, or Qwen3VLTextModel's, whose masks are told positions: the last hidden state
    [B, S, H] and the cache.

    position_ids [B, S] of a caller that packs; from them or a count [3, B, S] are made.
    """
    tape, windows = m.tape, llama.windows_of(m)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(tape, windows)
    batch, length = inputs_embeds.shape[:2]
    images = position_ids is not None and len(position_ids.shape) == 3
    told = frame.packs and not images  # whether masks are told positions
    packed = position_ids if told else None
    if position_ids is None:
        position_ids = ops.unary(tape.empty((length,), "int64", op="arange"), "add")
    text_position_ids = position_ids if told else None
    causal_masks = {
        window: ops.causal_mask(inputs_embeds, attention_mask, past_key_values, window, packed, looks=told)
        for window in llama.mask_order(windows, frame)
    }
    if frame.masks == "one":
        attention_mask = causal_masks.pop(None)  # an argument dies before locals
    hidden_states = inputs_embeds
    grid = position_ids if images else Sym((3, batch, length), "int64", position_ids.strides, position_ids.storage)
    size = llama.rotary_size(llama.attention(m))
    tables = ops.rotary_tables_3d(hidden_states, grid, size, frame.tables == "interleaved")
    del grid

    for index, layer in enumerate(m.layers):
        tape.begin_layer(index, layer.path)
        mask = causal_masks.get(windows[index], attention_mask)
        if checkpointing.takes(index):
            call = llama.Call(layer, frame, tables, mask, position_ids if frame.hands_positions else text_position_ids)
            layer_outputs = checkpointing(tape, call, hidden_states)
            del call
        else:
            layer_outputs = frame.layer(layer, frame, hidden_states, tables, mask, past_key_values, index)
        hidden_states = layer_outputs
        if not frame.ids_first:
            del layer_outputs  # a local of Qwen3-VL's alone
        if visual_pos_masks is not None and index < len(deepstack_visual_embeds):
            hidden_states = deepstack(hidden_states, visual_pos_masks, deepstack_visual_embeds[index])
        del mask
    tape.end_layers()
    hidden_states = m.norm(hidden_states)
    return hidden_states, past_key_values


def inputs_of_images(m: Bound, job: TrainJob | InferJob) -> Shapes:
    """Return what a batch has of images: all their patches, how many rows and columns, and which tokens are theirs."""
    tower, count = m.model.visual, operator.index(job.batch * job.images)
    patches = sum(grid_of(tower.block, m.tape, count).lengths)
    return {
        "pixel_values": ((patches, product(tower.patch_embed.proj.weight.shape[1:])), "fp32"),
        "image_grid_thw": ((count, 3), "int64"),
        "mm_token_type_ids": ((job.batch, job.seq_len), "int64"),
    }


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
    """Mirror Qwen2_5_VLForConditionalGeneration.forward: loss, logits and cache; `model_type` is the text model's."""
    tape, language_model = m.tape, m.model.language_model
    inputs_embeds = language_model.embed_tokens(input_ids)
    visual_pos_masks: Sym | None = None
    deepstack_visual_embeds: list[Sym] = []
    if images:
        grid = grid_of(m.model.visual.block, tape, images["image_grid_thw"].shape[0])
        check_room(m, input_ids.shape[1], grid.tokens)
        mm_encoder_outputs = image_features(m.model.visual, images["pixel_values"], checkpointing, grid)
        image_embeds = ops.cast(ops.cat(mm_encoder_outputs[-2], 0), inputs_embeds.dtype)
        image_mask, video_mask = ops.placeholders(input_ids, 2)
        inputs_embeds = ops.masked_scatter(inputs_embeds, image_mask, image_embeds)
        deepstack_image_embeds = mm_encoder_outputs[:-2]
        if deepstack_image_embeds:
            visual_pos_masks = ops.view(image_mask, input_ids.shape)
            deepstack_visual_embeds = [ops.cat(feat, 0) for feat in deepstack_image_embeds[0]]
        position_ids, rope_deltas = rope_index(tape, input_ids, grid, model_type)
        m.model.parts["rope_deltas"] = tape.note(rope_deltas, "kept by a module")
        del rope_deltas
    elif past_key_values is not None and "rope_deltas" in m.model.parts:
        position_ids = moved_on(tape, past_key_values, *inputs_embeds.shape[:2])
    hidden_states, past_key_values = text_model(
        language_model, checkpointing, FRAMES[model_type], attention_mask, position_ids, past_key_values,
        inputs_embeds, use_cache, visual_pos_masks, deepstack_visual_embeds,
    )  # fmt: skip
    if images:
        del position_ids, inputs_embeds, mm_encoder_outputs, image_embeds, deepstack_image_embeds, image_mask
        del video_mask, visual_pos_masks, deepstack_visual_embeds
    else:
        del position_ids, inputs_embeds
    table = language_model.embed_tokens.weight
    loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, logits_to_keep)
    return loss, logits, past_key_values


def image_features(m: Bound, pixel_values: Sym, checkpointing: Checkpointing, grid: Grid) -> list[Any]:
    """Mirror Qwen2_5_VLModel.get_image_features: features [tokens, H] of each image, the tower's last hidden state."""
    tape = m.tape
    pixel_values = ops.cast(pixel_values, m.patch_embed.proj.weight.dtype)
    outputs = TOWERS[type(m.block)](m, pixel_values, checkpointing, grid)
    sizes = tape.empty((grid.count,), "int64", op="prod")
    split_sizes = tape.empty((grid.count,), "int64", op="floor_divide")
    del sizes
    del split_sizes
    outputs[-2] = ops.split_axis(outputs[-2], 0, [grid.tokens] * grid.count)
    for at, feature in enumerate(outputs[:-2] and outputs[0]):
        outputs[0][at] = ops.split_axis(feature, 0, [grid.tokens] * grid.count)
    return outputs


TOWERS: dict[type, Callable[..., list[Any]]] = {
    QwenVision: qwen_vision.tower,
    Qwen3Vision: qwen3_vision.tower,
    GlmVision: glm_vision.tower,
}


def deepstack(hidden_states: Sym, visual_pos_masks: Sym, visual_embeds: Sym) -> Sym:
    """Mirror _deepstack_process: features of an inner layer of the tower added where the images are."""
    visual_embeds = ops.cast(visual_embeds, hidden_states.dtype)
    hidden_states = ops.clone(hidden_states)
    local_this = take_where(hidden_states, visual_pos_masks, visual_embeds.shape[0]) + visual_embeds
    hidden_states = ops.put_where(hidden_states, visual_pos_masks, local_this)
    return hidden_states


def rope_index(tape: Tape, input_ids: Sym, grid: Grid, model_type: str) -> tuple[Sym, Sym]:
    """Mirror get_rope_index: positions int64 [3, B, S] and what they are ahead of tokens, int64 [B].

    Text counts in all three, images by their rows and columns; groups of both are made one by one.
    """
    batch, length = operator.index(input_ids.shape[0]), input_ids.shape[1]
    per_row = grid.count // batch
    rows, columns = grid.rows // grid.merge, grid.columns // grid.merge
    left = length - per_row * (grid.tokens + 1)
    mrope_position_deltas: list[Sym] = []
    position_ids = tape.empty((3, batch, length), "int64", op="zeros")
    for _ in range(batch):
        current_pos: Sym | None = None
        llm_pos_ids_list: list[Sym] = []
        for image in range(per_row):
            llm_pos_ids_list.append(_text_positions(tape, 1))
            vision_position_ids = _image_positions(tape, rows, columns, model_type)
            llm_pos_ids_list.append(vision_position_ids)
            larger = tape.empty((), "bool", op="gt")
            del larger
            ahead = tape.empty((), "int64", op="floor_divide")
            if image == 0:
                current_pos = tape.empty((), "int64", op="add")
            del ahead
        llm_pos_ids_list.append(_text_positions(tape, left))
        llm_positions = tape.empty((3, length), "int64", op="cat")
        last = tape.empty((), "int64", op="max")
        after = tape.empty((), "int64", op="add")
        del last
        mrope_position_deltas.append(tape.empty((), "int64", op="sub"))
        del after
    found = tape.empty((batch,), "int64", op="lift_fresh")
    mrope_position_deltas.clear()
    del current_pos, llm_pos_ids_list, vision_position_ids, llm_positions
    return position_ids, found


def _text_positions(tape: Tape, length: Size) -> Sym:
    counted = tape.empty((length,), "int64", op="arange")
    positions = tape.empty((3, length), "int64", op="add")
    del counted
    return positions


def _image_positions(tape: Tape, rows: int, columns: int, model_type: str) -> Sym:
    """Mirror get_vision_position_ids: int64 [3, rows · columns]; all but Qwen2.5-VL multiply time by a float."""
    counted = tape.empty((1,), "int64", op="arange")
    position_temporal = tape.empty((1,), "int64" if model_type == "qwen2_5_vl_text" else "fp32", op="mul")
    del counted
    if position_temporal.dtype != "int64":
        position_temporal = tape.empty((1,), "int64", op="_to_copy")
    position_height = _moved(tape, rows)
    position_width = _moved(tape, columns)
    found = tape.empty((3, rows * columns), "int64", op="stack")
    del position_temporal, position_height, position_width
    return found


def moved_on(tape: Tape, past_key_values: Cache, batch: Size, length: Size) -> Sym:
    """Mirror compute_3d_position_ids for tokens after images: positions [3, B, S], moved by what these took."""
    if isinstance(past_key_values.seq_length(), Sym):  # counted on the device
        used = tape.empty((), "bool", op="gt")
        del used
        end = tape.empty((), "int64", op="add")
        position_ids = tape.empty((length,), "int64", op="arange")
        del end
    else:
        position_ids = tape.empty((length,), "int64", op="arange")
    delta = tape.empty((batch, 1), "int64", op="repeat_interleave")
    position_ids = tape.empty((3, batch, length), "int64", op="add")
    del delta
    return position_ids


def _moved(tape: Tape, count: int) -> Sym:
    counted = tape.empty((count,), "int64", op="arange")
    moved = tape.empty((count,), "int64", op="add")
    del counted
    return moved


def leave_behind(m: Bound, job: TrainJob) -> None:
    """Allocate what an earlier forward pass left: how far positions are ahead of tokens."""
    if job.images:
        made = m.tape.empty((job.batch,), "int64", op="lift_fresh")
        m.model.parts["rope_deltas"] = m.tape.note(made, "kept by a module")
