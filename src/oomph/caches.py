"""What a model keeps of each sequence between tokens, layer by layer (blocks/cached.py), whoever serves it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from oomph.blocks.base import Block, descend
from oomph.structure import decoder_stack

if TYPE_CHECKING:
    from oomph.blocks.cached import Cached
    from oomph.model import Model
    from oomph.tensor import Tensor


class LayerCache(NamedTuple):
    """What each of several equal decoder layers keeps, and the numbers of those layers."""

    cached: tuple[Cached, ...]
    layers: tuple[int, ...]


def layer_caches(model: Model) -> tuple[LayerCache, ...]:
    """Return what the decoder's layers keep, equal ones together, in the order of their first layer.

    Layers that keep nothing (their keys are another's, or they are no mixers) are left out.

    >>> from oomph import load
    >>> [(len(each.layers), each.cached[0].per_token) for each in layer_caches(load("llama-3-8b"))]
    [(32, 2048)]
    """
    found: dict[tuple[Cached, ...], list[int]] = {}
    for layer, places in decoder_stack(model)[1].groups():
        kept = tuple(_kept(layer))
        if kept:
            found.setdefault(kept, []).extend(places)
    return tuple(LayerCache(kept, tuple(sorted(places))) for kept, places in found.items())


def _kept(layer: Block | Tensor) -> Iterator[Cached]:
    if isinstance(layer, Block):
        for block in descend({"": layer}):
            yield from block.cached
