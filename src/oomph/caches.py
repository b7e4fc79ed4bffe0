"""What a model keeps of each sequence between tokens, layer by layer (blocks/cached.py), whoever serves it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from oomph.blocks.base import OUTER_KINDS, Block, Stack

if TYPE_CHECKING:
    from oomph.blocks.cached import Cached
    from oomph.model import Model


class LayerCache(NamedTuple):
    """What each of several equal decoder layers keeps, and the numbers of those layers."""

    cached: tuple[Cached, ...]
    layers: tuple[int, ...]


def layer_caches(model: Model) -> tuple[LayerCache, ...]:
    """Return what the decoder's layers keep, equal ones together, in the order of their first layer.

    Layers that keep nothing (their keys are another's, or they are no mixers) are left out; encoders, towers and
    multi-token prediction keep nothing.

    >>> from oomph import load
    >>> [(len(each.layers), each.cached[0].per_token) for each in layer_caches(load("llama-3-8b"))]
    [(32, 2048)]
    """
    found: dict[tuple[Cached, ...], list[int]] = {}
    for stack in _stacks(model):
        for layer, places in stack.groups():
            kept = layer.cached if isinstance(layer, Block) else ()
            if kept:
                found.setdefault(kept, []).extend(places)
    return tuple(LayerCache(kept, tuple(sorted(places))) for kept, places in found.items())


def _stacks(model: Model) -> Iterator[Stack]:
    for part in model.parts.values():
        if isinstance(part, Stack) and part.kind not in OUTER_KINDS:
            yield part
