"""Gradient checkpointing: a layer saves nothing but its inputs and runs again in the backward pass.

Source: torch/utils/checkpoint.py. Non-reentrant (_checkpoint_without_reentrant_generator): every saved tensor becomes
a holder; the first one that is unpacked runs the function again, whose saved tensors fill the holders; when the last
is filled the rerun stops, before the operation that saved it allocates its result. Reentrant (CheckpointFunction): one
operation, whose backward runs the function to its end and then a backward pass of its own. Unsloth's is a reentrant one
that moves inputs to host memory (oomph.tape.offload). Random states are kept too, but in host memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph.job_words import Checkpointing as Kind
from oomph.tape.autograd import Gradients, Node, made_by, record, root_of, run_engine, save
from oomph.tape.offload import Offload
from oomph.tape.selective import Selection, words_of
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, new
from oomph.tape.tape import Autocast, Tape, autocast

if TYPE_CHECKING:
    from oomph.job import TrainJob


class _Stop(Exception):  # noqa: N818  the early stop of the rerun, as in torch
    pass


class _Holder:
    """Stands for a saved tensor until the rerun fills it."""

    __slots__ = ("__weakref__", "frame", "tensor")

    def __init__(self, frame: _Frame) -> None:
        self.frame = frame
        self.tensor: Sym | None = None

    def unpack(self) -> Sym | None:
        """Return the tensor, running the function again if that has not happened; it is handed out once."""
        if not self.frame.done:
            self.frame.rerun()
        tensor, self.tensor = self.tensor, None
        return tensor


class _Moved:
    """An input of a checkpoint that hooks around it have moved; it comes back with the history it had."""

    def __init__(self, packed: Any, tensor: Sym) -> None:
        self.packed = packed
        self.history = tensor.requires_grad, tensor.node, tensor.output

    def unpack(self) -> Sym:
        """Return the tensor."""
        tensor: Sym = self.packed.unpack().detach()
        tensor.requires_grad, tensor.node, tensor.output = self.history
        return tensor


def _kept(tape: Tape, one: Any) -> Any:
    """Return what a checkpoint keeps of an input (_make_saved_tensor): itself, unless hooks are there."""
    hook = tape.pack_hooks[-1] if tape.pack_hooks else None
    return one if hook is None or not isinstance(one, Sym) else _Moved(hook(one), one)


class _Frame:
    """One checkpointed call: its function and inputs, and a holder for each tensor it would have saved."""

    def __init__(
        self, tape: Tape, function: Callable[..., Any], inputs: tuple[Any, ...], selection: Selection | None
    ) -> None:
        self.tape = tape
        self.selection = selection  # what is left in it dies before what the function holds
        self.function = function
        self.inputs = [_kept(tape, one) for one in inputs]
        self.holders: list[weakref.ref[_Holder]] = []
        self.filled = 0
        self.done = False
        self.autocast = tape.autocast.dtype if tape.autocast is not None else None
        self.scope = tape.scope
        for tensor in inputs:
            if isinstance(tensor, Sym):
                tape.recorder.why.setdefault(tensor.storage.ordinal, "checkpoint")

    def pack(self, tensor: Sym) -> _Holder:
        """Save nothing, remember the place."""
        holder = _Holder(self)
        self.holders.append(weakref.ref(holder))
        return holder

    def refill(self, tensor: Sym) -> Sym:
        """Fill the next holder during the rerun; stop after the last."""
        holder = self.holders[self.filled]()
        self.filled += 1
        tensor = tensor.detach()
        if holder is not None:
            holder.tensor = tensor
            self.tape.recorder.why.setdefault(tensor.storage.ordinal, "recomputed")
        if self.filled == len(self.holders):
            raise _Stop
        return tensor.detach()

    def rerun(self) -> None:
        """Run the function once more, with gradients recorded and autocast as it was."""
        tape = self.tape
        inputs = [one.unpack() if isinstance(one, _Moved) else one for one in self.inputs]
        tape.pack_hooks.append(self.refill)
        before, tape.grad_enabled = tape.grad_enabled, True
        tape.autocast = Autocast(self.autocast) if self.autocast else None
        tape.scope = self.scope
        if self.selection is not None:
            self.selection.again = True
        outer, tape.selection = tape.selection, self.selection
        try:
            try:
                self.function(*inputs)
            finally:
                tape.autocast = None  # its casts die before the frames of the exception do
                tape.selection = outer
        except _Stop:
            pass
        tape.pack_hooks.pop()
        tape.grad_enabled = before
        self.done = True


def _checkpoint(tape: Tape, function: Callable[..., Any], *inputs: Any, saves: frozenset[str] = frozenset()) -> Any:
    """Call a function whose saved tensors are recomputed in the backward pass; what it `saves` of them is kept."""
    selects = saves and tape.grad_enabled
    frame = _Frame(tape, function, inputs, Selection(saves) if selects else None)
    tape.pack_hooks.append(frame.pack)
    outer, tape.selection = tape.selection, frame.selection
    try:
        return function(*inputs)
    finally:
        tape.selection = outer
        tape.pack_hooks.pop()


class _Call:
    """What a reentrant checkpoint keeps beside its tensors, as long as the graph: function, other inputs, autocast.

    `back` gives the first input back where an `offload` has moved it.
    """

    def __init__(self, tape: Tape, function: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
        self.tape = tape
        self.function = function
        self.inputs = [None if isinstance(one, Sym) else one for one in inputs]
        self.places = [place for place, one in enumerate(inputs) if isinstance(one, Sym)]
        self.offload: Offload | None = None
        self.back: Callable[[], Sym] | None = None
        self.autocast = tape.autocast.dtype if tape.autocast is not None else None
        self.outputs: list[tuple[tuple[Size, ...], str] | None] = []


def _checkpoint_reentrant(
    tape: Tape, function: Callable[..., Any], *inputs: Any, offload: Offload | None = None
) -> Any:
    """Call a function without recording it, as one operation that saves its inputs (CheckpointFunction.forward); one
    that is given none has nothing to go back to.
    """
    if not inputs:
        with tape.no_grad():
            return function()
    tensors: list[Sym | None] = [one for one in inputs if isinstance(one, Sym)]
    node = record("CheckpointFunction", [one for one in tensors if one is not None], _rerun_with_backward)
    back = None
    if offload is not None and tape.grad_enabled and isinstance(inputs[0], Sym) and inputs[0].requires_grad:
        back = offload.move(inputs[0])
    if back is not None:
        tensors[0] = None
    with tape.no_grad():
        output = function(*inputs)
    save(node, *tensors)
    outputs = output if isinstance(output, tuple) else (output,)
    for at, each in enumerate(outputs):
        if _can_train(each):
            made_by(each, node, at)
    if node is not None:
        node.context = _Call(tape, function, inputs)
        node.context.offload, node.context.back = offload, back
        node.context.outputs = [None if each is None else (each.shape, each.dtype) for each in outputs]
        node.outputs = len(outputs)
    del outputs
    return output


def _can_train(output: Sym | None) -> bool:
    """Tell whether an output may have a gradient: integers have none."""
    return output is not None and not output.dtype.startswith("int")


def _rerun_with_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    """Mirror CheckpointFunction.backward: run again on detached inputs, then a backward pass within this one.

    The function's outputs live through that pass, and so do their incoming gradients. An output that nobody used (the
    weights of eager attention) has zeros for a gradient, which go through its own backward, if it is no integers.
    """
    call: _Call = node.context
    tape = call.tape
    if call.offload is not None:
        call.offload.begin_backward()
    given, gradients = gradients, list(gradients)  # what is made here dies here, and so does what is given
    given.clear()
    for at, made in enumerate(call.outputs):
        if made is not None and gradients[at] is None:
            gradients[at] = new(tape, *made, op="zeros")
    inputs: list[Any] = list(call.inputs)
    for at, place in enumerate(call.places):
        inputs[place] = saved[at].detach() if at or call.back is None else call.back()
        inputs[place].requires_grad = node.needs(at)
    with tape.enable_grad(), autocast(tape, call.autocast):
        output = call.function(*inputs)
    outputs = output if isinstance(output, tuple) else (output,)
    ends = [at for at, each in enumerate(outputs) if _can_train(each)]
    if len(ends) == 1:
        run_engine(tape, outputs[ends[0]].node, gradients)
    else:
        run_engine(tape, root_of([outputs[at] for at in ends]), [gradients[at] for at in ends])
    results = [inputs[place].grad for place in call.places]
    saved.clear()  # what came back for this call alone dies with its inputs
    del inputs, output, outputs  # before the gradients
    return results


@dataclass(frozen=True)
class Checkpointing:
    """Which layers are checkpointed (0, n, 2n ... with `every` n), how, and the words of operations whose results are
    kept (selective.py); `trained` are only those in which something trains. Called with a function and its inputs."""

    kind: Kind = "none"
    every: int = 1
    saves: frozenset[str] = frozenset()
    trained: bool = False

    @staticmethod
    def of(job: TrainJob) -> Checkpointing:
        """Return that of a job."""
        saves = words_of(job.checkpoint_saves)
        return Checkpointing(job.checkpointing, job.checkpoint_every, saves, job.method == "freeze")

    def takes(self, layer: int) -> bool:
        """Tell whether a layer is checkpointed."""
        return self.kind != "none" and layer % self.every == 0

    def __call__(self, tape: Tape, function: Callable[..., Any], *inputs: Any) -> Any:
        """Call a function so that its backward pass runs it again.

        Where that is done of layers that train alone, what they read is made to want a gradient, as LLaMA-Factory's
        get_custom_gradient_checkpointing_func does.
        """
        if self.trained:
            if not any(one.requires_grad for one in _layer_of(function).parameters()):
                return function(*inputs)
            inputs[0].requires_grad = True
        if self.kind == "unsloth":
            tape.offload = tape.offload or Offload()
            return _checkpoint_reentrant(tape, function, *inputs, offload=tape.offload)
        if self.kind == "reentrant":
            return _checkpoint_reentrant(tape, function, *inputs)
        return _checkpoint(tape, function, *inputs, saves=self.saves)


def _layer_of(function: Any) -> Any:
    """Return the layer that a function runs: it is in a Call, or the first argument of a partial."""
    return function.layer if hasattr(function, "layer") else function.args[0]
