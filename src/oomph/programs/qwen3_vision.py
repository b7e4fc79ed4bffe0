"""The tower of Qwen3-VL with its local variables: learned positions between those of a grid, features of inner layers.

Source: transformers 5.23, models/qwen3_vl/modeling_qwen3_vl.py, vision_utils.py.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from functools import partial
from typing import Any

from oomph import ops
from oomph.blocks.vision_native import Qwen3Vision
from oomph.programs.qwen_vision import (
    HALVES,
    Grid,
    cumulative_lengths,
    patch_embed,
    vision_block,
    vision_position_ids,
)
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

LINEAR_FC1 = "linear_fc1"  # what Qwen3-VL calls the first map of a merger
TAPS = 2  # of a bilinear interpolation, in each direction


def interpolation(tape: Tape, grid: Grid) -> tuple[Sym, Sym]:
    """Mirror get_vision_interpolation_indices_and_weights: int64 and fp32 [T, 4], from where in a square of positions
    each patch takes its own and how much.
    """
    total = sum(grid.lengths)

    def numbers(op: str) -> Sym:
        return tape.empty((total,), "int64", op=op)

    def repeated() -> Sym:
        index = numbers("repeat_interleave")
        found = numbers("index_select")
        del index
        return found

    areas = tape.empty((grid.count,), "int64", op="mul")
    counts = tape.empty((grid.count,), "int64", op="mul")
    del areas
    heights = repeated()
    widths = repeated()
    sums = tape.empty((grid.count,), "int64", op="cumsum")
    padded = tape.empty((grid.count,), "int64", op="constant_pad_nd")
    del sums
    starts = repeated()
    del padded
    end = tape.empty((), "int64", op="sum")
    counted = numbers("arange")
    del end
    ahead = numbers("sub")
    del counted
    frames = numbers("mul")
    within = numbers("remainder")
    del ahead, frames
    blocks_w = numbers("floor_divide")
    in_col = numbers("remainder")
    in_row = _from(numbers, "floor_divide", "remainder")
    block_col = _from(numbers, "floor_divide", "remainder")
    block_row = _from(numbers, "mul", "floor_divide")
    row = _from(numbers, "mul", "add")
    col = _from(numbers, "mul", "add")
    h_taps, h_weights = _axis_taps(tape, total)
    w_taps, w_weights = _axis_taps(tape, total)
    scaled = tape.empty((total, TAPS, 1), "int64", op="mul")
    indices = tape.empty((total, TAPS * TAPS), "int64", op="add")
    del scaled
    weights = tape.empty((total, TAPS * TAPS), "fp32", op="mul")
    del counts, heights, widths, starts, within, blocks_w, in_col, in_row, block_col, block_row, row, col
    del h_taps, h_weights, w_taps, w_weights
    return indices, weights


def _from(numbers: Any, temporary: str, op: str) -> Sym:
    held = numbers(temporary)
    found: Sym = numbers(op)
    del held
    return found


def _axis_taps(tape: Tape, total: int) -> tuple[Sym, Sym]:
    """Mirror _interpolation_axis_taps_weights: int64 and fp32 [T, 2]."""
    index = tape.empty((total,), "fp32", op="_to_copy")
    scaled = tape.empty((total,), "fp32", op="mul")
    sizes = tape.empty((total,), "int64", op="sub")
    least = tape.empty((total,), "int64", op="clamp")
    del sizes
    src = tape.empty((total,), "fp32", op="div")
    del scaled, least
    floor = tape.empty((total,), "fp32", op="floor")
    offsets = tape.empty((TAPS,), "int64", op="arange")
    whole = tape.empty((total,), "int64", op="_to_copy")
    raw_taps = tape.empty((total, TAPS), "int64", op="add")
    del whole
    taps = tape.empty((total, TAPS), "int64", op="clamp")
    apart = tape.empty((total, 1), "fp32", op="sub")
    signed = tape.empty((total, TAPS), "fp32", op="sub")
    del apart
    distance = tape.empty((total, TAPS), "fp32", op="abs")
    del signed
    near = tape.empty((total, TAPS), "fp32", op="rsub")
    weights = tape.empty((total, TAPS), "fp32", op="clamp")
    del near
    del index, src, floor, offsets, raw_taps, distance
    return taps, weights


def merger(m: Bound, x: Sym, grid: Grid) -> Sym:
    """Mirror Qwen3VLVisionPatchMerger.forward: patches of a token joined before or after the norm, and mapped."""
    norm, first, second = (m[name] for name in m.names)
    width, tokens = x.shape[1] * grid.merge**2, grid.count * grid.tokens
    normed = norm(ops.view(x, (tokens, width)) if m.norm_after else x)
    x = ops.view(normed, (tokens, width))
    del normed
    hidden_states: Sym = first(x)
    if m.names[1] != LINEAR_FC1:  # Qwen3-Omni's goes through a list of layers, and holds no input
        del x
    hidden_states = ops.activate("gelu", hidden_states)
    hidden_states = second(hidden_states)
    return hidden_states


def tower(m: Bound, pixel_values: Sym, checkpointing: Checkpointing, grid: Grid) -> list[Any]:
    """Mirror Qwen3VLVisionModel.forward: features of inner layers, merged tokens, the last hidden state."""
    tape, block = m.tape, m.block
    assert isinstance(block, Qwen3Vision)
    interp_indices, interp_weights = interpolation(tape, grid)
    position_ids = vision_position_ids(tape, grid)
    cu_seqlens = cumulative_lengths(tape, grid)
    hidden_states = patch_embed(m.patch_embed.proj, pixel_values)
    pos_embeds = ops.sum_over(ops.embedding(m.pos_embed.weight, interp_indices) * ops.unsqueeze(interp_weights, 2), 1)
    hidden_states = hidden_states + ops.cast(pos_embeds, hidden_states.dtype)
    size = block.hidden_size // block.num_heads
    tables = ops.rotary_tables_2d(position_ids, size, size // 2 // HALVES)
    deep = {operator.index(layer): at for at, layer in enumerate(block.deep_layers)}
    mergers = list(m[block.deep_name])
    features: list[Sym] = []
    each = replace(checkpointing, every=1)
    for index, blk in enumerate(m.blocks):
        tape.scope = blk.path
        run = partial(vision_block, blk, cu_seqlens=cu_seqlens, tables=tables, lengths=grid.lengths)
        hidden_states = each(tape, run, hidden_states) if each.takes(index) else run(hidden_states)
        del run
        if index in deep:
            features.append(merger(mergers[deep[index]], hidden_states, grid))
    tape.scope = ""
    merged_hidden_states = merger(m.merger, hidden_states, grid)
    del interp_indices, interp_weights, position_ids, cu_seqlens, pos_embeds, tables
    return [features, merged_hidden_states, hidden_states]
