"""Unsloth's gradient checkpointing: reentrant, the inputs of all layers but the last in host memory.

Two buffers stay on the device, each as large as the largest input so far, from which layers run again in turn: one
grows at the first input that is moved, the other from the second forward pass on. Moved is what takes more than 2 MiB;
fp32 inputs travel as bf16 and are cast back. The second buffer is given up where less than 512 MiB of the device are
free after the first pass, which is not played. Source: unsloth_zoo 2026.10.9, gradient_checkpointing.py,
UnslothCheckpointFunction (DEVICE_TYPE cuda, no environment variables).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oomph.tape.sizes import Size, product, yes
from oomph.tape.sym import WIDTH, Sym, new, row_major

if TYPE_CHECKING:
    from oomph.tape.tape import Tape

MINIMUM_SIZE = 2 * 2**20  # bytes up to which an input stays where it is
INITIAL_GPU_BUFFER_SIZE = 2 * 256 * 2048  # elements
STORED = {"fp32": "bf16"}  # the dtype in which an input travels, where it is not its own


@dataclass
class Offload:
    """Where Unsloth's checkpoints are in a step, and its two buffers."""

    buffers: list[Sym] = field(default_factory=list)
    first_pass: bool = True  # until a backward pass has begun
    inputs: int = 0  # in the first forward pass; the last of later ones is not moved
    current: int = 0  # how many this forward pass has seen

    def move(self, tensor: Sym) -> Callable[[], Sym] | None:
        """Take the input of a layer; return what gives it back in the backward pass, None if it stays."""
        if self.first_pass:
            self.inputs += 1
        self.current += 1
        dtype = STORED.get(tensor.dtype, tensor.dtype)
        n_bytes = product(tensor.shape) * WIDTH[dtype]
        if not yes(n_bytes > MINIMUM_SIZE) or (self.current == self.inputs and not self.first_pass):
            return None
        if not self.buffers:
            self.buffers = [_buffer(tensor.tape, INITIAL_GPU_BUFFER_SIZE, dtype) for _ in range(2)]
        for at in range(1 if self.first_pass else 2):
            if yes(self.buffers[at].shape[0] * WIDTH[dtype] < n_bytes):
                self.buffers[at] = _buffer(tensor.tape, product(tensor.shape), dtype)
        shape, wanted, buffers = tensor.shape, tensor.dtype, self.buffers
        del tensor

        def back() -> Sym:
            # The first one always: no byte depends on which of the two it is.
            held = Sym(shape, dtype, row_major(shape), buffers[0].storage)
            return held if dtype == wanted else new(held.tape, shape, wanted, op="_to_copy")

        return back

    def begin_backward(self) -> None:
        """Note that a layer runs again: a forward pass is over."""
        self.first_pass, self.current = False, 0


def _buffer(tape: Tape, count: Size, dtype: str) -> Sym:
    return tape.note(new(tape, (count,), dtype, op="empty"), "kept by a module")
