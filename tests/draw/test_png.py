"""The PNG: made by the optional library, and refused with its name where that is absent."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from oomph.draw import png, write
from oomph.errors import OomphError
from tests.draw.samples import step


def test_a_png_has_its_size(tmp_path: Path) -> None:
    """Twice the SVG's 960 x 540, as the file's own header says (PNG specification, section 5.2 and 11.2.2)."""
    pytest.importorskip("resvg_py")
    if not png._has_fonts():
        pytest.skip("no fonts here")
    write(tmp_path / "step.png", [step()])
    data = (tmp_path / "step.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1920, 1080)


def test_without_the_library_the_fix_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that installs it."""
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(OomphError, match=r'pip install "oomph\[draw\]"'):
        write(tmp_path / "step.png", [step()])
    assert not (tmp_path / "step.png").exists()


def test_without_fonts_no_mute_drawing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """resvg would leave the words out without a word."""
    pytest.importorskip("resvg_py")
    monkeypatch.setattr(png, "_has_fonts", lambda: False)
    with pytest.raises(OomphError, match="fonts"):
        write(tmp_path / "step.png", [step()])


def test_fonts_are_looked_for_by_drawing() -> None:
    """A letter without any font leaves no mark, which is how their absence is seen."""
    resvg = pytest.importorskip("resvg_py")
    blank, letter = (
        bytes(resvg.svg_to_bytes(svg_string=png._LETTER.format(text), skip_system_fonts=True))
        for text in ("", '<text y="8" font-family="sans-serif">M</text>')
    )
    assert blank == letter
