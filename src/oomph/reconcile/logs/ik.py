"""What a log of ik_llama.cpp has beside llama.cpp's lines: its own settings, which tell its builds apart, too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from oomph.reconcile.found import Line

PROGRAM = "ik_llama.cpp"
STARTS = "ik_llama.cpp/llama-server"
EARLY = "b3811"  # of July 2025; newest builds print one setting more
SIGNS = ("mla_attn ", "attn_max_b ", "fused_moe ", "fused_up_gate ", "fused_mmad ", "_cache_hadam ", "c^KV (")
_FUSED = re.compile(r"\bfused_moe {1,10}= {1,4}([01])$")
_NEWEST = re.compile(r"\bfused_up_gate {1,10}= {1,4}[01]$")
_NUMBERS = (
    ("-mla", re.compile(r"\bmla_attn {1,10}= {1,4}([0-3])$")),
    ("-amb", re.compile(r"\battn_max_b {1,10}= {1,4}([0-9]{1,9})$")),
)
# Switches: the number that a setting has where the switch is thrown.
_SWITCHES = (
    ("-fmoe", "1", _FUSED),
    ("-no-fmoe", "0", _FUSED),
    ("-no-fug", "0", re.compile(r"\bfused_up_gate {1,10}= {1,4}([01])$")),
    ("-no-mmad", "0", re.compile(r"\bfused_mmad {1,10}= {1,4}([01])$")),
    ("-khad", "1", re.compile(r"\bk_cache_hadam {1,10}= {1,4}([01])$")),
    ("-vhad", "1", re.compile(r"\bv_cache_hadam {1,10}= {1,4}([01])$")),
)
_LATENT = re.compile(r"c\^KV \(([a-z0-9_]{1,10})\)")


def wrote(lines: Sequence[Line]) -> bool:
    """Tell whether it was ik_llama.cpp that wrote these lines."""
    return any(_FUSED.search(line.text.rstrip()) for line in lines)


def build(lines: Sequence[Line]) -> str:
    """Return the build whose rules are to be taken, "" for the newest known here."""
    return "" if any(_NEWEST.search(line.text.rstrip()) for line in lines) else EARLY


def words(lines: Sequence[Line]) -> Iterator[str]:
    """Yield the flags that its own settings come from."""
    texts = [line.text.rstrip() for line in lines]
    for flag, pattern in (*_NUMBERS, ("-ctk", _LATENT)):
        found = next((match for text in texts if (match := pattern.search(text))), None)
        if found:
            yield from (flag, found[1])
    for flag, thrown, pattern in _SWITCHES:
        if any(match[1] == thrown for text in texts if (match := pattern.search(text))):
            yield flag
