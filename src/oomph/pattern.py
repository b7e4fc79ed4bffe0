"""What repeats among decoder layers: a few layers, a period of layers again and again, a few layers.

Equal layers are the same object (blocks/base.py), so the pattern is read off which layers are one. Llama's period is
one layer, Gemma 2's two (sliding, full), Gemma 3's six; DeepSeek's comes after a few dense layers, Qwen 2's before
those with a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from oomph.blocks.base import Block
    from oomph.tape.sizes import Size
    from oomph.tensor import Tensor


class Pattern(NamedTuple):
    """Layers `before` those that repeat, one `period` of them, and layers `after`; a last period may be cut short."""

    before: tuple[Block | Tensor, ...]
    period: tuple[Block | Tensor, ...]
    after: tuple[Block | Tensor, ...]

    @property
    def fixed(self) -> int:
        """How many layers do not become more with depth."""
        return len(self.before) + len(self.after)

    def layers(self, depth: int) -> tuple[Block | Tensor, ...]:
        """Return as many layers of this pattern."""
        body = depth - self.fixed
        periods = -(-body // len(self.period))
        return (*self.before, *(self.period * periods)[:body], *self.after)


class Depth(NamedTuple):
    """How many layers a model is meant to have where it stands for a deeper one of the same pattern."""

    layers: Size
    pattern: Pattern


def pattern(layers: Sequence[Block | Tensor]) -> Pattern | None:
    """Return the pattern by which most layers are told from those before them; None where no period comes twice.

    >>> pattern("abababc"), pattern("aaabbbbbb"), pattern("a"), pattern("abc")
    (Pattern(before=(), period=('a', 'b'), after=('c',)), Pattern(before=('a', 'a', 'a'), period=('b',), after=()),\
 Pattern(before=(), period=('a',), after=()), None)
    """
    names = [id(layer) for layer in layers]
    if len(set(names)) == 1:
        return Pattern((), (layers[0],), ())
    most, start, end, length = 0, 0, 0, 0
    for period in range(1, len(names) // 2 + 1):
        if len(names) - period <= most:
            break
        for begin, stop in _runs(names, period):
            told = stop - begin - period
            if told >= period and told > most:
                most, start, end, length = told, begin, stop, period
    if not most:
        return None
    return Pattern(tuple(layers[:start]), tuple(layers[start : start + length]), tuple(layers[end:]))


def _runs(names: Sequence[int], period: int) -> list[tuple[int, int]]:
    """Return (start, end) of every longest run in which each name is that of `period` places before."""
    found, start = [], 0
    for at in range(period, len(names) + 1):
        if at == len(names) or names[at] != names[at - period]:
            found.append((start, at))
            start = at - period + 1
    return found
