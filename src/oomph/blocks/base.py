"""What every block is: a small frozen description with named parts, like an nn.Module without the tensors.

A block's `parts` are other blocks or `Tensor`s, named as the real class names them, so that walking the tree
gives the real parameter names and shapes. `None` parts are absent (an optional bias or norm).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Union

from oomph.blocks.cached import Cached
from oomph.tensor import Tensor, Weight

Part = Union["Block", Tensor, None]
Parts = Mapping[str, Part]

# Inside these, everything is counted under the outer name: a vision tower's attention is "vision".
OUTER_KINDS = frozenset({"vision", "audio", "projector", "mtp", "encoder_extra"})


class Block:
    """A building block. `kind` is its line in the ledger; '' means it belongs to whatever it sits in."""

    kind: str = ""

    @property
    def parts(self) -> Parts:
        """The named parts of this block, in the order of the real class."""
        raise NotImplementedError

    @property
    def built_parts(self) -> Parts:
        """The parts as transformers builds them on a device, where they differ: experts stacked into one tensor."""
        return self.parts

    @property
    def cached(self) -> tuple[Cached, ...]:
        """What this block keeps of each sequence between tokens: what its parts keep, unless it knows better."""
        return tuple(each for part in self.parts.values() if isinstance(part, Block) for each in part.cached)


@dataclass(frozen=True, eq=False)
class Module(Block):
    """A block that is nothing but its parts: a decoder layer, a tower, a projector."""

    members: Parts
    kind: str = ""

    @property
    def parts(self) -> Parts:
        """The members as given."""
        return self.members


@dataclass(frozen=True, eq=False)
class Rewritten(Block):
    """A block whose parts were exchanged, as PEFT exchanges the submodules of a module: all else is as it was."""

    block: Block
    members: Parts
    kind: str = ""

    @property
    def parts(self) -> Parts:
        """The new parts, under the old names."""
        return self.members

    @property
    def cached(self) -> tuple[Cached, ...]:
        """That of the block as it was."""
        return self.block.cached


@dataclass(frozen=True, eq=False)
class Layer(Module):
    """A decoder layer whose attention and MLP stand side by side if `parallel`, else one behind the other."""

    parallel: bool = False


@dataclass(frozen=True, eq=False)
class Stack(Block):
    """An indexed list of blocks, like nn.ModuleList: decoder layers, experts.

    Equal layers should be the same object: they are walked once. `used` is how many of the blocks one token
    passes through (top-k experts); None means all. `first` is the index of the first block.
    """

    layers: Sequence[Block | Tensor]
    used: int | None = None
    first: int = 0
    kind: str = ""

    @classmethod
    def of(cls, layer: Block, times: int, used: int | None = None) -> Stack:
        """Repeat one block."""
        return cls((layer,) * operator.index(times), used)

    @property
    def parts(self) -> Parts:
        """Every layer under its index."""
        return {str(self.first + i): layer for i, layer in enumerate(self.layers)}

    @property
    def cached(self) -> tuple[Cached, ...]:
        """That of each of its blocks, of equal ones as often as they stand here."""
        kept = ((layer.cached, places) for layer, places in self.groups() if isinstance(layer, Block))
        return tuple(each for found, places in kept for each in found * len(places))

    def groups(self) -> list[tuple[Block | Tensor, tuple[int, ...]]]:
        """Return each distinct layer object with the indices it stands at, in order of first appearance."""
        found: dict[int, tuple[Block | Tensor, list[int]]] = {}
        for place, layer in enumerate(self.layers, self.first):
            found.setdefault(id(layer), (layer, []))[1].append(place)
        return [(layer, tuple(indices)) for layer, indices in found.values()]


def walk(
    part: Part, name: str = "", kind: str = "", places: tuple[tuple[int, ...], ...] = (), used: int = 1, of: int = 1
) -> Iterator[Weight]:
    """Yield every weight below `part`, repeated layers once with all their indices."""
    if part is None:
        return
    if isinstance(part, Tensor):
        yield Weight(name, part, kind or "other", places, used, of)
        return
    if part.kind and kind not in OUTER_KINDS:
        kind = part.kind
    if isinstance(part, Stack):
        for layer, indices in part.groups():
            top = (used * part.used, of * len(part.layers)) if part.used is not None else (used, of)
            yield from walk(layer, f"{name}.*", kind, (*places, indices), *top)
        return
    for key, child in part.parts.items():
        yield from walk(child, f"{name}.{key}" if name else key, kind, places, used, of)


def rewritten(part: Part, change: Callable[[str, Part], Part], path: str = "") -> Part:
    """Return a part with `change(path, part)` in its place; what is not changed is gone into.

    Parts are those that transformers builds. Layers that are equal are changed once and stay one object: their path has
    a * for the number.
    """
    if part is None:
        return None
    new = change(path, part)
    if new is not part or isinstance(part, Tensor):
        return new
    if isinstance(part, Stack):
        known: dict[int, Any] = {id(layer): rewritten(layer, change, f"{path}.*") for layer, _ in part.groups()}
        return replace(part, layers=tuple(known[id(layer)] for layer in part.layers))
    parts = part.built_parts
    members = {name: rewritten(each, change, f"{path}.{name}" if path else name) for name, each in parts.items()}
    if all(members[name] is each for name, each in parts.items()):
        return part
    return Rewritten(part.block if isinstance(part, Rewritten) else part, members, part.kind)


def as_built(part: Part) -> Part:
    """Return a part in which blocks hold what transformers builds, so that walking it gives the parameters there."""

    def change(path: str, each: Part) -> Part:
        if not isinstance(each, Block) or type(each).built_parts is Block.built_parts:
            return each
        return Rewritten(each, {name: as_built(below) for name, below in each.built_parts.items()}, each.kind)

    return rewritten(part, change)


def descend(parts: Parts) -> Iterator[Block]:
    """Yield every block below `parts`, outermost first, repeated layers once."""
    for part in parts.values():
        if isinstance(part, Block):
            yield part
            below = part.groups() if isinstance(part, Stack) else ()
            yield from descend({str(i): layer for i, (layer, _) in enumerate(below)} if below else part.parts)
