"""What MLX holds beside weights and caches while tokens go through: the arrays of kernels that are not done yet.

MLX encodes kernels into Metal command buffers much faster than the GPU runs them. A buffer is committed once it has
more than so many kernels, or reads and writes more than so many Mi elements; what its kernels read is held until the
GPU has done it. When more than ten are on their way, MLX waits for the oldest. So the arrays of eleven command buffers
are alive at a time, and which those are follows from the sizes of the operations.

Source: mlx 0.32.4 transforms.cpp (MAX_ACTIVE_TASKS), backend/metal/eval.cpp, backend/metal/device.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from oomph.engines.mlx.operations import Op
from oomph.units import KIB

MAX_ACTIVE = 10  # command buffers on their way before MLX waits
MI = 2**20  # it counts elements by this, and calls them MB
PAGE = 16 * KIB  # a buffer of more than a page is whole pages
LONGEST_PERIOD = 8  # layers after which the longest pattern of a family comes again


class Limits(NamedTuple):
    """The kernels and Mi elements of one command buffer, by the last letter of the GPU's architecture."""

    kernels: int
    mi_elements: int


BASE, LARGE = Limits(40, 40), Limits(50, 50)  # M1 ... M4 and Pro; Max and Ultra


class InFlight(NamedTuple):
    """Bytes of arrays beside weights and caches at their largest, and what no order of kernels exceeds."""

    n_bytes: int
    safe_bytes: int


class _Player:
    """Arrays by number, each with its owners: names that are bound to it, and command buffers that read it."""

    def __init__(self, item: int, limits: Limits) -> None:
        self.item, self.limits = item, limits
        self.sizes: list[int] = []  # elements of each array ever made
        self.bytes: list[int] = []
        self.owners: list[int] = []
        self.alive = self.peak = 0
        self.made = self.widest = 0  # elements of all arrays, and those that one kernel reads and makes at most
        self.names: dict[str, int] = {}
        self.on_their_way: list[set[int]] = []
        self.held: set[int] = set()
        self.seen: set[int] = set()
        self.elements = self.kernels = 0

    def make(self, elements: int, counted: bool) -> int:
        n_bytes = elements * self.item if counted else 0
        n_bytes = -(-n_bytes // PAGE) * PAGE if n_bytes > PAGE else n_bytes
        self.sizes.append(elements)
        self.bytes.append(n_bytes)
        self.owners.append(0)
        self.alive += n_bytes
        if self.alive > self.peak:
            self.peak = self.alive
        return len(self.sizes) - 1

    def bind(self, name: str, array: int) -> None:
        self.owners[array] += 1
        if name in self.names:
            self.drop(self.names[name])
        self.names[name] = array

    def drop(self, array: int) -> None:
        owners = self.owners
        owners[array] -= 1
        if not owners[array]:
            self.alive -= self.bytes[array]

    def play(self, layer: Sequence[tuple[Op, Sequence[str]]]) -> None:
        """Run a layer's operations; behind each the names that are let go after it."""
        names, sizes = self.names, self.sizes
        for (read, makes, elements, weights, kept, runs), ended in layer:
            reads = [names[name] for name in read]
            array = self.make(elements, not kept) if elements else reads[0]
            if runs:
                self.encode(reads, array, weights)
            self.bind(makes, array)
            if not kept:
                self.made += elements
            touched = elements
            for each in reads:
                touched += sizes[each]
            if touched > self.widest:
                self.widest = touched
            for name in ended:
                self.drop(names.pop(name))

    def encode(self, reads: Sequence[int], makes: int, weights: int) -> None:
        """Put a kernel into the open command buffer, and commit that if it is full."""
        seen, held, sizes = self.seen, self.held, self.sizes
        elements = self.elements + weights
        for array in reads:
            if array not in seen:
                seen.add(array)
                elements += sizes[array]
            if array not in held and array != makes:
                held.add(array)
                self.owners[array] += 1
        if makes not in seen:
            seen.add(makes)
            elements += sizes[makes]
        self.elements = elements
        self.kernels += 1
        if self.kernels > self.limits.kernels or elements // MI > self.limits.mi_elements:
            self.on_their_way.append(held)
            self.held, self.seen, self.elements, self.kernels = set(), set(), 0, 0
            if len(self.on_their_way) > MAX_ACTIVE:
                for array in self.on_their_way.pop(0):
                    self.drop(array)


def in_flight(
    layers: Sequence[Sequence[Op]], start: int, item: int, limits: Limits, last: Sequence[Op] = ()
) -> InFlight:
    """Return what is held while layers run one after the other, and `last` behind them, on a first array of `start`
    elements of `item` bytes.

    Two kernels that each make an array of 60 Mi elements fill two command buffers; nothing is done yet.
    >>> layer = [Op(("x",), "n", 60 * MI), Op(("n",), "x", 60 * MI)]
    >>> in_flight([layer], MI, 2, BASE).n_bytes // MI
    242
    """
    player = _Player(item, limits)
    player.bind("x", player.make(start, counted=True))
    grew = 0
    alike = {id(layer): _ended(layer) for layer in {id(layer): layer for layer in layers}.values()}
    for number, layer in enumerate(layers):
        peak = player.peak
        player.play(alike[id(layer)])
        grew = number if player.peak > peak else grew
        if number - grew > LONGEST_PERIOD and len(player.on_their_way) == MAX_ACTIVE:
            player.made *= len(layers)  # the rest is the same again
            break
    player.play(_ended(last))
    bound = min(player.made, (MAX_ACTIVE + 1) * ((limits.mi_elements + 1) * MI + player.widest)) * item
    return InFlight(player.peak, max(player.peak, bound))


def _ended(layer: Sequence[Op]) -> list[tuple[Op, list[str]]]:
    """Return each operation with the names that stand in none after it."""
    last = {name: at for at, op in enumerate(layer) for name in (*op.reads, op.makes)}
    return [(op, [name for name in {*op.reads, op.makes} - {"x"} if last[name] == at]) for at, op in enumerate(layer)]
