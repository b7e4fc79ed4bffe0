"""Saved tensors in host memory: hooks that take what the forward pass saves off the GPU and bring it back.

`trl` and `torchtune` copy on a second stream. A tensor on its way stays on the GPU until five more were saved; one that
was brought back stays until the next operation that asks for one has run its backward. Parameters stay, and so does
what is smaller than 1 KiB. TRL also leaves what begins where a tensor on its way does, for as long as the graph needs
it, and copies what is not contiguous before it moves it. `save-on-cpu` is torch's own: everything moves, weights too,
and comes back for its operation alone. Host memory is not counted.

Sources: trl 1.16, models/activation_offloading.py; torchtune 0.6.1, training/_activation_offloading.py; torch 2.13,
autograd/graph.py, save_on_cpu.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from oomph.tape.sizes import Size, product, yes
from oomph.tape.sym import WIDTH, Place, Sym, new

if TYPE_CHECKING:
    from oomph.job_words import ActivationOffload
    from oomph.tape.autograd import Node, Task
    from oomph.tape.tape import Tape

MIN_OFFLOAD_SIZE = 1024  # bytes below which a tensor stays
MAX_FWD_STASH_SIZE = 5  # tensors saved after one that is on its way, until it is let go

Key = tuple[int, Place, str]
Back = Callable[[], Sym]


class Packed:
    """What stands for a saved tensor: its number at an offloader."""

    __slots__ = ("number", "offloader")

    def __init__(self, offloader: Streamed, number: int) -> None:
        self.offloader, self.number = offloader, number

    def unpack(self) -> Sym:
        """Return the tensor; it is handed out once."""
        return self.offloader.unpack(self.number)


class Streamed:
    """OffloadActivations with streams: what is where, by the numbers of saved tensors."""

    def __init__(self, tape: Tape, deduplicates: bool) -> None:
        self.tape, self.of_trl = tape, deduplicates
        self.node: Node | None = None
        self.task: Task | None = None
        self.clear()

    def clear(self) -> None:
        """Forget all, as on entering TRL's context."""
        self.kept: dict[int, Sym] = {}  # not moved
        self.moved: dict[int, Back] = {}
        self.forward: dict[int, Sym] = {}  # on its way to the host
        self.backward: dict[int, tuple[Sym, int]] = {}  # brought back, with the references its storage then had
        self.numbers: dict[Key, int] = {}
        self.keys: dict[int, Key] = {}
        self.number = 0
        self.first_forward = self.first_backward = True

    def pack(self, tensor: Sym) -> Packed:
        """Move a tensor that is saved, or keep it."""
        if self.first_forward:
            self.first_forward, self.first_backward = False, True
            self.numbers, self.keys = {}, {}
        self.number += 1
        number, key = self.number, (tensor.storage.ordinal, tensor.place, tensor.dtype)
        twice = self.of_trl and key in self.numbers
        if twice:
            self._track(key, number)
        if twice or self._stays(tensor):
            self.kept[number] = tensor
            return Packed(self, number)
        spread = any(yes(stride == 0) for stride in tensor.strides)
        if self.of_trl and not spread and (tensor.place or not tensor.is_contiguous()):
            tensor = new(tensor.tape, tensor.shape, tensor.dtype, op="clone")
        for old in [each for each in self.forward if each <= number - MAX_FWD_STASH_SIZE]:
            self._let_go(old)
        self.moved[number] = way_back(tensor, spread and self.of_trl)
        self.forward[number] = tensor
        if self.of_trl:
            self._track(key, number)
        return Packed(self, number)

    def _stays(self, tensor: Sym) -> bool:
        """Tell whether a tensor is too small, or a parameter; torchtune does not know views of one."""
        if yes(product(tensor.shape) * WIDTH[tensor.dtype] < MIN_OFFLOAD_SIZE):
            return True
        is_parameter = self.tape.recorder.why.get(tensor.storage.ordinal) == "parameter"
        return is_parameter and (self.of_trl or (not tensor.is_view and tensor.is_leaf))

    def _track(self, key: Key, number: int) -> None:
        self.numbers[key] = number
        self.keys[number] = key

    def _release(self, number: int) -> None:
        key = self.keys.pop(number, None)
        if key is not None and self.numbers.get(key) == number:
            del self.numbers[key]

    def _let_go(self, number: int) -> None:
        del self.forward[number]
        self._release(number)

    def unpack(self, number: int) -> Sym:
        """Bring a tensor back, inside the backward of the operation that saved it."""
        task = self.tape.tasks[-1]
        if self.first_backward:
            self.task, self.first_backward = task, False
            task.callbacks.append(self.backward.clear)
            self.first_forward |= not self.of_trl
        back = self.moved.pop(number, None)
        found = self.kept.pop(number) if back is None else self._brought_back(number, back, task)
        self._release(number)
        if self.of_trl and not self.kept and not self.moved:
            self.first_forward = True
        return found

    def _brought_back(self, number: int, back: Back, task: Task) -> Sym:
        node, earlier = task.node, []
        assert node is not None
        if task is self.task and self.node is not node:
            self.node, earlier = node, list(self.backward)
        found = self.forward.get(number)
        moved = found is None
        if found is None:
            found = back()
            self.backward[number] = found, sys.getrefcount(found.storage)

        def after() -> None:
            if moved and number in self.backward:
                brought, references = self.backward[number]
                if sys.getrefcount(brought.storage) > references:  # it goes when the others go
                    del self.backward[number]
                del brought
            for old in list(self.forward):
                self._let_go(old)
            for old in earlier:
                self.backward.pop(old, None)

        task.hooks.append(after)
        return found


class OnHost:
    """A saved tensor that save_on_cpu holds in host memory."""

    __slots__ = ("unpack",)

    def __init__(self, tensor: Sym) -> None:
        self.unpack = way_back(tensor, False)


def way_back(tensor: Sym, spread: bool) -> Back:
    """Return what makes a tensor anew: contiguous, or `spread`, its storage and a view of that."""
    tape, shape, dtype, strides = tensor.tape, tensor.shape, tensor.dtype, tensor.strides
    dense: tuple[Size, ...] = shape
    if spread:
        dense = (tape.recorder.allocations[tensor.storage.ordinal].n_bytes // WIDTH[dtype],)
    del tensor

    def back() -> Sym:
        made = new(tape, dense, dtype, op="_to_copy")
        return Sym(shape, dtype, strides, made.storage) if spread else made

    return back


@contextmanager
def offloading(tape: Tape, kind: ActivationOffload) -> Iterator[None]:
    """Move what is saved inside."""
    if kind == "none":
        yield
        return
    hook: Any = OnHost
    if kind != "save-on-cpu":
        tape.streamed = tape.streamed or Streamed(tape, kind == "trl")
        if kind == "trl":
            tape.streamed.clear()
        hook = tape.streamed.pack
    tape.pack_hooks.append(hook)
    try:
        yield
    finally:
        tape.pack_hooks.pop()


@contextmanager
def staying(tape: Tape, part: Literal["head", "loss"]) -> Iterator[None]:
    """Move nothing that is saved inside if the head of a model, or the loss too, is left out."""
    if tape.stays not in (part, "loss"):
        yield
        return
    tape.pack_hooks.append(None)
    try:
        yield
    finally:
        tape.pack_hooks.pop()
