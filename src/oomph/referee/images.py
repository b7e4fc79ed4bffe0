"""Images as a processor hands them to a vision-language model: pixels, and their places among the tokens."""

from __future__ import annotations

from typing import Any

import torch

from oomph.errors import UnsupportedError
from oomph.families.llava import ANYRES
from oomph.images import QWEN2_PIXELS, QWEN3_PIXELS, fitted, glm_patches, patches
from oomph.job import InferJob, TrainJob
from oomph.job_checks import pixels
from oomph.programs.cohere_vision import MOST
from oomph.tiles import Tiles, best_fit, canvas, splits


def add_images(inputs: dict[str, Any], model: Any, job: TrainJob | InferJob) -> None:
    """Put the images of a job into a batch: placeholders into its ids, one token of text between them, and the pixels.

    Raises UnsupportedError for a class whose processor is not known here.
    """
    config, device = model.config, model.device
    kind = config.model_type
    if kind not in MADE:
        raise UnsupportedError(f"The trace knows no images of {kind[:80]}.", "Leave --images out.")
    tokens, made = MADE[kind](config, job, device)
    for index in range(job.images):
        start = 1 + index * (tokens + 1)
        if start + tokens >= job.seq_len + 1:
            raise UnsupportedError(f"{job.images} images of {tokens} tokens do not fit {job.seq_len} tokens.")
        inputs["input_ids"][:, start : start + tokens].fill_(config.image_token_id)
    inputs["input_ids"].oomph_pictured = job.images * tokens  # what a mask of them holds, see fake.py
    inputs |= made


def add_sight(inputs: dict[str, Any], model: Any, job: TrainJob | InferJob) -> None:
    """Say which tiles tokens after the images see, to a class whose `prepare_inputs_for_generation` hands that on."""
    if model.config.model_type == "mllama":
        tokens = inputs["input_ids"].shape[1]
        inputs["cross_attention_mask"] = seen_by(model.config, job, tokens, model.device)


def _fixed(config: Any, job: TrainJob | InferJob, device: Any) -> dict[str, Any]:
    """Return pixels [B, C, P, P] fp32 of towers for one size."""
    vision = config.vision_config
    shape = (job.batch * job.images, vision.num_channels, vision.image_size, vision.image_size)
    return {"pixel_values": torch.zeros(shape, device=device)}


def llava(config: Any, job: TrainJob | InferJob, device: Any) -> tuple[int, dict[str, Any]]:
    """LlavaProcessor: a token for each patch, and for the class token where it is taken."""
    vision = config.vision_config
    if vision.model_type == "pixtral":
        return pixtral(config, job, device)
    patches = (vision.image_size // vision.patch_size) ** 2
    return patches + (config.vision_feature_select_strategy == "full"), _fixed(config, job, device)


def tiled(config: Any, job: TrainJob | InferJob, device: Any) -> tuple[int, dict[str, Any]]:
    """LlavaNextProcessor, LlavaOnevisionProcessor: an image as a whole and in tiles [images, tiles + 1, C, P, P] fp32,
    OneVision's as a whole alone where a sequence has several; how large they are, and how many each sequence has.
    """
    vision, count, one = config.vision_config, job.batch * job.images, config.model_type == "llava_onevision"
    most = int(config.vision_aspect_ratio.strip(ANYRES)) if one else 0
    sizes, side = tuple(map(tuple, config.image_grid_pinpoints)), vision.image_size
    tiles, cut = Tiles(sizes, side, side // vision.patch_size, most), not one or job.images == 1
    rows, columns = tiles.grid(job.image_size) if cut else (0, 0)
    shape = (count, rows * columns + 1, vision.num_channels, side, side)
    made = {
        "pixel_values": torch.zeros(shape, device=device),
        "image_sizes": torch.tensor([list(pixels(job.image_size))] * count, device=device),
    }
    if one:
        made["batch_num_images"] = torch.tensor([job.images] * job.batch, device=device)
    return tiles.tokens(job.image_size, cut), made


def intern(config: Any, job: TrainJob | InferJob, device: Any) -> tuple[int, dict[str, Any]]:
    """InternVLProcessor: tiles of all images [tiles, C, P, P] fp32."""
    vision = config.vision_config
    (height, width), (patch, _) = vision.image_size, vision.patch_size
    tiles = canvas(job.image_size, height)
    shape = (job.batch * job.images * tiles, vision.num_channels, height, width)
    tokens = int(height // patch * config.downsample_ratio) ** 2
    return tiles * tokens, {"pixel_values": torch.zeros(shape, device=device)}


def cohere(config: Any, job: TrainJob | InferJob, device: Any) -> tuple[int, dict[str, Any]]:
    """AyaVisionProcessor, Cohere2VisionProcessor: tiles of all images [tiles, C, P, P] fp32."""
    vision, side = config.vision_config, config.vision_config.image_size
    aya = config.model_type == "aya_vision"
    tiles = canvas(job.image_size, side) if aya else best_fit(job.image_size, side, MOST)
    shape = (job.batch * job.images * tiles, vision.num_channels, side, side)
    tokens = (side // vision.patch_size // config.downsample_factor) ** 2
    return tiles * tokens, {"pixel_values": torch.zeros(shape, device=device)}


def llama4(config: Any, job: TrainJob | InferJob, device: Any) -> tuple[int, dict[str, Any]]:
    """Llama4Processor: tiles of all images [tiles, C, P, P], cast to what the tower's linear map takes."""
    vision, side = config.vision_config, config.vision_config.image_size
    tiles = best_fit(job.image_size, side)
    shape = (job.batch * job.images * tiles, vision.num_channels, side, side)
    tokens = int(side // vision.patch_size * vision.pixel_shuffle_ratio) ** 2
    return tiles * tokens, {"pixel_values": torch.zeros(shape, dtype=config.dtype, device=device)}


def pixtral(config: Any, job: TrainJob | InferJob, device: Any) -> tuple[int, dict[str, Any]]:
    """PixtralProcessor: images of whole patches [B, C, H, W] fp32, and how large they are [B, 2] int64."""
    vision, count = config.vision_config, job.batch * job.images
    step = vision.patch_size * getattr(config, "spatial_merge_size", 1)
    rows, columns = fitted(job.image_size, vision.image_size, step)
    sides = (rows * step, columns * step)
    return rows * columns, {
        "pixel_values": torch.zeros(count, vision.num_channels, *sides, device=device),
        "image_sizes": torch.tensor([sides] * count, device=device),
    }


def gemma(config: Any, job: TrainJob | InferJob, device: Any) -> tuple[int, dict[str, Any]]:
    """Gemma3Processor: as many tokens of each image, and which tokens are an image's [B, S] int64."""
    tokens = config.mm_tokens_per_image
    return tokens, _fixed(config, job, device) | {"token_type_ids": _kinds(job, tokens, device)}


def paligemma(config: Any, job: TrainJob | InferJob, device: Any) -> tuple[int, dict[str, Any]]:
    """PaliGemmaProcessor: a token for each patch, and which tokens are no prompt's [B, S] int64."""
    vision = config.vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2
    return tokens, _fixed(config, job, device) | {"token_type_ids": _kinds(job, tokens, device)}


def _kinds(job: TrainJob | InferJob, tokens: int, device: Any) -> Any:
    """Return which tokens are an image's: int64 [B, S]."""
    row = [0] + ([1] * tokens + [0]) * job.images
    row += [0] * (job.seq_len - len(row))
    return torch.tensor([row] * job.batch, device=device)


def qwen(config: Any, job: TrainJob | InferJob, device: Any) -> tuple[int, dict[str, Any]]:
    """Qwen2VLProcessor: patches of images in the order of their merging [T, C·2·P·P] fp32, how many a side
    [images, 3] int64, and, but from Qwen2_5OmniProcessor, what kind each token is of [B, S] int64.
    """
    vision, count = config.vision_config, job.batch * job.images
    merge, patch = vision.spatial_merge_size, vision.patch_size
    omni = config.model_type.endswith("_thinker")
    bounds = QWEN3_PIXELS if config.model_type.startswith("qwen3") and not omni else QWEN2_PIXELS
    rows, columns = patches(job.image_size, patch, merge, bounds)
    if config.model_type.startswith("glm"):
        rows, columns = glm_patches(job.image_size, patch, merge)
    tokens = rows * columns // merge**2
    made = {
        "pixel_values": torch.zeros(
            count * rows * columns, vision.in_channels * vision.temporal_patch_size * patch**2, device=device
        ),
        "image_grid_thw": torch.tensor([[1, rows, columns]] * count, device=device),
    }
    return tokens, made if omni else made | {"mm_token_type_ids": _kinds(job, tokens, device)}


def mllama(config: Any, job: TrainJob | InferJob, device: Any) -> tuple[int, dict[str, Any]]:
    """MllamaProcessor: one token, as many tiles as an image can have at most [B, I, T, C, P, P] fp32, how they are laid
    out [B, I] int64, which there are [B, I, T] int64, and which tokens see which [B, S, I, T] int64.
    """
    vision, shape = config.vision_config, (job.batch, job.images, config.vision_config.max_num_tiles)
    side = vision.image_size
    return 1, {
        "pixel_values": torch.zeros(*shape, vision.num_channels, side, side, device=device),
        "aspect_ratio_ids": torch.ones(shape[:2], dtype=torch.long, device=device),
        "aspect_ratio_mask": torch.ones(shape, dtype=torch.long, device=device),
        "cross_attention_mask": seen_by(config, job, job.seq_len, device),
    }


def idefics3(config: Any, job: TrainJob | InferJob, device: Any) -> tuple[int, dict[str, Any]]:
    """Idefics3Processor: tiles of all images of a sequence [B, T, C, P, P] fp32, and which of their pixels are an
    image's [B, T, P, P] int64.
    """
    vision = config.vision_config
    side, each = vision.image_size, splits(job.image_size, vision.image_size)
    shape = (job.batch, job.images * each)
    pixels = torch.zeros(*shape, vision.num_channels, side, side, device=device)
    mask = torch.ones(*shape, side, side, dtype=torch.long, device=device)
    if hasattr(mask, "fake_mode"):
        mask.fake_mode.number = shape[1]  # what a count of real tiles is read as
    tokens = (side // vision.patch_size // config.scale_factor) ** 2
    return each * tokens, {"pixel_values": pixels, "pixel_attention_mask": mask}


def seen_by(config: Any, job: TrainJob | InferJob, tokens: int, device: Any) -> Any:
    """Return which of so many tokens see which tiles: int64 [B, S, I, T]."""
    shape = (job.batch, tokens, job.images, config.vision_config.max_num_tiles)
    return torch.ones(shape, dtype=torch.long, device=device)


MADE = {
    **dict.fromkeys(("aya_vision", "cohere2_vision"), cohere),
    "gemma3": gemma,
    **dict.fromkeys(("glm4v", "glm4v_moe", "glm46v"), qwen),
    "internvl": intern,
    "llama4": llama4,
    "llava": llava,
    **dict.fromkeys(("idefics3", "smolvlm"), idefics3),
    "mllama": mllama,
    **dict.fromkeys(("llava_next", "llava_next_video", "llava_onevision"), tiled),
    "mistral3": pixtral,
    "paligemma": paligemma,
    **dict.fromkeys(("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"), qwen),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"), qwen),
}
