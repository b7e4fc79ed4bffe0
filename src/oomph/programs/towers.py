"""What programs of multimodal models ask of the towers beside the language model, and the batches they take."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.blocks.vision import ClipVision, IdeficsVision, MllamaVision
from oomph.blocks.vision_native import PixtralVision, Qwen3Vision, QwenVision
from oomph.errors import UsageError
from oomph.families.multimodal import PoolingProjector, PromptProjector
from oomph.images import tiles
from oomph.programs.mllama_vision import inputs_of_tiles
from oomph.programs.pixtral import inputs_of_sizes
from oomph.programs.qwen_vision import grid_of
from oomph.tape.bound import Bound
from oomph.tape.sizes import Size, number, product, yes
from oomph.tape.sym import Sym

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

LANGUAGE_MODEL, HEAD = "model.language_model.", "lm_head."  # how the paths of what text passes through begin
TOWERS = ("vision_tower", "visual", "vision_model")  # what the part is called that sees
# Inputs of a batch beside input_ids and labels, in the order in which they are made.
OF_IMAGES = (
    "pixel_values", "image_grid_thw", "mm_token_type_ids", "token_type_ids", "aspect_ratio_ids", "aspect_ratio_mask",
    "cross_attention_mask", "image_sizes", "pixel_attention_mask",
)  # fmt: skip


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient: of text alone the language model's."""
    if m.tape.images:
        return parameters
    return [one for one in parameters if one.made_for.startswith((LANGUAGE_MODEL, HEAD))]


def tower_buffers(m: Bound) -> list[Sym]:
    """Return what is no parameter of a tower and not stored but on the device: ids of positions, inv_freq."""
    tape, block = m.tape, m.block
    if isinstance(block, ClipVision) and not isinstance(block, IdeficsVision):
        made = tape.empty((1, block.num_positions), "int64", op="position_ids")
        m.embeddings.parts["position_ids"] = made
        return [made]
    if isinstance(block, (QwenVision, Qwen3Vision)):  # frequencies for half of the channels, of rows and of columns
        return [tape.empty((block.hidden_size // block.num_heads // 4,), "fp32", op="inv_freq") for _ in range(2)]
    if isinstance(block, PixtralVision):
        return [tape.empty((block.hidden_size // block.num_heads // 2,), "fp32", op="inv_freq") for _ in range(2)]
    return []


def inputs_of_images(m: Bound, job: TrainJob | InferJob) -> dict[str, tuple[tuple[Size, ...], str]]:
    """Return shapes and dtypes of what a batch has beside its tokens: pixels in fp32, as processors make them."""
    tower = _tower(m)
    block, images = tower.block, job.batch * job.images
    if isinstance(block, IdeficsVision):
        side, per_row = (
            operator.index(block.image_size),
            job.images * tiles(m.tape.image_size, operator.index(block.image_size)),
        )
        return {
            "pixel_values": ((job.batch, per_row, block.num_channels, side, side), "fp32"),
            "pixel_attention_mask": ((job.batch, per_row, side, side), "int64"),
        }
    if isinstance(block, ClipVision):
        side = block.image_size
        made: dict[str, tuple[tuple[Size, ...], str]] = {
            "pixel_values": ((images, block.num_channels, side, side), "fp32")
        }
        if isinstance(m.model.multi_modal_projector.block, (PoolingProjector, PromptProjector)):
            made["token_type_ids"] = ((job.batch, job.seq_len), "int64")
        return made
    if isinstance(block, MllamaVision):
        return inputs_of_tiles(block, job)
    if isinstance(block, PixtralVision):
        return inputs_of_sizes(m.model, job)
    weight, count = tower.patch_embed.proj.weight, operator.index(images)
    patches = sum(grid_of(block, m.tape, count).lengths)
    return {
        "pixel_values": ((patches, product(weight.shape[1:])), "fp32"),
        "image_grid_thw": ((count, 3), "int64"),
        "mm_token_type_ids": ((job.batch, job.seq_len), "int64"),
    }


def inputs_after_images(m: Bound, job: InferJob, new: Size) -> dict[str, tuple[tuple[Size, ...], str]]:
    """Return shapes and dtypes of what tokens after images come with, where layers look at these anew: which of them
    see which tiles, as `generate` hands it on.
    """
    block = _tower(m).block
    if not isinstance(block, MllamaVision):
        return {}
    return {"cross_attention_mask": ((job.batch, new, job.images, block.max_tiles), "int64")}


def _tower(m: Bound) -> Any:
    return next(m.model[name] for name in TOWERS if name in m.model.parts)


def check_room(m: Bound, length: Size, tokens: Size) -> None:
    """Refuse sequences with no room for their images, a token of text around each."""
    needed = m.tape.images * (tokens + 1) + 1
    if not yes(needed <= length):
        raise UsageError(
            f"{m.tape.images} images of {number(tokens)} tokens each do not fit {number(length)} tokens.",
            f"Give a --seq of at least {number(needed)}.",
        )


def images(inputs: dict[str, Sym]) -> dict[str, Sym]:
    """Return what a batch holds of images."""
    return {name: inputs[name] for name in OF_IMAGES if name in inputs}


def merged(features: list[Sym], input_ids: Sym, inputs_embeds: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror what puts images among tokens: the embeddings [B, S, H], the features of all images [T, H], and the mask
    that says where they are.
    """
    image_features = ops.cast(ops.cat(features, 0), inputs_embeds.dtype)
    (special_image_mask,) = ops.placeholders(input_ids)
    inputs_embeds = ops.masked_scatter(inputs_embeds, special_image_mask, image_features)
    return inputs_embeds, image_features, special_image_mask


def count(pixel_values: Sym) -> int:
    """Return how many images there are, for code that goes through them one by one."""
    return operator.index(pixel_values.shape[0])


Images = dict[str, Any]
