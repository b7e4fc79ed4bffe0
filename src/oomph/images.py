"""How processors of native-size towers resize an image: how many patches it becomes."""

from __future__ import annotations

import math

from oomph.errors import UsageError
from oomph.job_checks import pixels

# The least and the most pixels of an image, as the preprocessor_config.json files of Qwen2-VL and Qwen2.5-VL, and of
# Qwen3-VL and Qwen3.5, say (min_pixels and max_pixels, or shortest_edge and longest_edge of their size).
QWEN2_PIXELS, QWEN3_PIXELS = (3136, 12845056), (65536, 16777216)
# The same of GLM-4V, whose processor counts the pixels of two frames: the defaults of its smart_resize.
GLM_PIXELS = (112 * 112 // 2, 14 * 14 * 2 * 2 * 6144)
LONGEST_TO_SHORTEST = 200  # beyond which its processor raises an error


def fitted(image_size: str, longest: int, step: int) -> tuple[int, int]:
    """Return rows and columns of squares of `step` pixels a side, as PixtralImageProcessor fits an image: at about the
    same shape no side longer than `longest`, and each made up to whole squares.

    Raises UsageError without a size, or for one of which nothing is left. Source: transformers 5.23,
    models/pixtral/image_processing_pixtral.py, get_resize_output_image_size.

    >>> fitted("768x1000", 1024, 16), fitted("4000x3000", 1540, 28)
    ((48, 63), (55, 42))
    """
    height, width = sides(image_size)
    ratio = max(height / longest, width / longest)
    if ratio > 1:
        height, width = math.floor(height / ratio), math.floor(width / ratio)
    if not height or not width:
        raise too_long(image_size)
    return math.ceil(height / step), math.ceil(width / step)


def sides(image_size: str) -> tuple[int, int]:
    """Return height and width in pixels of a size that must be there."""
    if not image_size:
        raise UsageError("The tokens of this model's images depend on their size.", "Say it: --image-size 768x768.")
    return pixels(image_size)


def too_long(image_size: str) -> UsageError:
    """Return what to raise for a size of which a processor leaves nothing, or that it refuses."""
    return UsageError(f"Images of {image_size} are too long for this model's processor.", "Say another size.")


def patches(image_size: str, patch: int, merge: int, bounds: tuple[int, int] = QWEN2_PIXELS) -> tuple[int, int]:
    """Return rows and columns of patches of an image, as Qwen2VLImageProcessor cuts it: sides are multiples of what is
    merged into a token, and pixels of the whole are between `bounds`, at about the same shape.

    Raises UsageError without a size, or for one that the processor refuses. Source: transformers 5.23,
    models/qwen2_vl/image_processing_qwen2_vl.py, smart_resize.

    >>> patches("768x1024", 14, 2), patches("4000x3000", 14, 2), patches("10x20", 14, 2)
    ((54, 74), (286, 214), (4, 6))
    """
    fewest, most = bounds
    height, width = sides(image_size)
    factor = patch * merge
    if max(height, width) > LONGEST_TO_SHORTEST * min(height, width):
        raise too_long(image_size)
    rows, columns = round(height / factor), round(width / factor)
    if rows * columns * factor**2 > most:
        beta = math.sqrt(height * width / most)
        rows = max(1, math.floor(height / beta / factor))
        columns = max(1, math.floor(width / beta / factor))
    elif rows * columns * factor**2 < fewest:
        beta = math.sqrt(fewest / (height * width))
        rows, columns = math.ceil(height * beta / factor), math.ceil(width * beta / factor)
    return rows * merge, columns * merge


def glm_patches(image_size: str, patch: int, merge: int) -> tuple[int, int]:
    """Return rows and columns of patches of an image, as Glm4vImageProcessor cuts it: a small one is enlarged first.

    Source: transformers 5.23, models/glm4v/image_processing_glm4v.py, smart_resize.

    >>> glm_patches("768x1024", 14, 2), glm_patches("10x20", 14, 2)
    ((54, 74), (4, 8))
    """
    height, width = sides(image_size)
    factor = patch * merge
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    return patches(f"{height}x{width}", patch, merge, GLM_PIXELS)
