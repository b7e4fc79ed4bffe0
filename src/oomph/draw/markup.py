"""Writing XML and HTML: everything that is not `Markup` is text, and text is escaped."""

from __future__ import annotations

from html import escape
from unicodedata import east_asian_width

VOID = frozenset({"meta"})  # HTML closes these by themselves
WIDE, LATIN = 1.0, 0.6  # widths of a character in a sans-serif font, in em: rather too wide than too narrow


class Markup(str):
    """Finished markup, as `element` returns it."""

    __slots__ = ()


def element(name: str, *inside: str, **attributes: str | float) -> Markup:
    """Return an element. In attribute names a trailing _ goes away and the others become hyphens.

    >>> element("text", "a < b", class_="axis", x=1.50, text_anchor="end")
    '<text class="axis" x="1.5" text-anchor="end">a &lt; b</text>'
    """
    opening = " ".join([name, *(f'{_hyphens(key)}="{_value(value)}"' for key, value in attributes.items())])
    return Markup(f"<{opening}>" if name in VOID else f"<{opening}>{joined(*inside)}</{name}>")


def joined(*inside: str) -> Markup:
    """Return pieces one after another, text escaped."""
    return Markup("".join(piece if isinstance(piece, Markup) else escape(clean(piece)) for piece in inside))


def clean(text: str, most: int | None = None) -> str:
    """Return text from outside fit for a page: no control characters, no change of direction, not too long.

    >>> clean("a\\x00b\\u202ec"), clean("abcdef", 4)
    ('a\ufffdb\ufffdc', 'abc…')
    """
    shown = text if most is None or len(text) <= most else text[: most - 1] + "…"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown)


def text_width(text: str, size: float) -> float:
    """Return about how many pixels text of a font size takes.

    >>> text_width("layer", 10)
    30.0
    """
    ems = sum(WIDE if east_asian_width(char) in "WF" else LATIN for char in text)
    return round(ems * size, 1)


def number(value: float) -> str:
    """Return a coordinate to a tenth of a pixel.

    >>> number(12.0), number(0.25), number(-0.01)
    ('12', '0.2', '0')
    """
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return value if isinstance(value, Markup) else escape(clean(value))
    return number(value)


def _hyphens(key: str) -> str:
    return key.removesuffix("_").replace("_", "-")
