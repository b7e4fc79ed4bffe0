"""Tokens of images, held against what the processors of transformers make of random ones (tests/image_sizes.json)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oomph.errors import UsageError
from oomph.images import QWEN2_PIXELS, QWEN3_PIXELS, fitted, patches, tiles

GOLDEN = json.loads((Path(__file__).parent / "image_sizes.json").read_text())


@pytest.mark.parametrize(("kind", "patch", "bounds"), [("qwen2_vl", 14, QWEN2_PIXELS), ("qwen3_vl", 16, QWEN3_PIXELS)])
def test_patches_are_those_of_qwens_processor(kind: str, patch: int, bounds: tuple[int, int]) -> None:
    """An image of any size becomes as many patches a side as the real class makes of it."""
    for height, width, rows, columns in GOLDEN[kind]:
        assert patches(f"{height}x{width}", patch, 2, bounds) == (rows, columns), (height, width)


@pytest.mark.parametrize(("kind", "longest", "step"), [("pixtral", 1024, 16), ("mistral3", 1540, 28)])
def test_squares_are_those_of_pixtrals_processor(kind: str, longest: int, step: int) -> None:
    """Of Mistral 3 squares of merged patches."""
    for height, width, rows, columns in GOLDEN[kind]:
        assert fitted(f"{height}x{width}", longest, step) == (rows, columns), (height, width)


def test_an_image_of_which_nothing_is_left_is_refused() -> None:
    """A side that is fitted to less than a pixel."""
    with pytest.raises(UsageError, match="too long"):
        fitted("1x4000", 1024, 16)


@pytest.mark.parametrize(("kind", "side"), [("idefics3", 364), ("smolvlm", 512)])
def test_tiles_are_those_of_idefics3s_processor(kind: str, side: int) -> None:
    """The longer side four of them, a small copy of the whole image beside them."""
    for height, width, count in GOLDEN[kind]:
        assert tiles(f"{height}x{width}", side) == count, (height, width)
