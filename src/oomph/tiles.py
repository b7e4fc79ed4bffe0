"""How processors cut an image of any resolution into tiles of one size, and which of their features become tokens.

Source: transformers 5.23, image_processing_utils.py, models/llava_next, models/llava_onevision.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from oomph.images import sides, too_long

DECIMALS = 7  # to which unpad_image rounds a side
SHRUNK_FROM = 1.1  # how many times too long a side of features may be
SPLITS = 4  # size["longest_edge"] to max_image_size["longest_edge"] of Idefics 3's and SmolVLM's files
MOST_LONG = 4096  # MAX_IMAGE_SIZE of image_processing_idefics3.py


@dataclass(frozen=True)
class Tiles:
    """How LLaVA-NeXT and LLaVA-OneVision look at an image: as a whole, and cut into tiles.

    `pinpoints` are the heights and widths in pixels that an image may be resized to, `side` that of a tile in pixels,
    `patches` that in patches. `most` is OneVision's: how many tiles' features are kept, what is more is shrunk, and of
    several images in a sequence none is cut. 0: all are kept.
    """

    pinpoints: tuple[tuple[int, int], ...]
    side: int
    patches: int
    most: int = 0

    def grid(self, image_size: str) -> tuple[int, int]:
        """Return how many tiles an image has down and across, as select_best_resolution has it: the most pixels of the
        image are kept, and among equals the fewest wasted.

        >>> tiles = Tiles(((336, 672), (672, 336), (672, 672)), 336, 24)
        >>> tiles.grid("300x900"), tiles.grid("768x1024")
        ((1, 2), (2, 2))
        """
        height, width = sides(image_size)
        ranks: dict[tuple[int, int], tuple[int, int]] = {}
        for down, across in self.pinpoints:
            scale = min(across / width, down / height)
            kept = min(int(width * scale) * int(height * scale), width * height)
            ranks.setdefault((kept, kept - down * across), (down, across))
        if not max(ranks)[0]:
            raise too_long(image_size)
        down, across = ranks[max(ranks)]
        return down // self.side, across // self.side

    def kept(self, image_size: str) -> tuple[int, int]:
        """Return rows and columns of the features of all tiles that are none of the border around an image, as
        unpad_image has it.

        >>> tiles = Tiles(((336, 672), (672, 336), (672, 672)), 336, 24)
        >>> tiles.kept("300x900"), tiles.kept("768x1024")
        ((16, 48), (36, 48))
        """
        height, width = sides(image_size)
        down, across = (count * self.patches for count in self.grid(image_size))
        if width / height > across / down:
            return down - (down - int(round(height * (across / width), DECIMALS))) // 2 * 2, across
        return down, across - (across - int(round(width * (down / height), DECIMALS))) // 2 * 2

    def shrunk(self, image_size: str) -> tuple[int, int] | None:
        """Return rows and columns that these features are shrunk to, None where they are few enough.

        >>> Tiles(((384, 1152), (1152, 1152)), 384, 27, most=4).shrunk("1200x1200")
        (54, 54)
        """
        rows, columns = self.kept(image_size)
        ratio = math.sqrt(rows * columns / (self.most * self.patches**2)) if self.most else 1.0
        return (int(rows // ratio), int(columns // ratio)) if ratio > SHRUNK_FROM else None

    def rows_and_columns(self, image_size: str) -> tuple[int, int]:
        """Return rows and columns of the features that become tokens."""
        return self.shrunk(image_size) or self.kept(image_size)

    def tokens(self, image_size: str, cut: bool = True) -> int:
        """Return how many tokens an image becomes: those of the whole, and row by row those of its tiles, each row with
        one for its end; where it is not `cut`, one for the end of the whole.

        >>> Tiles(((336, 672), (672, 336), (672, 672)), 336, 24).tokens("768x1024")
        2340
        """
        if not cut:
            return self.patches**2 + 1
        rows, columns = self.rows_and_columns(image_size)
        return self.patches**2 + rows * (columns + 1)


def canvas(image_size: str, side: int, most: int = 12) -> int:
    """Return how many tiles of `side` pixels become of an image in InternVL: as many as the canvas nearest to its shape
    has, up to `most`, and where they are several a small image of the whole.

    `most` is what its processor's class takes, and its files. Source: transformers 5.23,
    models/got_ocr2/image_processing_got_ocr2.py, get_optimal_tiled_canvas; models/internvl/processing_internvl.py.

    >>> canvas("448x448", 448), canvas("900x900", 448), canvas("600x1200", 448)
    (1, 5, 3)
    """
    height, width = sides(image_size)
    grids = [(a, b) for a in range(1, most + 1) for b in range(1, most + 1) if a * b <= most]
    best, apart = (1, 1), math.inf
    for across, down in sorted(grids, key=math.prod):
        distance = abs(width / height - across / down)
        larger = 2 * width * height > side * side * across * down
        if distance < apart or (distance == apart and larger):
            best, apart = (across, down), distance
    count = math.prod(best)
    return count + (count > 1)


def splits(image_size: str, side: int) -> int:
    """Return how many tiles of `side` pixels Idefics3ImageProcessor makes of an image, a small copy of all of it among
    them: its longer side is made SPLITS tiles long, as the published preprocessor_config.json files say.

    Raises UsageError without a size. Source: transformers 5.23, models/idefics3/image_processing_idefics3.py.

    >>> splits("768x1024", 364), splits("512x512", 384), splits("100x1000", 512)
    (13, 17, 5)
    """
    height, width = sides(image_size)
    longer, shape = SPLITS * side, width / height
    shorter = int(longer / shape) if width >= height else int(longer * shape)
    shorter = max(1, shorter + shorter % 2)
    longer, shape = min(longer, MOST_LONG), longer / shorter
    return SPLITS * math.ceil(int(longer / shape) / side) + 1


def best_fit(image_size: str, side: int, most: int = 16) -> int:
    """Return how many tiles of `side` pixels become of an image in Llama 4: those of the canvas that it fits with the
    least enlarging, else the least shrinking, and among equals the smallest; beside several there is one of the whole.

    `most` is what its processor's class takes, and its files. Source: transformers 5.23,
    models/llama4/image_processing_llama4.py, get_best_fit.

    >>> best_fit("336x336", 336), best_fit("336x700", 336), best_fit("2000x2000", 336)
    (1, 4, 17)
    """
    height, width = sides(image_size)
    grids = [(down, across) for down in range(1, most + 1) for across in range(1, most // down + 1)]
    scales = {grid: min(_fp32(grid[0] * side / height), _fp32(grid[1] * side / width)) for grid in grids}
    larger = [scale for scale in scales.values() if scale >= 1]
    wanted = min(larger) if larger else max(scales.values())
    count = min(math.prod(grid) for grid, scale in scales.items() if scale == wanted)
    return count + (count > 1)


def _fp32(number: float) -> float:
    """Return a number as fp32 has it: scales that differ less are equal."""
    found: float = struct.unpack("f", struct.pack("f", number))[0]
    return found
