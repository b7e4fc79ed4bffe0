"""What a CUDA kernel allocates inside an operation, around its results: played on a GPU, unseen by a trace. And what
operations written in Python have in common.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from oomph.ops.indexing import reshaped
from oomph.tape.sym import Sym, new
from oomph.workspaces import Buffer, Freed, Step

if TYPE_CHECKING:
    from oomph.tape.autograd import Node
    from oomph.tape.sizes import Size
    from oomph.tape.tape import Tape

T = TypeVar("T")


def run(tape: Tape, steps: tuple[Step, ...], results: Callable[[], T]) -> T:
    """Return an operation's results, its kernel's buffers coming and going around them; what is left dies last first.

    A CPU's kernels and a trace have no such buffers: there the results are all.

    >>> from oomph.tape import Tape
    >>> from oomph.workspaces import OUTPUTS
    >>> tape = Tape()
    >>> run(tape, (Buffer("scratch", (256,), "fp32"), OUTPUTS), lambda: tape.empty((8,), "bf16")).shape
    (8,)
    >>> [one.op for one in tape.recorder.allocations], tape.recorder.events
    (['scratch', 'empty'], [0, 1, -1, -2])
    """
    if tape.on != "gpu":
        return results()
    buffers: dict[str, Sym] = {}
    for step in steps:
        if isinstance(step, Buffer):
            buffers[step.name] = new(tape, step.shape, step.dtype, op=step.name)
        elif isinstance(step, Freed):
            del buffers[step.name]
        else:
            found = results()
    while buffers:
        buffers.popitem()
    return found


def seen(x: Sym, shape: Any) -> Sym:
    """Return the same bytes in another shape: a gradient in its own right, whoever made the storage."""
    found = reshaped(x, shape)
    found.is_view = False
    return found


def let_go(saved: list[Any]) -> None:
    """End saved tensors as the locals of a Python function end: the first one first."""
    while saved:
        saved.pop(0)


def end_kept(kept: list[Any], node: Node | None) -> None:
    """Let go what was made to be saved: in turn as it is packed, or the last first if nothing takes the tuple over."""
    while kept:
        kept.pop(-1 if node is None else 0)


def zeros_of_second(node: Node, gradients: list[Sym | None], shape: tuple[Size, ...]) -> Sym | None:
    """Return what torch makes for a second output in fp32, if there is one, whose gradient nobody gives: zeros."""
    if node.outputs == 1 or gradients[1] is not None or gradients[0] is None:
        return None
    return new(gradients[0].tape, shape, "fp32", op="zeros")
