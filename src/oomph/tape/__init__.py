"""A torch-free autograd tape on shapes: the job's real operations, executed on symbolic tensors.

Three ideas carry it. Lifetimes come for free: a program keeps the same local variables as the module it mirrors, and
CPython's reference counts free a symbolic tensor when torch would free the real one. The autograd engine is mirrored,
not approximated: nodes by sequence number, saved tensors in order, strides, because layouts decide hidden copies.
Sizes are ints or formulas (many.py): the same program prices one job or a hundred thousand.

Consequences: CPython only, the cycle collector must be off while a tape plays, programs must not make cycles.
"""

from oomph.tape.recorder import Recorder
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

__all__ = ["Recorder", "Sym", "Tape"]
