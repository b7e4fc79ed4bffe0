"""Record what transformers' image processors make of images of many sizes: tests/image_sizes.json.

python scripts/record_image_golden.py, where Pillow is installed beside transformers. Images are random; kept is, for
each size, what decides the tokens: the shape of the pixels that the real processor returns.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
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
