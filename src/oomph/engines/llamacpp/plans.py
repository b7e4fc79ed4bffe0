"""A graph's memory as a function of the context: played once, and again only from where another context differs.

What tensors take grows in proportion to the cells of the caches. A play on numbers that know this (along.py) is true of
every context in which the same blocks are found, and up to its last layer of many more: there the mask is free again,
and what comes after looks at how large it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from oomph.engines.llamacpp.along import Along, Span
from oomph.engines.llamacpp.gallocr import Amount, Buffer, Memory, Step
from oomph.engines.llamacpp.graph_layers import Run
from oomph.engines.llamacpp.graph_setup import GraphSetup

PADDED = 256  # cells that a context grows by
MOST_PLAYED = 32


@dataclass(frozen=True, eq=False)
class Played:
    """A play for `cells`: memory before the last layer, what each buffer is at the end, and how far both hold."""

    cells: int
    memory: Memory
    memory_holds: Span
    n_bytes: Sequence[Amount]
    n_bytes_hold: Span

    def within(self, cells: int, span: Span) -> bool:
        """Tell whether a context is one of those that something holds for."""
        return not (cells - self.cells) % PADDED and span.low <= self.step(cells) <= span.high

    def step(self, cells: int) -> int:
        """Return how far a context is from the one that was played."""
        return (cells - self.cells) // PADDED


@dataclass(frozen=True, eq=False)
class Plan:
    """What the graph of one batch takes and frees; sizes are those at no cells, and what each cell adds to them.

    `marks` are the steps at which layers begin; `whole` the plan with every layer, where those left out (`runs`) would
    not leave the allocator as they found it.
    """

    setup: GraphSetup
    alignments: Sequence[int]
    steps: tuple[Step, ...]
    grows: tuple[tuple[int, int, int, int], ...]  # bytes taken and kept, by a cell and by one of a window's cache
    marks: tuple[int, ...]
    runs: tuple[Run, ...]
    whole: Callable[[], Plan]
    played: dict[int, list[Played]] = field(default_factory=dict)

    def play(self, cells: int, swa_cells: int) -> list[int]:
        """Return what each device needs in a context."""
        windows = 0 if swa_cells == cells else swa_cells  # those that stay as they are when a context grows
        known = self.played.setdefault(windows, [])
        for each in known:
            if each.within(cells, each.n_bytes_hold):
                return [_at(n, each.step(cells)) for n in each.n_bytes]
        for each in known:
            if each.within(cells, each.memory_holds):
                memory = each.memory.copy(partial(_at, step=each.step(cells)))
                memory.play(self.sizes(cells, swa_cells, self.marks[-1]))
                return memory.n_bytes
        found = self._play(cells, windows)
        if found is None:
            return self._whole.play(cells, swa_cells)
        if len(known) == MOST_PLAYED:
            known.clear()
        known.append(found)
        return [_at(n, 0) for n in found.n_bytes]

    def _play(self, cells: int, windows: int) -> Played | None:
        """Play for contexts around one; None where layers do not leave the allocator as they found it."""
        span = Span()
        along = span.number(cells, PADDED)
        steps = self.sizes(along, windows or along)
        memory = Memory([Buffer(each) for each in self.alignments])
        states, done = [], 0
        for mark in self.marks:
            memory.play(steps[done:mark])
            states.append(memory.state)
            done = mark
        if not all(states[run.before] == states[run.after] for run in self.runs):
            return None
        before, holds = memory.copy(), replace(span)
        memory.play(steps[done:])
        return Played(cells, before, holds, memory.n_bytes, span)

    def sizes(self, cells: Amount, swa_cells: Amount, first: int = 0) -> list[Step]:
        """Return the steps in a context, from one on."""

        def grown(n: Amount, of_cell: int, of_swa_cell: int) -> Amount:
            n = n + of_cell * cells if of_cell else n
            return n + of_swa_cell * swa_cells if of_swa_cell else n

        return [
            Step(taken, buffer, slot, grown(n, a, b), grown(kept, c, d))
            for (taken, buffer, slot, n, kept), (a, b, c, d) in zip(self.steps[first:], self.grows[first:], strict=True)
        ]

    def at_most(self, buffer: int, cells: int, swa_cells: int) -> int:
        """Return more than what a buffer can need: everything that is ever taken of it, beside all else."""
        const, a, b = self._sums[buffer]
        return const + a * cells + b * swa_cells

    @cached_property
    def _sums(self) -> list[tuple[int, int, int]]:
        found = [[0, 0, 0] for _ in self.alignments]
        for step, (a, b, _, _) in zip(self.steps, self.grows, strict=True):
            if step.taken:
                sums = found[step.buffer]
                sums[0] += step.n_bytes + self.alignments[step.buffer]
                sums[1] += a
                sums[2] += b
        return [(const, a, b) for const, a, b in found]

    @cached_property
    def _whole(self) -> Plan:
        return self.whole()


def _at(number: Amount, step: int) -> int:
    """Return a number some steps away."""
    return number.at(step) if isinstance(number, Along) else number
