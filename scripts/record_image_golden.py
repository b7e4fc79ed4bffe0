"""Record what transformers' image processors make of images of many sizes: tests/image_sizes.json.

python scripts/record_image_golden.py, where Pillow and torchvision are installed beside transformers. Images are
random; kept is, for each size, what decides the tokens: the shape of the pixels that the real processor returns, and
what it says of tiles and tokens.
"""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import transformers

OUT = Path(__file__).parents[1] / "tests" / "image_sizes.json"
SIDES = (20, 56, 133, 224, 336, 512, 700, 1024, 1400, 2100)
COUNT, SEED = 24, 20261127


def sizes() -> list[tuple[int, int]]:
    """Return heights and widths: squares, and a random choice."""
    rng = random.Random(SEED)
    return [(side, side) for side in SIDES] + [(rng.choice(SIDES), rng.randrange(20, 2200)) for _ in range(COUNT)]


def qwen(fewest: int, most: int, patch: int) -> Any:
    """Return Qwen2VLImageProcessor as a published file sets it up: rows and columns of patches."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": fewest, "longest_edge": most}, patch_size=patch)
    return lambda image: processor(images=[image], return_tensors="np")["image_grid_thw"][0].tolist()[1:]


def glm4v() -> Any:
    """Return the rule of Glm4vImageProcessor with its defaults, for patches of 14 pixels: rows and columns of them."""
    from transformers.models.glm4v.image_processing_glm4v import smart_resize

    return lambda image: [side // 14 for side in smart_resize(2, *image.shape[:2])]


def tiled(stub: Any, kind: Any, image_processor: Any) -> Any:
    """Return what a processor of LLaVA's makes of an image alone: how many tiles, and how many tokens."""
    stub.image_processor = image_processor
    stub._get_unpadded_features = partial(kind._get_unpadded_features, stub)

    def process(image: Any) -> list[int]:
        pixels = image_processor(images=[image], return_tensors="np")["pixel_values"]
        return [pixels.shape[1], kind._get_number_of_features(stub, *image.shape[:2], *pixels.shape[-2:])]

    return process


def llava_next() -> Any:
    """Return LlavaNextProcessor over CLIP ViT-L/14 of 336 pixels, whose class token it leaves out."""
    from transformers.models.llava_next import image_processing_pil_llava_next as images
    from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

    side = {"height": 336, "width": 336}
    processor = images.LlavaNextImageProcessorPil(size={"shortest_edge": 336}, crop_size=side)
    return tiled(SimpleNamespace(patch_size=14, num_additional_image_tokens=0), LlavaNextProcessor, processor)


def llava_onevision() -> Any:
    """Return LlavaOnevisionProcessor over SigLIP of 384 pixels, 27 · 27 patches, as its classes set it up."""
    from transformers.models.llava_onevision import image_processing_pil_llava_onevision as images
    from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

    stub = SimpleNamespace(num_image_tokens=27 * 27, vision_aspect_ratio="anyres_max_9")
    return tiled(stub, LlavaOnevisionProcessor, images.LlavaOnevisionImageProcessorPil())


def internvl() -> Any:
    """Return InternVLProcessor's image processor as it calls it, for tiles of 448 pixels: how many there are."""
    from transformers.models.got_ocr2 import image_processing_pil_got_ocr2 as images

    processor = images.GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}, crop_to_patches=True)
    return lambda image: [processor(images=[image], return_tensors="np")["pixel_values"].shape[0]]


def llama4() -> Any:
    """Return Llama4ImageProcessor's rule as the class sets it up, for tiles of 336 pixels: how many there are."""
    import torch
    from transformers.image_utils import SizeDict
    from transformers.models.llama4 import image_processing_llama4 as images

    side = 336
    resolutions = torch.tensor(images.find_supported_resolutions(16, SizeDict(height=side, width=side)))

    def process(image: Any) -> list[int]:
        height, width = images.get_best_fit(image.shape[:2], resolutions).tolist()
        count = (height // side) * (width // side)
        return [count + (count > 1)]

    return process


def cohere2_vision() -> Any:
    """Return Cohere2VisionImageProcessor as its class sets it up, for tiles of 512 pixels: how many there are."""
    from transformers.models.cohere2_vision.image_processing_cohere2_vision import Cohere2VisionImageProcessor

    processor = Cohere2VisionImageProcessor()
    return lambda image: [processor(images=[image], return_tensors="pt")["pixel_values"].shape[0]]


def pixtral(longest: int, patch: int) -> Any:
    """Return PixtralImageProcessor as a published file sets it up: rows and columns of patches."""
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    processor = PixtralImageProcessorPil(
        size={"longest_edge": longest}, patch_size={"height": patch, "width": patch}, resample=0
    )
    return lambda image: [
        int(side) // patch for side in processor(images=[image], return_tensors="np")["image_sizes"][0]
    ]


def idefics3(side: int, splits: int = 4) -> Any:
    """Return Idefics3ImageProcessor as a published file sets it up: how many tiles."""
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    processor = Idefics3ImageProcessorPil(size={"longest_edge": splits * side}, max_image_size={"longest_edge": side})
    return lambda image: [processor(images=[[image]], return_tensors="np")["pixel_values"].shape[1]]


def recorded() -> dict[str, list[list[int]]]:
    """Return, by the kind of a processor, heights, widths and what is made of them."""
    kinds = {
        "qwen2_vl": qwen(3136, 12845056, 14),
        "qwen3_vl": qwen(65536, 16777216, 16),
        "glm4v": glm4v(),
        "llava_next": llava_next(),
        "llava_onevision": llava_onevision(),
        "internvl": internvl(),
        "llama4": llama4(),
        "cohere2_vision": cohere2_vision(),
        "pixtral": pixtral(1024, 16),
        "mistral3": pixtral(1540, 28),
        "idefics3": idefics3(364),
        "smolvlm": idefics3(512),
    }
    rng = numpy.random.default_rng(SEED)
    found: dict[str, list[list[int]]] = {}
    for kind, process in kinds.items():
        images = ((size, rng.integers(0, 256, (*size, 3), dtype=numpy.uint8)) for size in sizes())
        found[kind] = [[*size, *process(image)] for size, image in images]
    return found


if __name__ == "__main__":
    made = {"transformers": transformers.__version__, "recipe": "python scripts/record_image_golden.py", **recorded()}
    OUT.write_text(json.dumps(made).replace("], [", "],\n[") + "\n")
