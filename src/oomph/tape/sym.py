"""Symbolic tensors: shape, strides, dtype, and a storage whose end of life is an event.

Strides are modelled because layouts decide where torch copies: a "contiguous" flag is not enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from oomph.dtypes import BITS
from oomph.tape.sizes import Size, number, product, yes

if TYPE_CHECKING:
    from oomph.tape.tape import Tape

CHANNELS_LAST = (1, 3, 2, 0)  # axes of [B, C, H, W], the innermost first
WIDTH = {name: bits // 8 for name, bits in BITS.items() if bits >= 8}  # bytes per element
# Layouts are asked for again and again: a step has a thousand tensors of a few dozen shapes.
remembered = lru_cache(4096)
Sizes: TypeAlias = "tuple[Size, ...]"
Layout: TypeAlias = "tuple[Sizes, Sizes]"  # shape and strides
Place: TypeAlias = "tuple[tuple[int, Any], ...]"  # (axis, index or size) of each cut that led to a part of a tensor


class Storage:
    """Bytes on the device. Nothing but reference counts ends it, as with torch's own."""

    __slots__ = ("__weakref__", "events", "ordinal", "tape")

    def __init__(self, tape: Tape, n_bytes: Size, op: str, shape: tuple[Size, ...], dtype: str) -> None:
        self.tape = tape
        self.events = tape.recorder.events
        self.ordinal = tape.recorder.allocate(n_bytes, op, shape, dtype, tape.scope)

    def __del__(self) -> None:
        self.events.append(~self.ordinal)


class OnHost(Storage):
    """Bytes in the machine's memory: no event tells of them."""

    __slots__ = ()

    def __init__(self, tape: Tape) -> None:
        self.tape = tape

    def __del__(self) -> None:
        """Say nothing."""


class Sym:
    """A symbolic tensor. `node` and `output` say which operation's which output it is; a leaf has no node.

    `is_view` means that a base tensor shares the storage, so gradients are never added into it in place. `place` tells
    parts of a tensor apart that begin elsewhere: by the axis and index of each cut, () for what begins where it does.
    `backward_hook`, where a leaf has been given one, is called with its gradient before that is accumulated; slots die
    in order of their names, so that it does before `grad`.
    """

    __slots__ = (
        "__weakref__", "accumulator", "backward_hook", "dtype", "grad", "is_view", "node", "output", "place",
        "requires_grad", "shape", "storage", "strides",
    )  # fmt: skip
    backward_hook: Callable[[Sym], None]  # unset but for few

    def __init__(
        self, shape: Sequence[Size], dtype: str, strides: Sequence[Size], storage: Storage, place: Place = ()
    ) -> None:
        self.place = place
        self.shape = tuple(shape)
        self.dtype = dtype
        self.strides = tuple(strides)
        self.storage = storage
        self.requires_grad = False
        self.node: Any = None
        self.output = 0
        self.accumulator: Any = None
        self.grad: Sym | None = None
        self.is_view = False

    @property
    def tape(self) -> Tape:
        """The tape this tensor lives on."""
        return self.storage.tape

    @property
    def made_for(self) -> str:
        """The path of the module or parameter whose storage this is."""
        return self.storage.tape.recorder.allocations[self.storage.ordinal].scope

    @property
    def is_leaf(self) -> bool:
        """True for what no recorded operation made."""
        return self.node is None

    def detach(self) -> Sym:
        """Return the same storage without history."""
        return Sym(self.shape, self.dtype, self.strides, self.storage, self.place)

    def is_contiguous(self) -> bool:
        """Tell whether elements lie in row-major order without gaps; axes of length 1 do not matter."""
        return _is_contiguous(self.shape, self.strides)

    def is_dense(self) -> bool:
        """Tell whether elements lie without gaps and overlaps, in any order of axes."""
        return _is_dense(self.shape, self.strides)

    # Arithmetic reads in programs as it does in the modules they mirror.
    def __add__(self, other: Sym | float) -> Sym:
        from oomph.ops import elementwise

        return elementwise.add(self, other) if isinstance(other, Sym) else elementwise.add_scalar(self)

    def __mul__(self, other: Sym | float) -> Sym:
        from oomph.ops import elementwise

        return elementwise.mul(self, other) if isinstance(other, Sym) else elementwise.mul_scalar(self)

    __rmul__ = __mul__
    __radd__ = __add__

    def __sub__(self, other: Sym) -> Sym:
        from oomph.ops import elementwise

        return elementwise.sub(self, other)

    def __truediv__(self, other: float) -> Sym:
        from oomph.ops import elementwise

        return elementwise.mul_scalar(self)

    def __neg__(self) -> Sym:
        from oomph.ops import elementwise

        return elementwise.neg(self)


@remembered
def _is_contiguous(shape: Sizes, strides: Sizes) -> bool:
    expected: Size = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if not yes((size == 1) | (stride == expected)):
            return False
        expected = expected * size
    return True


@remembered
def _is_dense(shape: Sizes, strides: Sizes) -> bool:
    expected: Size = 1
    axes = [axis for axis in range(len(shape)) if not yes(shape[axis] == 1)]
    axes.sort(key=lambda axis: number(strides[axis]))
    for axis in axes:
        if not yes(strides[axis] == expected):
            for a, b in pairwise(axes):
                yes(strides[a] <= strides[b])  # the order of the axes is a branch too
            return False
        expected = expected * shape[axis]
    return True


@remembered
def row_major(shape: Sizes) -> Sizes:
    """Return the strides of a contiguous tensor.

    >>> row_major((2, 3, 4))
    (12, 4, 1)
    """
    strides: list[Size] = []
    step: Size = 1
    for size in reversed(shape):
        strides.append(step)
        step = step * size
    return tuple(reversed(strides))


def channels_last(shape: Sequence[Size]) -> Sizes:
    """Return the strides of [B, C, H, W] with channels innermost.

    >>> channels_last((2, 3, 4, 5))
    (60, 1, 15, 3)
    """
    batch, channels, height, width = shape
    inner = row_major((batch, height, width, channels))
    return inner[0], inner[3], inner[1], inner[2]


def is_channels_last(x: Sym) -> bool:
    """Tell whether torch takes [B, C, H, W] for one with channels innermost, gaps or not.

    Source: c10/core/MemoryFormat.h, is_channels_last_strides_2d_s4.
    """
    if len(x.shape) != len(CHANNELS_LAST):
        return False
    least: Size = 0
    if yes(x.strides[1] == 0):
        return False
    for axis in CHANNELS_LAST:
        size, stride = x.shape[axis], x.strides[axis]
        if yes(size == 0) or yes(stride < least) or (axis == 0 and yes(least == x.strides[1])):
            return False
        least = stride * size if yes(size > 1) else stride
    return True


@remembered
def _n_bytes(shape: Sizes, dtype: str) -> Size:
    return product(shape) * WIDTH[dtype]


def new(tape: Tape, shape: Sequence[Size], dtype: str, strides: Sequence[Size] | None = None, op: str = "") -> Sym:
    """Return a tensor with a storage of its own, contiguous unless `strides` (dense) are given."""
    shape = tuple(shape)
    storage = Storage(tape, _n_bytes(shape, dtype), op, shape, dtype)
    return Sym(shape, dtype, row_major(shape) if strides is None else strides, storage)


def on_host(tape: Tape, shape: Sequence[Size], dtype: str) -> Sym:
    """Return a tensor in the machine's memory."""
    return Sym(shape, dtype, row_major(tuple(shape)), OnHost(tape))


def is_on_host(x: Any) -> bool:
    """Tell whether something is a tensor in the machine's memory."""
    return isinstance(x, Sym) and isinstance(x.storage, OnHost)


def visiting(x: Sym) -> Sym:
    """Return a tensor on the device: itself, or a copy of one in the machine's memory, as accelerate's hooks do."""
    if not is_on_host(x):
        return x
    return x.tape.note(new(x.tape, x.shape, x.dtype, op="to"), "parameter on a visit")


def view_of(base: Sym, shape: Sequence[Size], strides: Sequence[Size]) -> Sym:
    """Return another look at the same storage."""
    made = Sym(shape, base.dtype, strides, base.storage, base.place)
    made.is_view = True
    return made


def elementwise_strides(shape: Sequence[Size], operands: Sequence[Sym]) -> Sizes:
    """Return the layout torch's TensorIterator gives an elementwise result: axes ordered by the operands' strides.

    Source: ATen/native/TensorIterator.cpp, reorder_dimensions: insertion sort, the first operand whose strides
    differ decides, broadcast axes (stride 0) are ambiguous.
    """
    return _elementwise_strides(tuple(shape), tuple([(one.shape, one.strides) for one in operands]))


@remembered
def _elementwise_strides(shape: Sizes, operands: tuple[Layout, ...]) -> Sizes:
    rank = len(shape)
    tables = [_aligned(operand, shape) for operand in operands]
    order = list(range(rank))[::-1]
    for at in range(1, rank):
        here = at
        for before in range(at - 1, -1, -1):
            verdict = _compare(order[before], order[here], tables, shape)
            if verdict > 0:
                order[before], order[here] = order[here], order[before]
                here = before
            elif verdict < 0:
                break
    strides: list[Size] = [0] * rank
    step: Size = 1
    for axis in order:
        strides[axis] = step
        step = step * shape[axis]
    return tuple(strides)


def _aligned(operand: Layout, shape: Sizes) -> list[Size]:
    """Return an operand's strides on the axes of the result, 0 where it is broadcast."""
    missing = len(shape) - len(operand[0])
    found: list[Size] = [0] * missing
    for axis, (size, stride) in enumerate(zip(*operand, strict=True), missing):
        found.append(0 if yes(size == 1) and not yes(shape[axis] == 1) else stride)
    return found


def _compare(a: int, b: int, tables: Sequence[Sequence[Size]], shape: Sequence[Size]) -> int:
    for strides in tables:
        x, y = strides[a], strides[b]
        if yes(x == 0) or yes(y == 0):
            continue
        if yes(x < y):
            return -1
        if yes(x > y) or yes(shape[a] > shape[b]):
            return 1
    return 0


def view_strides(shape: Sequence[Size], strides: Sequence[Size], wanted: Sequence[Size]) -> Sizes | None:
    """Return the strides of a view of another shape, None if only a copy can have that shape.

    Source: ATen/TensorUtils.cpp, computeStride: axes that follow each other in memory form chunks, and the new
    axes must cut within chunks.
    """
    return _view_strides(tuple(shape), tuple(strides), tuple(wanted))


@remembered
def _view_strides(shape: Sizes, strides: Sizes, wanted: Sizes) -> Sizes | None:
    if not shape:
        return (1,) * len(wanted)
    found: list[Size] = [0] * len(wanted)
    at = len(wanted) - 1
    base, chunk, filled = strides[-1], 1, 1
    for axis in range(len(shape) - 1, -1, -1):
        chunk = chunk * shape[axis]
        ends = axis == 0 or (not yes(shape[axis - 1] == 1) and not yes(strides[axis - 1] == chunk * base))
        if not ends:
            continue
        while at >= 0 and (yes(filled < chunk) or yes(wanted[at] == 1)):
            found[at] = filled * base
            filled = filled * wanted[at]
            at -= 1
        if not yes(filled == chunk):
            return None
        if axis > 0:
            base, chunk, filled = strides[axis - 1], 1, 1
    return tuple(found) if at == -1 else None


def broadcast(a: Sequence[Size], b: Sequence[Size]) -> Sizes:
    """Return the shape two operands have together.

    >>> broadcast((2, 1, 4), (3, 1))
    (2, 3, 4)
    """
    rank = max(len(a), len(b))
    a = (1,) * (rank - len(a)) + tuple(a)
    b = (1,) * (rank - len(b)) + tuple(b)
    return tuple(_wider(x, y) for x, y in zip(a, b, strict=True))


def _wider(x: Size, y: Size) -> Size:
    """Return the one of two sizes that is not 1; an axis that has 1 place in this job stays that axis beside a 1."""
    if x is y or (isinstance(y, int) and y == 1):
        return x
    if isinstance(x, int) and x == 1:
        return y
    return y if yes(x == 1) and not yes(y == 1) else x
