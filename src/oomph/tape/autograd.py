"""torch's autograd engine, mirrored: what is saved, which node runs next, when each gradient is born and dies.

The details that decide bytes (torch/csrc/autograd/engine.cpp, input_buffer.cpp, functions/accumulate_grad.h):
- The next node is the ready one with the highest sequence number, that is, recorded last; AccumulateGrad runs at once,
  several of them in the order that a heap gives (ready.py).
- A node's saved tensors are released after it ran, its inputs before its outputs are passed on.
- A tensor used twice has its gradients summed; in place if the first sum is uniquely owned and no view.
- AccumulateGrad steals the first gradient if nobody else holds it and its layout is the parameter's, else copies it.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from oomph.errors import UsageError
from oomph.tape.ready import ReadyQueue
from oomph.tape.sizes import Size, product, yes
from oomph.tape.sym import Sym, elementwise_strides, new, row_major
from oomph.workspaces import Buffer, column_sum

if TYPE_CHECKING:
    from oomph.tape.tape import Tape

Gradients: TypeAlias = "list[Sym | None]"
Backward: TypeAlias = "Callable[[Node, Gradients, list[Any]], Gradients]"

# References a gradient has that only the engine holds: the buffer, a local, an argument of getrefcount; its storage
# has the gradient's own and the argument.
UNIQUE_GRADIENT, UNIQUE_STORAGE, STOLEN = 3, 2, 2
ONLY_EDGE = 2  # references a node has that only one edge holds: the edge and the argument of getrefcount


class Node:
    """One recorded operation: who made its inputs, what it saved, and what its backward allocates."""

    __slots__ = (
        "__weakref__", "backward", "context", "edges", "in_python", "inputs", "made", "name", "outputs", "saved",
        "scope", "sequence",
    )  # fmt: skip

    def __init__(self, name: str, sequence: int, inputs: Sequence[Sym], backward: Backward, outputs: int) -> None:
        self.name = name
        self.sequence = sequence
        self.backward = backward
        self.outputs = outputs
        self.scope = inputs[0].tape.scope
        self.edges = [_edge(operand) for operand in inputs]
        self.inputs = [(operand.shape, operand.dtype) for operand in inputs]
        self.saved: list[Any] = []
        self.made: dict[int, int] = {}  # the ordinals of its outputs' storages
        self.context: Any = None
        self.in_python = (
            False  # as a Python function's: gradients that nobody wants live until the others are passed on
        )

    def needs(self, index: int) -> bool:
        """Tell whether the gradient of this input is wanted."""
        return self.edges[index] is not None

    def __del__(self) -> None:
        """Take the graph below down node by node, as torch's deleteNode does: before the tensor it was hung on dies.

        Left alone, CPython would put the end of a deep graph off until after that tensor's. What a node saved goes
        first, the last one before those that were saved earlier (release_variables).
        """
        self.saved.clear()  # a list dies back to front
        orphans: list[Target] = []
        _move_orphans(self, orphans)
        while orphans:
            node = orphans.pop()
            if isinstance(node, Node):
                node.saved.reverse()  # below the first node saved tensors die in their order
                _move_orphans(node, orphans)


class AccumulateGrad:
    """Where a leaf's gradient ends. It keeps its leaf alive; the leaf knows it only weakly."""

    __slots__ = ("__weakref__", "leaf")

    def __init__(self, leaf: Sym) -> None:
        self.leaf = leaf


Target: TypeAlias = "Node | AccumulateGrad"


class Task:
    """A run of the engine: the node at work, what is called when its backward is over, and when all of them are."""

    __slots__ = ("callbacks", "hooks", "node")

    def __init__(self) -> None:
        self.node: Node | None = None
        self.hooks: list[Callable[[], None]] = []
        self.callbacks: list[Callable[[], None]] = []


def _move_orphans(node: Node, orphans: list[Target]) -> None:
    """Cut a node's edges, keeping those nodes that nobody else holds (gatherFunctions)."""
    for index, edge in enumerate(node.edges):
        node.edges[index] = None
        if edge is not None and sys.getrefcount(edge[0]) <= ONLY_EDGE:
            orphans.append(edge[0])


def _edge(operand: Sym) -> tuple[Target, int] | None:
    """Return where the gradient of an operand goes; None if it wants none."""
    if not operand.requires_grad:
        return None
    if operand.node is not None:
        return operand.node, operand.output
    known = operand.accumulator() if operand.accumulator is not None else None
    if known is None:
        known = AccumulateGrad(operand)
        operand.accumulator = weakref.ref(known)
    return known, 0


def record(name: str, inputs: Sequence[Sym], backward: Backward, outputs: int = 1) -> Node | None:
    """Return the node of an operation about to run, None if no input wants a gradient.

    Called before the result is allocated: torch builds the node and saves inputs first.
    """
    tape = inputs[0].tape
    if not tape.grad_enabled or not any(operand.requires_grad for operand in inputs):
        return None
    node = Node(name, tape.next_sequence, inputs, backward, outputs)
    tape.next_sequence += 1
    return node


def save(node: Node | None, *tensors: Sym | None) -> None:
    """Keep tensors for the backward pass, in torch's order: alphabetical by the name of the saved field."""
    if node is None:
        return
    for tensor in tensors:
        if tensor is None:
            node.saved.append(None)
        else:
            tape = tensor.tape
            hook = tape.pack_hooks[-1] if tape.pack_hooks else None
            if hook is not None:
                node.saved.append(hook(tensor))
            else:
                tape.recorder.why.setdefault(tensor.storage.ordinal, f"saved for {node.name}")
                node.saved.append(tensor.detach())


def made_by(result: Sym, node: Node | None, output: int = 0) -> Sym:
    """Return the result with its history."""
    if node is not None:
        result.requires_grad, result.node, result.output = True, node, output
        node.made[output] = result.storage.ordinal
    return result


def backward(loss: Sym) -> None:
    """Play the backward pass of a scalar: gradients end in the leaves' `grad`.

    Raises UsageError for a scalar that does not depend on anything that trains, as torch refuses it.
    """
    tape, start = loss.tape, _start(loss)
    with tape.no_grad():
        root = new(tape, (), loss.dtype, op="ones_like")  # lives until the pass is over
        run_engine(tape, start, [root])
        del root
        tape.scope = ""


def _start(loss: Sym) -> Target:
    """Return where a backward pass begins: a leaf's gradient ends there at once, and is told to its hook."""
    edge = _edge(loss)
    if edge is None:
        raise reaches_nothing()
    return edge[0]


def reaches_nothing() -> UsageError:
    """Return the refusal of a loss from which no gradient comes to what trains."""
    fix = "Train other parts, or give it what they read: --images 1, for a tower's or a projector's."
    return UsageError("The loss depends on nothing that trains.", fix)


def _rank(target: Target) -> int:
    return target.sequence if isinstance(target, Node) else sys.maxsize


def run_engine(tape: Tape, start: Target, incoming: Gradients) -> None:
    """Run backward from a node with the gradients of its outputs, which the caller holds throughout.

    A node's own backward may run the engine again (reentrant checkpointing). torch puts both runs into one queue where
    the inner one comes first, so it is over before the outer one goes on.
    """
    waiting = _dependencies(start)
    buffers: dict[Target, Gradients] = {start: list(incoming)}
    ready: ReadyQueue[Target] = ReadyQueue()
    ready.push(_rank(start), start)
    task = Task()
    tape.tasks.append(task)
    while ready:
        node = ready.pop()
        gradients = buffers.pop(node)
        if isinstance(node, AccumulateGrad):
            _accumulate_grad(node, gradients)
            del gradients
            continue
        if tape.on_node is not None:
            tape.on_node(node.sequence)
        tape.scope = node.scope
        results = _call(node, gradients, task)
        gradients.reverse()  # a std::vector dies front to back, a list back to front
        del gradients
        for index in range(len(node.saved)):  # release_variables
            node.saved[index] = None
        for index, edge in enumerate(node.edges):
            if edge is None:
                continue
            target, output = edge
            waiting[target] -= 1
            buffer = buffers.get(target)
            if buffer is None:
                buffer = buffers[target] = [None] * (target.outputs if isinstance(target, Node) else 1)
            _take(tape, buffer, output, results, index)
            buffer = None
            if not waiting[target]:
                ready.push(_rank(target), target)
        results.reverse()  # it dies front to back
        del results
    tape.tasks.pop()
    for callback in task.callbacks:
        callback()


def root_of(outputs: Sequence[Sym]) -> Node:
    """Return what runs first where a pass begins at several tensors (GraphRoot): it hands out their gradients."""
    return Node("GraphRoot", sys.maxsize, outputs, lambda node, gradients, saved: list(gradients), len(outputs))


def _dependencies(root: Target) -> dict[Target, int]:
    """Return how many gradients each node below the root waits for."""
    found: dict[Target, int] = {}
    seen: set[Target] = {root}
    stack: list[Target] = [root]
    while stack:
        node = stack.pop()
        for edge in node.edges if isinstance(node, Node) else ():
            if edge is None:
                continue
            found[edge[0]] = found.get(edge[0], 0) + 1
            if edge[0] not in seen:
                seen.add(edge[0])
                stack.append(edge[0])
    return found


def _call(node: Node, gradients: Gradients, task: Task) -> Gradients:
    """Run a node's backward and bring its results to the inputs' shapes and dtypes (validate_outputs)."""
    task.node = node
    saved = [kept.unpack() if hasattr(kept, "unpack") else kept for kept in node.saved]
    task.node = None
    # Of gradients that are all undefined generated nodes make none (any_grad_defined), but look at what they saved.
    defined = any(one is not None for one in gradients)
    results: Gradients = [None] * len(node.edges)
    if defined:
        results = node.backward(node, gradients, saved)
    while saved:  # C++ locals die in reverse order
        saved.pop()
    for index in range(len(results)):  # not enumerate: it would keep a result alive one turn longer
        result = results[index]
        if result is None or not node.needs(index):
            results[index] = result if node.in_python else None
            continue
        shape, dtype = node.inputs[index]
        if not same_shape(result.shape, shape):
            result = results[index] = sum_to(result, shape)
        if result.dtype != dtype:
            results[index] = like(result, dtype)
    result = None
    while task.hooks:
        task.hooks.pop(0)()
    return results


def same_shape(a: tuple[Size, ...], b: tuple[Size, ...]) -> bool:
    """Tell whether two shapes are equal for all jobs."""
    return yes(a == b)  # tuples look at sizes that are one object no further


def sum_to(gradient: Sym, shape: Sequence[Size]) -> Sym:
    """Return a gradient summed over the axes its input was broadcast along."""
    extra = len(gradient.shape) - len(shape)
    summed = tuple(
        1 if axis < extra or (yes(shape[axis - extra] == 1) and not yes(size == 1)) else size
        for axis, size in enumerate(gradient.shape)
    )
    if not extra and same_shape(summed, gradient.shape):
        return gradient
    total = new(gradient.tape, summed, gradient.dtype, op="sum")
    if gradient.tape.on == "gpu":
        _sum_columns(gradient, summed)
    return Sym(shape, total.dtype, row_major(shape), total.storage) if extra else total


def _sum_columns(gradient: Sym, summed: Sequence[Size]) -> None:
    """Play the buffers of a sum over the leading axes; one over others has none here."""
    axes = [(size, yes(left == size)) for left, size in zip(summed, gradient.shape, strict=True) if not yes(size == 1)]
    rows = [size for size, kept in axes if not kept]
    columns = [size for size, kept in axes if kept]
    if any(not kept for _, kept in axes[len(rows) :]):
        return
    buffers = [
        new(gradient.tape, step.shape, step.dtype, op=step.name)
        for step in column_sum(product(rows), product(columns))
        if isinstance(step, Buffer)
    ]
    while buffers:
        buffers.pop()


def like(x: Sym, dtype: str, op: str = "_to_copy") -> Sym:
    """Return a copy in another dtype; a dense layout is kept."""
    strides = x.strides if x.is_dense() else elementwise_strides(x.shape, (x,))
    return new(x.tape, x.shape, dtype, strides, op)


def _take(tape: Tape, buffer: Gradients, output: int, results: Gradients, index: int) -> None:
    """Hand a result to the node that waits for it (InputBuffer::add, accumulate).

    The first one is moved; what is added to it stays in the vector of results until that dies.
    """
    gradient, old = results[index], buffer[output]
    if gradient is None:
        return
    if old is None:
        buffer[output], results[index] = gradient, None
        return
    if (
        tape.on != "trace"
        and not old.is_view
        and sys.getrefcount(old) <= UNIQUE_GRADIENT
        and sys.getrefcount(old.storage) <= UNIQUE_STORAGE
        and old.is_dense()
    ):
        return
    buffer[output] = new(tape, old.shape, old.dtype, elementwise_strides(old.shape, (old, gradient)), "add")


def _accumulate_grad(node: AccumulateGrad, buffer: Gradients) -> None:
    """Steal the first gradient of a leaf, copy it, or add to the one that is there (in place)."""
    leaf, gradient = node.leaf, buffer.pop()
    if gradient is None:
        return
    if (hook := getattr(leaf, "backward_hook", None)) is not None:
        hook(gradient)
    if leaf.tape.before_gradient is not None:
        leaf.tape.before_gradient(leaf)
    if leaf.grad is None:
        if sys.getrefcount(gradient) <= STOLEN and _lies_like(gradient, leaf):
            leaf.grad, gradient = gradient.detach(), None
        else:
            strides = leaf.strides if leaf.is_dense() else None
            leaf.grad = new(leaf.tape, leaf.shape, leaf.dtype, strides, "clone")
        recorder = leaf.tape.recorder
        if recorder.why.get(leaf.storage.ordinal) == "parameter":
            recorder.name(leaf.grad.storage.ordinal, leaf.made_for, "gradient")
    if leaf.tape.on_gradient is not None:
        leaf.tape.on_gradient(leaf)  # while a gradient that was copied is still there


def _lies_like(gradient: Sym, leaf: Sym) -> bool:
    """Tell whether a gradient has the layout of its leaf or, of a leaf with gaps, none (obeys_layout_contract)."""
    if not leaf.is_dense():
        return gradient.is_contiguous()
    return len(gradient.shape) == len(leaf.shape) and all(
        yes((size == 1) | (a == b)) for size, a, b in zip(leaf.shape, gradient.strides, leaf.strides, strict=True)
    )
