"""Gradient checkpointing, non-reentrant: a layer saves nothing but its inputs and runs again when first asked.

Source: torch/utils/checkpoint.py (_checkpoint_without_reentrant_generator): every saved tensor becomes a holder; the
first one that is unpacked runs the function again, whose saved tensors fill the holders; when the last is filled
the rerun stops, before the operation that saved it allocates its result.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from oomph.tape.sym import Sym
from oomph.tape.tape import Autocast, Tape


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


class _Frame:
    """One checkpointed call: its function and inputs, and a holder for each tensor it would have saved."""

    def __init__(self, tape: Tape, function: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
        self.tape = tape
        self.function = function
        self.inputs = inputs
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
        tape.pack_hooks.append(self.refill)
        before, tape.grad_enabled = tape.grad_enabled, True
        tape.autocast = Autocast(self.autocast) if self.autocast else None
        tape.scope = self.scope
        try:
            try:
                self.function(*self.inputs)
            finally:
                tape.autocast = None  # its casts die before the frames of the exception do
        except _Stop:
            pass
        tape.pack_hooks.pop()
        tape.grad_enabled = before
        self.done = True


def checkpoint(tape: Tape, function: Callable[..., Any], *inputs: Any) -> Any:
    """Call a function whose saved tensors are recomputed in the backward pass."""
    frame = _Frame(tape, function, inputs)
    tape.pack_hooks.append(frame.pack)
    try:
        return function(*inputs)
    finally:
        tape.pack_hooks.pop()
