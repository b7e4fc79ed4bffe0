"""The towers of Qwen2-VL and Qwen2.5-VL with their local variables.

Source: transformers 5.23, models/qwen2_vl/modeling_qwen2_vl.py, models/qwen2_5_vl/modeling_qwen2_5_vl.py,
vision_utils.py.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from oomph import ops
from oomph.blocks.vision_native import GlmVision, Qwen3Vision, QwenVision
from oomph.images import QWEN2_PIXELS, QWEN3_PIXELS, glm_patches, patches
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

HALVES = 2  # of a head's channels: rows and columns


@dataclass(frozen=True)
class Grid:
    """The images of a batch: how many, and how many patches a side; `merge` patches a side become one token."""

    count: int
    rows: int
    columns: int
    merge: int

    @property
    def lengths(self) -> tuple[int, ...]:
        """Patches of each image."""
        return (self.rows * self.columns,) * self.count

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return self.rows * self.columns // self.merge**2

    def windows(self, side: int) -> tuple[int, ...]:
        """Patches of each window of `side` tokens a side, image by image; those at the edge are smaller.

        >>> Grid(1, 6, 10, 2).windows(2)
        (16, 16, 8, 8, 8, 4)
        """
        down, across = (_pieces(each // self.merge, side) for each in (self.rows, self.columns))
        return tuple(a * b * self.merge**2 for a in down for b in across) * self.count


def _pieces(length: int, size: int) -> list[int]:
    return [min(size, length - start) for start in range(0, length, size)]


def grid_of(block: QwenVision | Qwen3Vision | GlmVision, tape: Tape, count: int) -> Grid:
    """Return how a batch's images are cut up."""
    if isinstance(block, GlmVision):
        merge = operator.index(block.merge)
        return Grid(count, *glm_patches(tape.image_size, operator.index(block.patch_size), merge), merge)
    merge, newer = operator.index(block.merge), isinstance(block, Qwen3Vision) and not block.of_omni
    bounds = QWEN3_PIXELS if newer else QWEN2_PIXELS
    return Grid(count, *patches(tape.image_size, operator.index(block.patch_size), merge, bounds), merge)


def vision_position_ids(tape: Tape, grid: Grid) -> Sym:
    """Mirror get_vision_position_ids: int64 [T, 2]."""
    total = grid.rows * grid.columns
    spatial_merge_size = tape.empty((1,), "int64", op="lift_fresh")
    position_ids: list[Sym] = []
    for _ in range(grid.count):
        hpos_ids, wpos_ids = (tape.empty((side,), "int64", op="arange") for side in (grid.rows, grid.columns))
        hpos_ids = tape.empty((total,), "int64", op="clone")
        wpos_ids = tape.empty((total,), "int64", op="clone")
        stacked = tape.empty((total, HALVES), "int64", op="stack")
        position_ids.append(tape.empty((total, HALVES), "int64", op="repeat"))
        del stacked
    found = tape.empty((grid.count * total, HALVES), "int64", op="cat")
    del spatial_merge_size
    del position_ids
    del hpos_ids, wpos_ids
    return found


def cumulative_lengths(tape: Tape, grid: Grid) -> Sym:
    """Mirror get_vision_cu_seqlens: int32 [images + 1]."""
    areas = tape.empty((grid.count,), "int64", op="mul")
    repeats = tape.empty((grid.count,), "int64", op="repeat_interleave")
    seqlens = tape.empty((grid.count,), "int64", op="index_select")
    del repeats, areas
    lengths = tape.empty((grid.count,), "int32", op="cumsum")
    cu_seqlens = tape.empty((grid.count + 1,), "int32", op="constant_pad_nd")
    del lengths, seqlens
    return cu_seqlens


def window_index(tape: Tape, grid: Grid, side: int) -> tuple[Sym, Sym]:
    """Mirror get_vision_window_index: an order of tokens int64 [T / merge²], and where windows end, int32.

    On a GPU all but the latter is made in host memory; it is played there too: a few bytes for each token.
    """
    tokens, down, across = grid.tokens, *(each // grid.merge // side + 1 for each in (grid.rows, grid.columns))
    cells, boxes = (down * across * side**2,), (down * across,)
    order: list[Sym] = []
    for _ in range(grid.count):
        index = tape.empty((tokens,), "int64", op="arange")
        index_padded = tape.empty(cells, "int64", op="constant_pad_nd")
        index_padded = tape.empty(cells, "int64", op="clone")
        seqlens = _made_from(tape, (cells, "bool", "ne"), (boxes, "int64", "sum"))
        index_new = _made_from(tape, (cells, "bool", "ne"), ((tokens,), "int64", "index"))
        order.append(tape.empty((tokens,), "int64", op="add"))
        cu_seqlens_tmp = _scaled_sums(tape, boxes)
    found = tape.empty((grid.count * tokens,), "int64", op="cat")
    del order
    listed = tape.empty((grid.count * down * across + 1,), "int32", op="lift_fresh")
    cu_window_seqlens = tape.empty((len(grid.windows(side)) + 1,), "int32", op="unique_consecutive")
    del listed
    del index, index_padded, seqlens, index_new, cu_seqlens_tmp
    return found, cu_window_seqlens


def _made_from(tape: Tape, between: tuple[Any, str, str], found: tuple[Any, str, str]) -> Sym:
    """Return a tensor made from another that dies; each by shape, dtype and operation."""
    temporary = tape.empty(*between)
    made = tape.empty(*found)
    del temporary
    return made


def _scaled_sums(tape: Tape, shape: tuple[int, ...]) -> Sym:
    scaled = _made_from(tape, (shape, "int64", "cumsum"), (shape, "int64", "mul"))
    sums = tape.empty(shape, "int64", op="add")
    del scaled
    return sums


def attention(m: Bound, hidden_states: Sym, tables: tuple[Sym, Sym], lengths: Sequence[int]) -> Sym:
    """Mirror VisionAttention.__call__, which holds what it is given."""
    attn_output: Sym = _attention(m, hidden_states, tables, lengths)
    return attn_output


def _attention(m: Bound, hidden_states: Sym, tables: tuple[Sym, Sym], lengths: Sequence[int]) -> Any:
    """Mirror VisionAttention.forward, or Qwen2_5_VLVisionAttention's: images or windows attend to themselves, one by
    one; returns [T, H].
    """
    tape, total = m.tape, hidden_states.shape[0]
    heads, size = m.num_heads, m.head_dim
    if "qkv" in m.parts:
        fused = ops.transpose(ops.view(m.qkv(hidden_states), (total, 3, heads, size)), 0, 1)
        query_states, key_states, value_states = ops.unbind(fused, 0, 3)
        del fused
    else:  # of Qwen2.5-Omni
        query_states, key_states, value_states = (
            ops.view(each(hidden_states), (total, heads, size)) for each in (m.q, m.k, m.v)
        )
    cos, sin = tables
    query_states, key_states = ops.rotary_vision(query_states, key_states, cos, sin)
    query_states = ops.unsqueeze(ops.transpose(query_states, 0, 1), 0)
    key_states = ops.unsqueeze(ops.transpose(key_states, 0, 1), 0)
    value_states = ops.unsqueeze(ops.transpose(value_states, 0, 1), 0)
    differences = tape.empty((len(lengths),), "int32", op="sub")
    # As in the class: what a comprehension reads outlives, up to Python 3.11, the variables of its function.
    splits = [ops.split_axis(each, 2, read(differences, lengths)) for each in (query_states, key_states, value_states)]
    attn_outputs = [ops.full_attention(q, k, v, 0.0)[0] for q, k, v in zip(*splits)]  # noqa: B905
    attn_output = ops.cat(attn_outputs, 1)
    attn_output = ops.contiguous(ops.view(attn_output, (total, heads * size)))
    attn_output = m.proj(attn_output)
    return attn_output


def read(tensor: Sym, numbers: Sequence[int]) -> Sequence[int]:
    """Return the numbers that a tensor holds, as tolist() does."""
    return numbers


def vision_block(
    m: Bound, hidden_states: Sym, *, cu_seqlens: Sym, tables: tuple[Sym, Sym], lengths: Sequence[int]
) -> Sym:
    """Mirror Qwen2VLVisionBlock.forward; `lengths` are what lies between `cu_seqlens`."""
    hidden_states = hidden_states + attention(m.attn, m.norm1(hidden_states), tables, lengths)
    hidden_states = hidden_states + m.mlp(m.norm2(hidden_states))
    return hidden_states


def merger(m: Bound, x: Sym, grid: Grid) -> Sym:
    """Mirror PatchMerger.forward: patches of a token joined, and mapped to the language model's width."""
    width = x.shape[1] * grid.merge**2
    joined = ops.view(m.ln_q(x), (grid.count * grid.tokens, width))  # held by the call of the two maps
    first, second = m.mlp["0"], m.mlp["2"]
    hidden_states: Sym = first(joined)
    hidden_states = ops.activate("gelu", hidden_states)
    hidden_states = second(hidden_states)
    del joined
    return hidden_states


def tower(m: Bound, pixel_values: Sym, checkpointing: Checkpointing, grid: Grid) -> list[Sym]:
    """Mirror Qwen2VisionTransformerPretrainedModel.forward or Qwen2.5-VL's: merged tokens, the last hidden state."""
    tape, block = m.tape, m.block
    assert isinstance(block, QwenVision)
    position_ids = vision_position_ids(tape, grid)
    cu_seqlens = cumulative_lengths(tape, grid)
    windows, order, ends = grid.lengths, None, None
    if block.window:
        side = operator.index(block.window // block.merge // block.patch_size)
        order, ends = window_index(tape, grid, side)
        windows = grid.windows(side)
    hidden_states = patch_embed(m.patch_embed.proj, pixel_values)
    if tape.inputs_train:
        hidden_states.requires_grad = True
    early = len(block.qkv) > 1  # in Qwen2.5-Omni the order back is made first
    if order is not None:
        if early:
            reverse_indices = ops.sorted_order(order)
        hidden_states = ops.in_order(hidden_states, order, grid.merge**2)
    size = block.hidden_size // block.num_heads
    tables = ops.rotary_tables_2d(position_ids, size, size // 2 // HALVES)
    if order is not None:
        cos, sin = (ops.in_order(each, order, grid.merge**2) for each in tables)
        tables = (cos, sin)
        del cos, sin
    full = {operator.index(layer) for layer in block.full_layers}
    each = replace(checkpointing, every=1)
    for index, blk in enumerate(m.blocks):
        tape.scope = blk.path
        now, lengths = (cu_seqlens, grid.lengths) if ends is None or index in full else (ends, windows)
        run = partial(vision_block, blk, cu_seqlens=now, tables=tables, lengths=lengths)
        hidden_states = each(tape, run, hidden_states) if each.takes(index) else run(hidden_states)
        del run
    tape.scope = ""
    if order is None:
        del now  # a local of Qwen2.5-VL's alone
    elif not early:
        reverse_indices = ops.sorted_order(order)
    merged_hidden_states = merger(m.merger, hidden_states, grid)
    if order is not None:
        merged_hidden_states = ops.in_order(merged_hidden_states, reverse_indices, 1)
    del position_ids, cu_seqlens, ends
    if early:
        del reverse_indices
    del tables
    if order is not None:
        del now
        if not early:
            del reverse_indices
    del order  # what a generator reads outlives the others
    return [merged_hidden_states, hidden_states]


def patch_embed(m: Bound, pixel_values: Sym) -> Sym:
    """Mirror PatchEmbed.forward: patches [T, C·2·P·P] as [T, H]."""
    weight, total = m.weight, pixel_values.shape[0]
    x = ops.view(pixel_values, (total, *weight.shape[1:]))
    hidden_states = ops.conv_patches(ops.cast(x, weight.dtype), weight, m.bias, (1, 1, 1))
    return ops.view(hidden_states, (total, weight.shape[0]))
