"""Tokens of images, held against what the processors of transformers make of random ones (tests/image_sizes.json)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from oomph.errors import UsageError
from oomph.families.llava import PINPOINTS
from oomph.images import QWEN2_PIXELS, QWEN3_PIXELS, fitted, glm_patches, patches
from oomph.programs.cohere_vision import MOST
from oomph.tiles import Tiles, best_fit, canvas, splits

GOLDEN = json.loads((Path(__file__).parent / "image_sizes.json").read_text())


@pytest.mark.parametrize(("kind", "patch", "bounds"), [("qwen2_vl", 14, QWEN2_PIXELS), ("qwen3_vl", 16, QWEN3_PIXELS)])
def test_patches_are_those_of_qwens_processor(kind: str, patch: int, bounds: tuple[int, int]) -> None:
    """An image of any size becomes as many patches a side as the real class makes of it."""
    for height, width, rows, columns in GOLDEN[kind]:
        assert patches(f"{height}x{width}", patch, 2, bounds) == (rows, columns), (height, width)


def test_patches_are_those_of_glms_processor() -> None:
    """An image of any size becomes as many patches a side as the real rule makes of it."""
    for height, width, rows, columns in GOLDEN["glm4v"]:
        assert glm_patches(f"{height}x{width}", 14, 2) == (rows, columns), (height, width)


@pytest.mark.parametrize(
    ("kind", "side", "patches", "most"), [("llava_next", 336, 24, 0), ("llava_onevision", 384, 27, 9)]
)
def test_tiles_are_those_of_llavas_processors(kind: str, side: int, patches: int, most: int) -> None:
    """An image of any size becomes as many tiles and tokens as the real classes make of it."""
    tiles = Tiles(PINPOINTS[kind], side, patches, most)
    for height, width, count, tokens in GOLDEN[kind]:
        size = f"{height}x{width}"
        assert (math.prod(tiles.grid(size)) + 1, tiles.tokens(size)) == (count, tokens), size


@pytest.mark.parametrize(
    ("kind", "tiles", "side"),
    [
        ("internvl", canvas, 448),
        ("llama4", best_fit, 336),
        ("cohere2_vision", partial(best_fit, most=MOST), 512),
        ("idefics3", splits, 364),
        ("smolvlm", splits, 512),
    ],
)
def test_tiles_are_those_of_the_processors(kind: str, tiles: Callable[[str, int], int], side: int) -> None:
    """An image of any size becomes as many tiles, a small one of the whole among them."""
    for height, width, count in GOLDEN[kind]:
        assert tiles(f"{height}x{width}", side) == count, (height, width)


@pytest.mark.parametrize(("kind", "longest", "step"), [("pixtral", 1024, 16), ("mistral3", 1540, 28)])
def test_squares_are_those_of_pixtrals_processor(kind: str, longest: int, step: int) -> None:
    """Of Mistral 3 squares of merged patches."""
    for height, width, rows, columns in GOLDEN[kind]:
        assert fitted(f"{height}x{width}", longest, step) == (rows, columns), (height, width)


def test_an_image_of_which_nothing_is_left_is_refused() -> None:
    """A side that is fitted to less than a pixel."""
    with pytest.raises(UsageError, match="too long"):
        fitted("1x4000", 1024, 16)
