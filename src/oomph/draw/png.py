"""A drawing as PNG: the SVG, rendered by resvg in its light colours."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from oomph.draw.svg import draw_svg
from oomph.errors import OomphError
from oomph.timeline import Timeline

ZOOM = 2  # pixels per unit, so that text stays sharp on dense screens
_LETTER = '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8">{}</svg>'


def draw_png(timelines: Sequence[Timeline]) -> bytes:
    """Return a PNG twice as large as the SVG. Raises OomphError without the library or without any font."""
    return png(draw_svg(timelines).markup)


def png(markup: str) -> bytes:
    """Return an SVG as PNG, twice as large; raises OomphError as `draw_png` does."""
    try:
        import resvg_py
    except ImportError:
        raise OomphError(
            "Drawing a PNG needs a library that is not installed.", 'pip install "oomph[draw]", or draw an .svg.'
        ) from None
    if not _has_fonts():
        raise OomphError("This machine has no fonts: the PNG would have no words.", "Install one, or draw an .svg.")
    return bytes(resvg_py.svg_to_bytes(svg_string=markup, zoom=ZOOM))


@cache
def _has_fonts() -> bool:
    """Tell whether a letter leaves a mark: resvg leaves out text it has no font for, without a word."""
    import resvg_py

    empty, letter = _LETTER.format(""), _LETTER.format('<text y="8" font-family="sans-serif">M</text>')
    return bytes(resvg_py.svg_to_bytes(svg_string=empty)) != bytes(resvg_py.svg_to_bytes(svg_string=letter))
