"""LlavaNextForConditionalGeneration.forward and LlavaOnevisionForConditionalGeneration's: LLaVA with images in tiles,
whose features are put together again, without the border around an image and with a learned vector behind each row.

Source: transformers 5.23, models/llava_next/modeling_llava_next.py, models/llava_onevision/modeling_llava_onevision.py.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.blocks.base import Block
from oomph.errors import UnsupportedError
from oomph.families.multimodal import TiledProjector
from oomph.programs import llava
from oomph.programs.llava import buffers, sliding_windows, updated
from oomph.programs.towers import Images, merged
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes
from oomph.tape.sym import Sym
from oomph.tiles import Tiles

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

__all__ = ["buffers", "causal_lm", "image_features", "inputs_of_images", "sliding_windows", "updated"]


def inputs_of_images(m: Bound, job: TrainJob | InferJob) -> Shapes:
    """Return what a batch has of images that are cut into tiles: these, how large the images are, and in
    LLaVA-OneVision how many a sequence has; of several none is cut.
    """
    block, projector = m.model.vision_tower.block, m.model.multi_modal_projector.block
    tiles, images = tiles_of(projector), job.batch * job.images
    alone = not tiles.most or job.images == 1
    rows, columns = tiles.grid(job.image_size) if alone else (0, 0)
    made: Shapes = {
        "pixel_values": ((images, rows * columns + 1, block.num_channels, tiles.side, tiles.side), "fp32"),
        "image_sizes": ((images, 2), "int64"),
    }
    if tiles.most:
        made["batch_num_images"] = ((job.batch,), "int64")
    return made


def tiles_of(projector: Block) -> Tiles:
    """Return how images are cut up; refused where that is not known."""
    if not isinstance(projector, TiledProjector) or projector.tiles is None:
        raise UnsupportedError("oomph cannot play images with this projector yet.", "Leave --images out: text alone.")
    return projector.tiles


def causal_lm(
    m: Bound,
    input_ids: Sym,
    labels: Sym | None,
    checkpointing: Checkpointing,
    model_type: str,
    images: Images | None = None,
    **options: Any,
) -> tuple[Any, ...]:
    """Mirror LlavaNextForConditionalGeneration.forward: loss, logits, cache and the images' features."""
    projector = m.model.multi_modal_projector.block
    merge = beside_videos if isinstance(projector, TiledProjector) and projector.videos else merged
    return llava.causal_lm(
        m, input_ids, labels, checkpointing, model_type, images=images, see=image_features, merge=merge, **options
    )


def image_features(m: Bound, images: Images, checkpointing: Checkpointing) -> tuple[list[Any], list[Sym]]:
    """Mirror LlavaNextModel.get_image_features: the tower's outputs, and among them each image's features [T, H]."""
    projector, tape = m.multi_modal_projector.block, m.tape
    tiles, pixel_values = tiles_of(projector), images["pixel_values"]
    count = operator.index(pixel_values.shape[0])
    cut, need_patching = True, []
    if "batch_num_images" in images:
        cut = tape.images == 1
        need_patching = [tape.empty((), "bool", op="eq") for _ in range(count)]
    rows, columns = tiles.grid(tape.image_size) if cut else (0, 0)
    image_num_patches = [rows * columns + 1] * count
    pixel_values = ops.cat(
        [ops.slice_axis(each, 0, 0, rows * columns + 1) for each in ops.unbind(pixel_values, 0, count)], 0
    )
    image_outputs, selected_image_feature = llava.selected(m, pixel_values, checkpointing)
    features = llava.projected(m.multi_modal_projector, selected_image_feature)
    packed: Any = ops.split_axis(features, 0, image_num_patches)
    del features
    packed, feature_lens = pack_image_features(packed, tiles, m.image_newline)
    llava.set_pooled(m.vision_tower, image_outputs, packed)
    del pixel_values, need_patching, selected_image_feature, feature_lens
    return image_outputs, packed


def pack_image_features(image_features: tuple[Sym, ...], tiles: Tiles, image_newline: Sym) -> tuple[list[Sym], Sym]:
    """Mirror pack_image_features: of each image the features [T, H] of the whole and of its tiles, and how many."""
    tape, size = image_newline.tape, image_newline.tape.image_size
    new_image_features: list[Sym] = []
    for image_feature in image_features:
        cut = image_feature.shape[0] != 1
        base_image_feature = ops.select(image_feature, 0)
        if cut:
            tiled = ops.slice_axis(image_feature, 0, 1, image_feature.shape[0])
            image_feature = spread(tiled, tiles, size)
            del tiled
            image_feature = with_ends(image_feature, image_newline)
            image_feature = ops.transpose(flattened(image_feature), 0, 1)
            image_feature = ops.cat((base_image_feature, image_feature), 0)
        else:
            image_feature = base_image_feature
            end = ops.cast(ops.unsqueeze(image_newline, 0), image_feature.dtype)
            image_feature = ops.cat((image_feature, end), 0)
            del end
        new_image_features.append(image_feature)
    feature_lens = tape.empty((len(image_features),), "int64", op="lift_fresh")
    return new_image_features, feature_lens


def spread(image_feature: Sym, tiles: Tiles, image_size: str) -> Sym:
    """Return features of tiles [N, P · P, H] as one picture of them [H, rows, columns], without what is border."""
    side, hidden = tiles.patches, image_feature.shape[-1]
    down, across = tiles.grid(image_size)
    rows, columns = tiles.kept(image_size)
    image_feature = ops.view(image_feature, (down, across, side, side, hidden))
    image_feature = ops.contiguous(ops.permute(image_feature, (4, 0, 2, 1, 3)))
    image_feature = ops.view(image_feature, (hidden, down * side, across, side))
    image_feature = ops.view(image_feature, (hidden, down * side, across * side))
    if rows < down * side:
        image_feature = ops.slice_axis(image_feature, 1, 0, rows)
    elif columns < across * side:
        image_feature = ops.slice_axis(image_feature, 2, 0, columns)
    if shape := tiles.shrunk(image_size):
        image_feature = ops.unsqueeze(image_feature, 0)
        image_feature = ops.select(ops.interpolated(image_feature, shape), 0)
    return image_feature


def with_ends(image_feature: Sym, image_newline: Sym) -> Sym:
    """Return features [H, rows, columns] with the vector [H] that ends a row behind each: [H, rows, columns + 1]."""
    column = ops.unsqueeze(ops.unsqueeze(image_newline, 1), 2)
    column = ops.cast(ops.expand(column, (*image_feature.shape[:-1], 1)), image_feature.dtype)
    return ops.cat((image_feature, column), -1)


def flattened(image_feature: Sym) -> Sym:
    """Return features [H, rows, columns] as [H, T]."""
    hidden, rows, columns = image_feature.shape
    return ops.view(image_feature, (hidden, rows * columns))


def beside_videos(features: list[Sym], input_ids: Sym, inputs_embeds: Sym) -> tuple[Sym, Sym, list[Sym]]:
    """Mirror what LlavaOnevisionModel and LlavaNextVideoModel do: `merged` with a mask of videos' tokens too, held
    as long.
    """
    image_features = ops.cast(ops.cat(features, 0), inputs_embeds.dtype)
    special_image_mask, special_video_mask = ops.placeholders(input_ids, 2)
    inputs_embeds = ops.masked_scatter(inputs_embeds, special_image_mask, image_features)
    return inputs_embeds, image_features, [special_video_mask, special_image_mask]  # dies from its end
