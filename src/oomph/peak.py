"""Where a step's memory is most, and every tensor that is alive there, by name."""

from __future__ import annotations

from dataclasses import dataclass

from oomph.recipe import Class, alive, stretches
from oomph.steps import Step

GROUP_OF = {
    "parameter": "weights",
    "gradient": "gradients",
    "optimizer state": "optimizer",
    "autocast copy": "weight_copies",
    "parameter on a visit": "temporaries",
    "logits of every beam": "temporaries",
    "scores of every beam": "temporaries",
    "buffer": "buffers",
    "kept by a module": "buffers",
    "kv cache": "kv_cache",
    "": "temporaries",
}
STAYING = ("parameter", "buffer", "optimizer state")  # what lies there all the time
REST = "activations"  # inputs, and whatever is kept for a backward pass


@dataclass(frozen=True)
class Alive:
    """Equal tensors alive at a height: `count` of them, `n_bytes` together, rounded to 512 B each."""

    kind: Class
    shape: tuple[int, ...]
    count: int
    n_bytes: int

    @property
    def group(self) -> str:
        """The ledger's group."""
        return GROUP_OF.get(self.kind.why, REST)

    @property
    def name(self) -> str:
        """What to call it: a parameter by its path, anything else by the module and the operation that made it."""
        kind = self.kind
        if kind.why == "parameter":
            return kind.scope
        if kind.why == "optimizer state":
            return f"{kind.scope}.{kind.op}"
        if kind.why == "gradient":
            return f"{kind.scope}.grad"
        return f"{kind.scope}: {kind.op}" if kind.scope else kind.op


@dataclass(frozen=True)
class Place:
    """A height of a step: the `top`-th (-1: the start) of part `at`, in its `repetition`-th repetition."""

    at: int
    top: int
    repetition: int


def highest_place(step: Step) -> Place:
    """Return where most is alive: the first of equal heights."""
    for at, one in enumerate(step.stretches[step.begin :], step.begin):
        for repetition, rise in ((0, 0), (one.repeats - 1, one.rise)):
            for top, height in enumerate((one.start, *one.tops), -1):
                if height + rise == step.peak:
                    return Place(at, top, repetition)
    raise AssertionError("no height is the peak")


def start_of(step: Step, name: str) -> Place:
    """Return the start of the last stretch of this name."""
    return Place(max(at for at, one in enumerate(step.stretches) if one.name == name), -1, 0)


def alive_at(step: Step, place: Place) -> list[Alive]:
    """Return what is alive at a height, largest first."""
    recipe = step.recipe
    counts = alive(recipe, step.extra, place.at, place.top, place.repetition)
    found: dict[Class, list[int]] = {}  # how many tensors, and their bytes
    for kind, count, n_bytes in zip(recipe.classes, counts, step.sizes, strict=True):
        if count:
            total = found.setdefault(kind._replace(times=1), [0, 0])
            total[0] += count * step.sums.number(kind.times)
            total[1] += count * n_bytes
    every = [Alive(kind, tuple(map(step.sums.number, kind.shape)), *total) for kind, total in found.items()]
    return sorted(every, key=lambda one: one.n_bytes, reverse=True)


def by_group(step: Step, group: str) -> list[list[int]]:
    """Return the bytes of one group at every height: for each stretch its start, tops and end, first repetition."""
    sizes = [
        size if GROUP_OF.get(kind.why, REST) == group else 0
        for kind, size in zip(step.recipe.classes, step.sizes, strict=True)
    ]
    return [[one.start, *one.tops, one.end] for one in stretches(step.recipe, sizes, step.extra)]
