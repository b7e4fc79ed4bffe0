"""A block with its parameters on a tape: what a module is in torch. Calling it runs the block's program.

Programs read like the forward of the module they mirror: `m.q_proj(hidden_states)` where torch writes
`self.q_proj(hidden_states)`. Arguments are held while a program runs, as nn.Module's call holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from oomph.blocks.base import Block, Module, Part, Rewritten, Stack
from oomph.blocks.basic import Shared
from oomph.errors import UnsupportedError
from oomph.tape.sym import is_on_host, on_host, visiting
from oomph.tensor import BUFFERS, Tensor

if TYPE_CHECKING:
    from oomph.model import Model
    from oomph.tape.sym import Sym
    from oomph.tape.tape import Tape

WRAPPED = "base_layer"  # PEFT's name for what an adapter stands beside
CODES = "uint8"  # of weights, which autograd gives no gradients even where they train
BUFFER_DTYPE = "fp32"  # of stored buffers, whatever the dtype of the weights


class Bound:
    """A block on a tape; its parts by the names of the real class, its dimensions as the block's own fields.

    Of a rewritten block the parts are the new ones, all else is the old block's. `parametrized` says what a parameter
    is made into when it is asked for, `made` are those that were (torch.nn.utils.parametrize and its cache). `away` are
    parameters that wait in the machine's memory until the block is called.
    """

    __slots__ = ("away", "block", "made", "parametrized", "parts", "path", "stacked", "tape")

    def __init__(self, block: Block, tape: Tape, dtype: str, path: str = "") -> None:
        self.block = block.block if isinstance(block, Rewritten) else block
        self.tape = tape
        self.path = path
        self.parts: dict[str, Any] = {}
        self.stacked: list[Bound] = []
        self.parametrized: dict[str, Callable[[Sym], Sym]] = {}
        self.made: dict[str, Sym] = {}
        for name, part in block.built_parts.items():
            where = f"{path}.{name}" if path else name
            made = _bind(part, tape, dtype, where)
            self.parts[name] = made
            if isinstance(self.block, Stack):
                self.stacked.append(made)
        self.away = [name for name, part in self.parts.items() if is_on_host(part)]

    def __getattr__(self, name: str) -> Any:
        """Return a part, or a field of the block; of an adapter the weight of what it wraps, as PEFT's layers do."""
        if name in self.parts:
            return self.parts[name]
        if name == "weight" and WRAPPED in self.parts:
            return self.parts[WRAPPED].weight
        return getattr(self.block, name)

    def __getitem__(self, name: str) -> Any:
        """Return a part by a name that only the block knows."""
        return self.parts[name]

    def value(self, name: str) -> Sym:
        """Return a parameter, or what it is made into: once, until the cache is emptied."""
        if name in self.parametrized and name not in self.made:
            self.made[name] = self.parametrized[name](self.parts[name])
        found: Sym = self.made[name] if name in self.made else self.parts[name]
        return found

    def __iter__(self) -> Iterator[Bound]:
        """Yield the blocks of a stack in order."""
        return iter(self.stacked)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program of this block; of an adapter that is switched off, what PEFT's layers do then: `off` of the
        block, else what it wraps.
        """
        if not self.tape.adapters and WRAPPED in self.parts:
            off = getattr(self.block, "off", None)
            return off(self, *args, **kwargs) if off is not None else self.parts[WRAPPED](*args, **kwargs)
        program = getattr(self.block, "program", None)
        if program is None:
            raise UnsupportedError(
                f"oomph has no program for {type(self.block).__name__} blocks yet.", "Trace the model: oomph trace."
            )
        tape = self.tape
        outer, tape.scope = tape.scope, self.path
        for name in self.away:  # as accelerate's AlignDevicesHook does before and after a module's forward
            self.parts[name] = visiting(self.parts[name])
        result = program(self, *args, **kwargs)
        for name in self.away:
            self.parts[name] = on_host(tape, self.parts[name].shape, self.parts[name].dtype)
        tape.scope = outer
        return result

    def parameters(self) -> Iterator[Sym]:
        """Yield every parameter below, each once, in the order of the real class."""
        for part in self.parts.values():
            if isinstance(part, Bound):
                yield from part.parameters()
            elif part is not None:
                yield part


def _bind(part: Part, tape: Tape, dtype: str, path: str) -> Any:
    """Return a part on the tape: a parameter, a block, or None."""
    if part is None:
        return None
    if isinstance(part, Tensor):
        tape.scope = path
        if part.role in BUFFERS and part.dtype is None:
            kept = BUFFER_DTYPE if part.role == "buffer" else dtype
            return tape.note(tape.empty(part.shape, kept, op="buffer"), "buffer")
        if tape.waits(path):
            return on_host(tape, part.shape, part.dtype or dtype)
        return tape.parameter(part.shape, part.dtype or dtype, part.trains and part.dtype != CODES)
    if isinstance(part, Shared):
        tape.scope = path
        made = tape.shared[path] = tape.note(tape.empty(part.shape, part.dtype, op="buffer"), "buffer")
        return made
    return Bound(part, tape, dtype, path)


def bind(model: Model, tape: Tape, dtype: str, path: str = "") -> Bound:
    """Return a whole model on a tape, its dotted paths as nested parts: bound.model.embed_tokens.

    `path` is what it is known by where it is not the only one.
    """
    tape.loaded = dtype
    return Bound(nested(model), tape, dtype, path)


BUILT = (
    "model.mtp_layers",
)  # layers that predict further tokens which a class makes, though it never calls them (MiMo)


def nested(model: Model) -> Module:
    """Return the model's parts as a tree: "model.layers" becomes layers inside model."""
    tree: dict[str, Any] = {}
    for path, part in model.parts.items():
        if isinstance(part, Block) and part.kind == "mtp" and path not in BUILT:
            continue  # transformers loads none of it
        node = tree
        *outer, last = path.split(".")
        for name in outer:
            node = node.setdefault(name, {})
        node[last] = part
    return _module(tree)


def _module(tree: dict[str, Any]) -> Module:
    return Module({name: _module(part) if isinstance(part, dict) else part for name, part in tree.items()})
