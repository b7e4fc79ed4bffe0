"""Which layers of a model are alike, and the model with as few of them as show what all of them do."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from oomph.engines.llamacpp.graph_setup import GraphSetup, Hparams, Stored

MOST_PERIOD = 8  # layers: the longest pattern that is looked for
WARM = 3  # repeats of a pattern until the allocator's state comes back
CYCLE = 2  # ... with every repeat or with every other: two hidden states may lie here and there in turn
PER_LAYER = frozenset(("n_head", "n_head_kv", "head_k", "head_v", "swa", "rope", "recurrent"))


@dataclass(frozen=True)
class Run:
    """Layers left out after a pattern was repeated. The state before layers `before` and `after` must be the same."""

    before: int
    after: int


def fewer_layers(setup: GraphSetup) -> tuple[GraphSetup, tuple[Run, ...]]:
    """Return a model without the layers that repeat a pattern once more, and where they were left out."""
    kinds = _kinds(setup)
    keep: list[int] = []
    runs: list[Run] = []
    at, last = 0, len(kinds) - 1  # the last layer is like no other: rows without logits end there
    while at < last:
        period, times = _pattern(kinds, at, last)
        if times < WARM + 2 * CYCLE:
            keep.append(at)
            at += 1
            continue
        played = WARM + CYCLE + (times - WARM) % CYCLE
        keep += range(at, at + played * period)
        runs.append(Run(len(keep) - CYCLE * period, len(keep)))
        at += times * period
    keep.append(last)
    return (_only(setup, keep), tuple(runs)) if runs else (setup, ())


def _pattern(kinds: Sequence[Hashable], at: int, end: int) -> tuple[int, int]:
    """Return the period and the repeats of the pattern from a layer on that covers most layers, the shortest first."""
    best = (1, 1)
    for period in range(1, MOST_PERIOD + 1):
        times = 1
        while (following := at + (times + 1) * period) <= end and all(
            kinds[at + i] == kinds[following - period + i] for i in range(period)
        ):
            times += 1
        if times >= WARM + 2 * CYCLE and period * times > best[0] * best[1]:
            best = (period, times)
    return best


def _kinds(setup: GraphSetup) -> list[Hashable]:
    """Return what tells layers apart: their tensors and where they lie, their sizes, their devices."""
    of_layer: list[dict[str, Stored]] = [{} for _ in range(setup.hparams.n_layer)]
    for name, tensor in setup.tensors.items():
        il, rest = _split(name)
        if 0 <= il < len(of_layer):
            of_layer[il][rest] = tensor
    sizes = [getattr(setup.hparams, name) for name in PER_LAYER]
    sizes += [setup.layer_devices, setup.kv_devices]
    return [
        (tuple(sorted((name, t.ne, t.type.name, t.device) for name, t in tensors.items())),
         tuple(each[il] if each else None for each in sizes))
        for il, tensors in enumerate(of_layer)
    ]  # fmt: skip


def _split(name: str) -> tuple[int, str]:
    """Return the layer of a tensor, -1 outside them, and its name there."""
    if not name.startswith("blk."):
        return -1, name
    number, _, rest = name.removeprefix("blk.").partition(".")
    return int(number), rest


def _only(setup: GraphSetup, keep: Sequence[int]) -> GraphSetup:
    """Return a model of only some of its layers."""
    numbers = {il: i for i, il in enumerate(keep)}
    tensors = {}
    for name, tensor in setup.tensors.items():
        il, rest = _split(name)
        if il < 0:
            tensors[name] = tensor
        elif il in numbers:
            tensors[f"blk.{numbers[il]}.{rest}"] = tensor

    def only(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(values[il] for il in keep) if values else ()

    sizes: dict[str, Any] = {
        each.name: only(getattr(setup.hparams, each.name)) for each in fields(Hparams) if each.name in PER_LAYER
    }
    return replace(
        setup,
        hparams=replace(setup.hparams, **sizes),
        tensors=tensors,
        layer_devices=only(setup.layer_devices),
        kv_devices=only(setup.kv_devices),
    )
