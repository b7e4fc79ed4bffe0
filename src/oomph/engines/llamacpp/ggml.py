"""Tensors and graphs as ggml makes them: shapes, strides, views, and the order in which a graph is computed.

Only what decides bytes is kept: no numbers are ever computed. Operations have ggml's names, take tensors in ggml's
order and give results of ggml's shapes. Source: ggml/src/ggml.c of llama.cpp 0c1e57098.

>>> x = new(F32, 64, 5)
>>> mul_mat(new(F16, 64, 100), x).ne
(100, 5, 1, 1)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

from oomph.formats.gguf_types import BY_NAME, GgmlType

F32, F16, I32, I64 = BY_NAME["F32"], BY_NAME["F16"], BY_NAME["I32"], BY_NAME["I64"]
MAX_DIMS = 4

Shape = tuple[int, int, int, int]


@dataclass(eq=False, slots=True)
class Tensor:
    """A tensor: `ne` elements and `nb` bytes per step of each dimension, fastest first.

    `view` is the tensor whose memory it shares, `buffer` the device it lies on before the graph runs (weights, caches),
    None for what the graph allocates. `pinned` is the device that llama.cpp asks the scheduler for. `batch` is the
    number by which CUDA decides whether weights are worth being copied in for this operation.
    """

    op: str
    type: GgmlType
    ne: Shape
    nb: Shape
    src: list[Tensor] = field(default_factory=list)
    view: Tensor | None = None
    buffer: str | None = None
    weight: bool = False
    input: bool = False
    output: bool = False
    pinned: str | None = None
    name: str = ""

    @property
    def n_bytes(self) -> int:
        """Bytes from its first to its last element (ggml_nbytes)."""
        if min(self.ne) <= 0:
            return 0
        ne, nb = self.ne, self.nb
        first = nb[0] + (ne[0] - 1) * nb[0] if self.type.block == 1 else ne[0] * nb[0] // self.type.block
        return first + sum((n - 1) * step for n, step in zip(ne[1:], nb[1:], strict=True))

    @property
    def owner(self) -> Tensor:
        """The tensor whose memory this one is in."""
        return self.view or self


def strides(kind: GgmlType, ne: Shape) -> Shape:
    """Return the strides of a tensor without gaps."""
    row = kind.row_bytes(ne[0])
    return kind.size, row, row * ne[1], row * ne[1] * ne[2]


def shape(ne: Sequence[int]) -> Shape:
    """Return four dimensions, the missing ones 1."""
    filled = (*ne, 1, 1, 1)
    return filled[0], filled[1], filled[2], filled[3]


def new(kind: GgmlType, *ne: int, op: str = "NONE", src: Iterable[Tensor | None] = (), name: str = "") -> Tensor:
    """Return a tensor with memory of its own."""
    full = shape(ne)
    return Tensor(op, kind, full, strides(kind, full), [each for each in src if each is not None], name=name)


def graph_input(kind: GgmlType, *ne: int, name: str = "") -> Tensor:
    """Return a tensor that the program fills before the graph runs."""
    found = new(kind, *ne, name=name)
    found.input = True
    return found


def stored(kind: GgmlType, ne: Sequence[int], device: str, weight: bool, name: str = "") -> Tensor:
    """Return a tensor that lies on a device already: a weight, or a cache."""
    found = new(kind, *ne, name=name)
    found.buffer, found.weight = device, weight
    return found


def like(a: Tensor, op: str, *others: Tensor | None) -> Tensor:
    """Return the result of an operation whose result has the shape of its first operand: ggml_dup_tensor."""
    return new(a.type, *a.ne, op=op, src=(a, *others))


def unary(a: Tensor) -> Tensor:
    """SiLU, GELU, tanh, sigmoid ...: element by element."""
    return like(a, "UNARY")


def mul_mat(weight: Tensor, x: Tensor) -> Tensor:
    """Rows of x times rows of a matrix."""
    return new(F32, weight.ne[1], x.ne[1], x.ne[2], x.ne[3], op="MUL_MAT", src=(weight, x))


def mul_mat_id(experts: Tensor, x: Tensor, ids: Tensor) -> Tensor:
    """The same with the matrices that `ids` choose for each token."""
    return new(F32, experts.ne[1], ids.ne[0], x.ne[2], 1, op="MUL_MAT_ID", src=(experts, x, ids))


def get_rows(a: Tensor, rows: Tensor) -> Tensor:
    """Rows of a by number, as F32."""
    kind = a.type if a.type is I32 else F32
    return new(kind, a.ne[0], rows.ne[0], rows.ne[1], rows.ne[2], op="GET_ROWS", src=(a, rows))


def set_rows(a: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """Write values into rows of a; the result is a again."""
    return _view(a, "SET_ROWS", a.ne, a.nb, (values, rows, a))


def glu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    """Gated activation of two tensors, or of the halves of one."""
    first = gate.ne[0] if up is not None else gate.ne[0] // 2
    return new(gate.type, first, *gate.ne[1:], op="GLU", src=(gate, up))


def soft_max(a: Tensor, mask: Tensor | None = None, sinks: Tensor | None = None) -> Tensor:
    """Softmax of rows under a mask."""
    return like(a, "SOFT_MAX", mask, sinks)


def flash_attn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sinks: Tensor | None = None) -> Tensor:
    """Attention in one kernel."""
    return new(F32, v.ne[0], q.ne[2], q.ne[1], q.ne[3], op="FLASH_ATTN_EXT", src=(q, k, v, mask, sinks))


def cast(a: Tensor, kind: GgmlType) -> Tensor:
    """A copy in another type, which counts itself among its sources."""
    found = new(kind, *a.ne, op="CPY", src=(a,))
    found.src.append(found)
    return found


def cpy(a: Tensor, target: Tensor) -> Tensor:
    """Copy into a tensor that is there."""
    return _view(target, "CPY", target.ne, target.nb, (a, target))


def cont(a: Tensor, *ne: int) -> Tensor:
    """A copy without gaps, of another shape if one is given."""
    return new(a.type, *(ne or a.ne), op="CONT", src=(a,))


def top_k(a: Tensor, k: int) -> Tensor:
    """The k largest of each row: all of them sorted, and a view of the first (ggml_argsort_top_k)."""
    order = new(I32, *a.ne, op="ARGSORT", src=(a,))
    return _view(order, "VIEW", (k, *a.ne[1:]), order.nb, (order,))


def sum_rows(a: Tensor) -> Tensor:
    """The sum of each row."""
    return new(a.type, 1, *a.ne[1:], op="SUM_ROWS", src=(a,))


def concat(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Two tensors one after the other."""
    ne = [n + b.ne[d] if d == dim else n for d, n in enumerate(a.ne)]
    return new(a.type, *ne, op="CONCAT", src=(a, b))


def repeat(a: Tensor, *ne: int) -> Tensor:
    """A tensor repeated until it has a shape."""
    return new(a.type, *ne, op="REPEAT", src=(a,))


def pad(a: Tensor, *more: int) -> Tensor:
    """A tensor with zeros after each dimension."""
    added = (*more, 0, 0, 0)
    return new(a.type, *(n + added[d] for d, n in enumerate(a.ne)), op="PAD", src=(a,))


def _view(a: Tensor, op: str, ne: Sequence[int], nb: Shape, src: Iterable[Tensor]) -> Tensor:
    return Tensor(op, a.type, shape(ne), nb, list(src), view=a.owner)


def view(a: Tensor, *ne: int, nb: Sequence[int] = ()) -> Tensor:
    """A part of a tensor; `nb` are the strides of its second and further dimensions, without gaps where not given."""
    full = shape(ne)
    steps = [a.type.size, nb[0] if nb else a.type.row_bytes(ne[0])]
    for dim in (2, 3):
        steps.append(nb[dim - 1] if len(nb) >= dim else steps[-1] * full[dim - 1])
    return _view(a, "VIEW", full, (steps[0], steps[1], steps[2], steps[3]), (a,))


def reshape(a: Tensor, *ne: int) -> Tensor:
    """The same elements in another shape; raises ValueError where there are not as many."""
    full = shape(ne)
    if prod(full) != prod(a.ne):
        raise ValueError(f"{a.ne} has not as many elements as {full}")
    return _view(a, "RESHAPE", full, strides(a.type, full), (a,))


def permute(a: Tensor, *axes: int) -> Tensor:
    """The same elements with dimension d where axes[d] says."""
    ne, nb = [0] * MAX_DIMS, [0] * MAX_DIMS
    for d, axis in enumerate(axes):
        ne[axis], nb[axis] = a.ne[d], a.nb[d]
    return _view(a, "PERMUTE", ne, (nb[0], nb[1], nb[2], nb[3]), (a,))


def transpose(a: Tensor) -> Tensor:
    """The same elements with rows and columns exchanged."""
    ne, nb = a.ne, a.nb
    return _view(a, "TRANSPOSE", (ne[1], ne[0], *ne[2:]), (nb[1], nb[0], nb[2], nb[3]), (a,))


@dataclass
class Graph:
    """A graph: nodes in the order in which they are computed, leafs in the order in which they are met."""

    nodes: list[Tensor] = field(default_factory=list)
    leafs: list[Tensor] = field(default_factory=list)
    _seen: set[Tensor] = field(default_factory=set)

    def expand(self, tensor: Tensor) -> Tensor:
        """Add a tensor after everything it is computed from (ggml_build_forward_expand); return it."""
        if tensor not in self._seen:
            self._seen.add(tensor)
            for each in tensor.src:
                self.expand(each)
            (self.leafs if tensor.op == "NONE" else self.nodes).append(tensor)
        return tensor
