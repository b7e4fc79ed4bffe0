"""Pixtral's tower with its local variables, and the features that LLaVA's and Mistral 3's classes make of its states.

All images of a batch are one sequence, whose mask keeps them apart. Source: transformers 5.23,
models/pixtral/modeling_pixtral.py, models/llava/modeling_llava.py, models/mistral3/modeling_mistral3.py.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.blocks.vision_native import PixtralVision
from oomph.families.multimodal import FeatureProjector
from oomph.images import fitted
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

AXES = 2  # rows and columns
Tables = tuple[Sym, Sym]


@dataclass(frozen=True)
class Grid:
    """The images of a batch: how many, and how many tokens a side, each of `merge` patches a side."""

    count: int
    rows: int
    columns: int
    merge: int

    @property
    def height(self) -> int:
        """Patches from top to bottom."""
        return self.rows * self.merge

    @property
    def width(self) -> int:
        """Patches from left to right."""
        return self.columns * self.merge

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return self.height * self.width

    @property
    def tokens(self) -> int:
        """Tokens of an image that are features of it."""
        return self.rows * self.columns

    @property
    def places(self) -> int:
        """Tokens that an image takes up: its processor ends each row with one more."""
        return self.rows * (self.columns + 1)


def grid_of(m: Bound, count: int) -> Grid:
    """Return how the images of a batch are cut up, of a model with a tower and a projector."""
    block, merge = m.vision_tower.block, operator.index(m.multi_modal_projector.block.merge)
    step = operator.index(block.patch_size) * merge
    return Grid(count, *fitted(m.tape.image_size, operator.index(block.image_size), step), merge)


def inputs_of_sizes(m: Bound, job: TrainJob | InferJob) -> Shapes:
    """Return shapes and dtypes of what PixtralProcessor makes beside the tokens."""
    block, count = m.vision_tower.block, operator.index(job.batch * job.images)
    grid = grid_of(m, count)
    sides = (grid.height * block.patch_size, grid.width * block.patch_size)
    return {"pixel_values": ((count, block.num_channels, *sides), "fp32"), "image_sizes": ((count, AXES), "int64")}


def image_features(m: Bound, pixel_values: Sym, checkpointing: Checkpointing, grid: Grid) -> list[Any]:
    """Mirror LlavaModel.get_image_features, or Mistral3Model's: the tower's outputs, with each image's features [T, H]
    as pooled.
    """
    projector = m.multi_modal_projector
    outputs = tower(m.vision_tower, pixel_values, checkpointing, grid, operator.index(projector.block.layer))
    if "norm" in projector.parts:
        image_features = merged_features(projector, ops.view(outputs[2], outputs[2].shape[1:]), grid)
    else:
        image_features = two_maps(projector, outputs[2])
        image_features = ops.view(image_features, image_features.shape[1:])
    sizes = m.tape.empty((grid.count, AXES), "int64", op="floor_divide")
    tokens = m.tape.empty((grid.count,), "int64", op="prod")
    del sizes, tokens
    outputs[1] = ops.split_axis(image_features, 0, [grid.tokens] * grid.count)
    return outputs


def two_maps(m: Bound, features: Sym) -> Sym:
    """Mirror LlavaMultiModalProjector.forward."""
    block = m.block
    assert isinstance(block, FeatureProjector)
    hidden_states: Sym = m.linear_1(features)
    hidden_states = ops.activate(block.activation, hidden_states)
    hidden_states = m.linear_2(hidden_states)
    return hidden_states


def merged_features(m: Bound, image_features: Sym, grid: Grid) -> Sym:
    """Mirror Mistral3MultiModalProjector.forward."""
    image_features = m.norm(image_features)
    image_features = patch_merger(m["patch_merger.merging_layer"], image_features, grid)
    return two_maps(m, image_features)


def patch_merger(merging_layer: Bound, image_features: Sym, grid: Grid) -> Sym:
    """Mirror Mistral3PatchMerger.forward: squares of patches side by side, and mapped to one's width."""
    tape, d = merging_layer.tape, image_features.shape[-1]
    image_sizes = [(_number(tape, "floor_divide"), _number(tape, "floor_divide")) for _ in range(grid.count)]
    tokens_per_image = [_number(tape, "mul") for _ in image_sizes]
    permuted_tensor: list[Sym] = []
    for index, image_tokens in enumerate(ops.split_axis(image_features, 0, [grid.patches] * grid.count)):
        h, w = image_sizes[index]
        image_grid = ops.permute(ops.view(image_tokens, (grid.height, grid.width, d)), (2, 0, 1))
        image_grid = ops.unsqueeze(image_grid, 0)
        unfolded = ops.squares(image_grid, grid.merge)
        unfolded = ops.transpose(ops.view(unfolded, (d * grid.merge**2, grid.tokens)), 0, 1)
        permuted_tensor.append(unfolded)
    image_features = ops.cat(permuted_tensor, 0)
    image_features = merging_layer(image_features)
    del image_sizes, tokens_per_image, permuted_tensor, image_tokens, h, w, image_grid, unfolded
    return image_features


def _number(tape: Tape, op: str) -> Sym:
    return tape.empty((), "int64", op=op)


def tower(m: Bound, pixel_values: Sym, checkpointing: Checkpointing, grid: Grid, captured: int) -> list[Any]:
    """Mirror PixtralVisionModel.forward: an output that dies from its end, of nothing, a place for features, the state
    of layer `captured`, counted from the last (1), and the last state [1, T, H].
    """
    tape, block, weight = m.tape, m.block, m.patch_conv.weight
    assert isinstance(block, PixtralVision)
    sides = (grid.height, grid.width)
    patch_embeds = ops.conv_patches(ops.cast(pixel_values, weight.dtype), weight, None, sides)
    if tape.inputs_train:
        patch_embeds.requires_grad = True
    patch_embeds_list = [_cut(tape, embed, sides) for embed in ops.unbind(patch_embeds, 0, grid.count)]
    patch_embeds = ops.cat([_flat(each, grid.patches) for each in patch_embeds_list], 0)
    patch_embeds = ops.unsqueeze(patch_embeds, 0)
    patch_embeds = m.ln_pre(patch_embeds)
    position_ids, counted = _positions(tape, grid)
    patch = patch_embeds_list[-1]  # the variable of a loop over them
    size = block.hidden_size // block.num_heads
    position_embeddings = ops.rotary_tables_2d(position_ids, size, size // AXES, patch_embeds.dtype)
    attention_mask = _block_mask(patch_embeds, grid)
    outputs = transformer(m.transformer, patch_embeds, attention_mask, position_embeddings, checkpointing, captured)
    del patch_embeds, patch_embeds_list, position_ids, patch, counted, position_embeddings, attention_mask
    return outputs


def _cut(tape: Tape, embed: Sym, sides: tuple[int, int]) -> Sym:
    """Mirror embed[..., : size[0] // patch_size, : size[1] // patch_size] of what is as large as that."""
    rows, columns = _number(tape, "floor_divide"), _number(tape, "floor_divide")
    found = ops.part(embed, 0, sides[1])
    del columns, rows  # as a tuple dies
    return found


def _flat(embed: Sym, patches: int) -> Sym:
    return ops.transpose(ops.view(embed, (embed.shape[0], patches)), 0, 1)


def _positions(tape: Tape, grid: Grid) -> tuple[Sym, list[Sym]]:
    """Return rows and columns of all patches, int64 [T, 2], and what the last image's were counted with, from its end:
    variables of the tower's frame.
    """
    made: list[Sym] = []
    for _ in range(grid.count):
        hpos_ids, wpos_ids = (tape.empty((side,), "int64", op="arange") for side in (grid.height, grid.width))
        rows, columns = (tape.empty((grid.patches,), "int64", op="clone") for _ in range(AXES))
        made.append(tape.empty((grid.patches, AXES), "int64", op="stack"))
        del columns, rows  # as a tuple dies
    position_ids = tape.empty((grid.count * grid.patches, AXES), "int64", op="cat")
    del made
    return position_ids, [wpos_ids, hpos_ids]


def _block_mask(x: Sym, grid: Grid) -> Sym:
    """Mirror generate_block_attention_mask: [1, 1, T, T], each image by itself."""
    total = grid.count * grid.patches
    causal_mask = x.tape.empty((total, total), x.dtype, op="full")
    if x.tape.on != "gpu":  # which is told a number that is written by indexing
        for _ in range(grid.count):
            x.tape.empty((), x.dtype, op="lift_fresh")
    return ops.view(causal_mask, (1, 1, total, total))


def transformer(
    m: Bound, inputs_embeds: Sym, attention_mask: Sym, tables: Tables, checkpointing: Checkpointing, captured: int
) -> list[Any]:
    """Mirror PixtralTransformer.forward."""
    hidden_states = kept = inputs_embeds
    layers, each = list(m.layers), replace(checkpointing, every=1)
    for index, encoder_layer in enumerate(layers):
        m.tape.scope = encoder_layer.path
        run = partial(layer, encoder_layer, tables=tables)
        if each.takes(index):
            hidden_states = each(m.tape, run, hidden_states, attention_mask)
        else:
            hidden_states = run(hidden_states, attention_mask)
        del run
        if index == len(layers) - captured:
            kept = hidden_states
    m.tape.scope = ""
    return [None, None, kept, hidden_states]


def layer(m: Bound, hidden_states: Sym, attention_mask: Sym, *, tables: Tables) -> Sym:
    """Mirror PixtralAttentionLayer.forward."""
    residual = hidden_states
    hidden_states = m.attention_norm(hidden_states)
    hidden_states, _ = attention(m.attention, hidden_states, attention_mask, tables)
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.ffn_norm(hidden_states)
    hidden_states = m.feed_forward(hidden_states)
    hidden_states = residual + hidden_states
    return hidden_states


def attention(m: Bound, hidden_states: Sym, attention_mask: Sym, tables: Tables) -> tuple[Sym, Sym | None]:
    """Mirror PixtralAttention.forward."""
    batch, patches, width = hidden_states.shape
    shape = (batch, patches, m.num_heads, m.head_dim)
    query_states = m.q_proj(hidden_states)
    key_states = m.k_proj(hidden_states)
    value_states = m.v_proj(hidden_states)
    query_states = ops.transpose(ops.view(query_states, shape), 1, 2)
    key_states = ops.transpose(ops.view(key_states, shape), 1, 2)
    value_states = ops.transpose(ops.view(value_states, shape), 1, 2)
    cos, sin = (ops.unsqueeze(each, 0) for each in tables)
    query_states, key_states = ops.apply_rotary(query_states, key_states, cos, sin)
    attn_output, attn_weights = ops.attention(query_states, key_states, value_states, attention_mask, m.dropout)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, patches, width)))
    attn_output = m.o_proj(attn_output)
    return attn_output, attn_weights
