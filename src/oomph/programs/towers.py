"""What programs of multimodal models ask of the towers beside the language model, and the batches they take."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.blocks.audio import Gemma4Audio, UniversalSpeech
from oomph.blocks.vision import ClipVision, IdeficsVision, InternVision, MllamaVision
from oomph.blocks.vision_gemma import Gemma4Vision
from oomph.blocks.vision_native import PixtralVision, Qwen3Vision, QwenVision
from oomph.errors import UnsupportedError, UsageError
from oomph.families.multimodal import PoolingProjector, PromptProjector, TiledProjector
from oomph.images import tiles as tiles_of
from oomph.programs.mllama_vision import inputs_of_tiles
from oomph.programs.pixtral import inputs_of_sizes
from oomph.programs.qwen_vision import grid_of
from oomph.tape.bound import Bound
from oomph.tape.sizes import Size, number, product, yes
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape
from oomph.tiles import best_fit, canvas

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

LANGUAGE_MODEL, HEAD = "model.language_model.", "lm_head."  # how the paths of what text passes through begin
TOWERS = ("vision_tower", "visual", "vision_model")  # what the part is called that sees
# Inputs of a batch beside input_ids and labels, in the order in which they are made.
OF_IMAGES = (
    "pixel_values", "image_grid_thw", "mm_token_type_ids", "token_type_ids", "aspect_ratio_ids", "aspect_ratio_mask",
    "cross_attention_mask", "image_sizes", "batch_num_images", "pixel_attention_mask",
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
    if isinstance(block, UniversalSpeech):
        return [each for _ in range(operator.index(block.num_layers)) for each in _of_a_conformer(tape, block)]
    if isinstance(block, Gemma4Audio):  # frequencies once, in each layer the bound of its scores
        bounds = [tape.empty((), tape.loaded, op="softcap") for _ in range(operator.index(block.num_layers))]
        return [tape.empty((1, 1, block.hidden_size // 2), "fp32", op="inv_timescales"), *bounds]
    if isinstance(block, Gemma4Vision):  # frequencies for a quarter of the channels, kept twice
        return ops.rotary_buffers(tape, block.head_dim // 2)
    if isinstance(block, (QwenVision, Qwen3Vision)):  # frequencies for half of the channels, of rows and of columns
        return [tape.empty((block.hidden_size // block.num_heads // 4,), "fp32", op="inv_freq") for _ in range(2)]
    if isinstance(block, PixtralVision):
        return [tape.empty((block.hidden_size // block.num_heads // 2,), "fp32", op="inv_freq") for _ in range(2)]
    return []


BOUNDS = 5  # parts of a layer of Gemma 3n's conformer that bound what they are given: gradient_clipping


def _of_a_conformer(tape: Tape, block: UniversalSpeech) -> list[Sym]:
    """Return the buffers of a layer of Gemma 3n's audio tower."""
    return [
        tape.empty((1, 1, block.hidden_size // 2), "fp32", op="inv_timescales"),
        tape.empty((), tape.loaded, op="q_scale"),
        tape.empty(block.window, "bool", op="local_causal_valid_mask"),
        tape.empty((), "fp32", op="softcap"),
        *(tape.empty((), tape.loaded, op="gradient_clipping") for _ in range(BOUNDS)),
    ]


def inputs_of_images(m: Bound, job: TrainJob | InferJob) -> dict[str, tuple[tuple[Size, ...], str]]:
    """Return shapes and dtypes of what a batch has beside its tokens: pixels in fp32, as processors make them."""
    if "vision_model" in m.parts:  # Llama 4, whose linear map takes pixels in the dtype of its weights
        tower, side = m.vision_model, m.vision_model.image_size
        count = job.batch * job.images * best_fit(job.image_size, operator.index(side))
        return {"pixel_values": ((count, tower.num_channels, side, side), tower.class_embedding.dtype)}
    tower = _tower(m)
    block, images = tower.block, job.batch * job.images
    if isinstance(block, IdeficsVision):
        side = operator.index(block.image_size)
        per_row = job.images * tiles_of(m.tape.image_size, side)
        return {
            "pixel_values": ((job.batch, per_row, block.num_channels, side, side), "fp32"),
            "pixel_attention_mask": ((job.batch, per_row, side, side), "int64"),
        }
    projector = m.model.parts.get("multi_modal_projector")
    if projector is not None and isinstance(projector.block, TiledProjector):
        return inputs_of_resolutions(block, projector.block, job)
    if isinstance(block, ClipVision):
        side = block.image_size
        made: dict[str, tuple[tuple[Size, ...], str]] = {
            "pixel_values": ((images, block.num_channels, side, side), "fp32")
        }
        if isinstance(m.model.multi_modal_projector.block, (PoolingProjector, PromptProjector)):
            made["token_type_ids"] = ((job.batch, job.seq_len), "int64")
        return made
    if isinstance(block, InternVision):
        (side, _), count = block.image_size, images * canvas(job.image_size, operator.index(block.image_size[0]))
        return {"pixel_values": ((count, block.num_channels, side, block.image_size[1]), "fp32")}
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


def inputs_of_resolutions(
    block: ClipVision, projector: TiledProjector, job: TrainJob | InferJob
) -> dict[str, tuple[tuple[Size, ...], str]]:
    """Return what a batch has of images that are cut into tiles: these, how large the images are, and in
    LLaVA-OneVision how many a sequence has; of several none is cut.
    """
    tiles, images = projector.tiles, job.batch * job.images
    if tiles is None:
        raise UnsupportedError("oomph cannot play images with this projector yet.", "Leave --images out: text alone.")
    alone = not tiles.most or job.images == 1
    rows, columns = tiles.grid(job.image_size) if alone else (0, 0)
    made: dict[str, tuple[tuple[Size, ...], str]] = {
        "pixel_values": ((images, rows * columns + 1, block.num_channels, tiles.side, tiles.side), "fp32"),
        "image_sizes": ((images, 2), "int64"),
    }
    if tiles.most:
        made["batch_num_images"] = ((job.batch,), "int64")
    return made


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
