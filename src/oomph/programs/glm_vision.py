"""The tower of GLM-4V and its kin with its local variables: positions sampled from a square, patches merged by a
strided convolution.

Source: transformers 5.23, models/glm4v/modeling_glm4v.py, models/glm4v_moe/modeling_glm4v_moe.py, vision_utils.py.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from functools import partial

from oomph import ops
from oomph.blocks.vision_native import GlmVision
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


def tower(m: Bound, pixel_values: Sym, checkpointing: Checkpointing, grid: Grid) -> list[Sym]:
    """Mirror Glm4vVisionModel.forward: merged tokens, what the convolution gave."""
    tape, block = m.tape, m.block
    assert isinstance(block, GlmVision)
    position_ids = vision_position_ids(tape, grid)
    cu_seqlens = cumulative_lengths(tape, grid)
    hidden_states = patch_embed(m.patch_embed.proj, pixel_values)
    hidden_states = m.post_conv_layernorm(hidden_states)
    size = block.hidden_size // block.num_heads
    tables = ops.rotary_tables_2d(position_ids, size, size // 2 // HALVES)
    seqlens = tape.empty((grid.count,), "int32", op="sub")
    hidden_states = embeddings(m.embeddings.position_embedding.weight, hidden_states, grid)
    each = replace(checkpointing, every=1)
    for index, blk in enumerate(m.blocks):
        tape.scope = blk.path
        run = partial(vision_block, blk, cu_seqlens=cu_seqlens, tables=tables, lengths=grid.lengths)
        hidden_states = each(tape, run, hidden_states) if each.takes(index) else run(hidden_states)
        del run
    tape.scope = ""
    hidden_states = m.post_layernorm(hidden_states)
    tokens, merge, hidden = grid.count * grid.tokens, grid.merge, hidden_states.shape[-1]
    hidden_states = ops.view(hidden_states, (tokens, merge, merge, hidden))
    hidden_states = ops.permute(hidden_states, (0, 3, 1, 2))
    joined = ops.conv_patches(hidden_states, m.downsample.weight, m.downsample.bias, (1, 1))
    hidden_states = ops.view(joined, (tokens, joined.shape[1]))
    del joined
    merged_hidden_states = merger(m.merger, hidden_states)
    del position_ids, cu_seqlens, tables, seqlens
    return [merged_hidden_states, hidden_states]


def embeddings(pos_embed_weight: Sym, patches: Sym, grid: Grid) -> Sym:
    """Mirror Glm4vVisionEmbeddings.forward: to each patch [T, H] a position between those of a square [S · S, H]."""
    tape, total = patches.tape, patches.shape[0]
    positions, hidden = pos_embed_weight.shape
    side = round(operator.index(positions) ** 0.5)
    square = ops.unsqueeze(ops.permute(ops.view(pos_embed_weight, (side, side, hidden)), (2, 0, 1)), 0)
    pos_embed_2d = ops.cast(square, "fp32")
    del square
    token_positions = tape.empty((total,), "int64", op="arange")
    ends = tape.empty((grid.count,), "int64", op="cumsum")
    behind = tape.empty((grid.count, total), "bool", op="ge")
    del ends
    seq_ids = tape.empty((total,), "int64", op="sum")
    del behind
    targets = [_side(tape, total) for _ in range(HALVES)]
    normed = [_normed(tape, total) for _ in range(HALVES)]
    places = tape.empty((total, HALVES), "fp32", op="stack")
    interpolated = ops.sampled(pos_embed_2d, places)
    adapted = ops.permute(interpolated, (1, 0))
    adapted = ops.cast(adapted, pos_embed_weight.dtype)
    patches = patches + adapted
    del pos_embed_2d, token_positions, seq_ids
    for made in (targets, normed):
        made.reverse()
        made.clear()  # dies from the end
    del places, interpolated
    return patches


def _side(tape: Tape, total: int) -> Sym:
    picked = tape.empty((total,), "int64", op="index")
    found = tape.empty((total,), "fp32", op="_to_copy")
    del picked
    return found


def _normed(tape: Tape, total: int) -> Sym:
    """Mirror ((coords + 0.5) / target) * 2 - 1."""
    value = tape.empty((total,), "fp32", op="add")
    for op in ("div", "mul", "sub"):
        value = tape.empty((total,), "fp32", op=op)
    return value


def merger(m: Bound, hidden_state: Sym) -> Sym:
    """Mirror Glm4vVisionPatchMerger.forward."""
    hidden_state = m.proj(hidden_state)
    hidden_state = ops.activate("gelu", m.post_projection_norm(hidden_state))
    merged: Sym = m.down_proj(ops.activate("silu", m.gate_proj(hidden_state)) * m.up_proj(hidden_state))
    return merged
