"""Steps of jobs as recipes: found among those kept, or played, folded and kept. One job or a hundred thousand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from oomph.device_map import placed
from oomph.job import shortened
from oomph.methods import layers_path
from oomph.model import Model
from oomph.pattern import Depth, pattern
from oomph.recipe import Numbers, Recipe, Stretch, Sums, highest, stretches
from oomph.structure import Job, decoder_stack, shallow, structure, symbolic, with_layers
from oomph.tape.sizes import Sheet, Size, number, yes
from oomph.tape.tape import Place

if TYPE_CHECKING:
    from oomph.sources.kept import Shelf

JOBS_AT_ONCE = 8192  # so that a column of numbers stays in a core's cache


@dataclass(frozen=True)
class Step:
    """A step with numbers: ints for one job, arrays for many."""

    sums: Sums
    sizes: tuple[Numbers, ...]  # bytes of what was played of each class, tensors rounded to 512
    extra: Numbers  # how often the repeated layers repeat beyond those played

    @property
    def recipe(self) -> Recipe:
        """The recipe that the numbers were put in."""
        return self.sums.recipe

    @cached_property
    def stretches(self) -> list[Stretch]:
        """The parts of the step in order; what lies before `begin` was there already."""
        return stretches(self.recipe, self.sizes, self.extra)

    @property
    def begin(self) -> int:
        """The first stretch of the step that counts: before it lie parameters and, if it was played, another step."""
        ends = [at for at, one in enumerate(self.stretches) if one.name == "end"]
        return ends[-1] + 1 if ends else 1

    @property
    def resident(self) -> Numbers:
        """Bytes alive before the step."""
        return self.stretches[self.begin].start

    @property
    def forward_end(self) -> Numbers:
        """Bytes alive when the (last micro-batch's) loss is known; of a training step."""
        return next(one.start for one in reversed(self.stretches) if one.name == "loss backward")

    @property
    def end(self) -> Numbers:
        """Bytes alive after the step."""
        return self.stretches[-1].last_end

    @cached_property
    def peak(self) -> Numbers:
        """The most bytes alive."""
        return highest([one.peak for one in self.stretches[self.begin :]])

    @property
    def peak_name(self) -> str:
        """The stretch in which the peak lies, the first one of equals; for one job only."""
        return max(self.stretches[self.begin :], key=lambda one: int(one.peak)).name

    @property
    def folded(self) -> bool:
        """False where the step was played in full."""
        return self.recipe.period > 0


def step(model: Model, job: Job, layers: int | None = None, *, on: Place = "gpu") -> Step:
    """Return the step of a model with `layers` layers of its pattern (as many as it has, if None)."""
    job = placed(model, shortened(job))
    _, stack = decoder_stack(model)
    if layers is None:
        layers = len(stack.layers)
    elif layers != len(stack.layers):
        model = with_layers(model, layers)
    found = structure(model, job)
    key, numbers = f"{found.key} on={on}", (layers, *found.numbers)
    shelf = _shelf()
    for recipe in shelf.get(key):
        sums = Sums(recipe, numbers)
        if sums.hold():
            return with_numbers(sums)
    sheet = Sheet()
    depth = sheet.axis(layers)
    recipe = compiled(sheet, *symbolic(model, job, sheet), depth, on)
    shelf.put(key, recipe)
    return with_numbers(Sums(recipe, numbers))


@cache
def _shelf() -> Shelf:
    from oomph.sources.kept import shelf

    return shelf()


def with_numbers(sums: Sums) -> Step:
    """Return the step for the numbers put in."""
    recipe = sums.recipe
    extra = (sums.number(recipe.layers) - recipe.depth) // recipe.period if recipe.period else 0
    return Step(sums, tuple(sums.class_bytes()), extra)


def compiled(sheet: Sheet, model: Model, job: Any, layers: Size, on: Place = "gpu") -> Recipe:
    """Return the recipe of a step whose sizes, and number of layers, may be expressions of a sheet."""
    from oomph.fold import Classes, Unfoldable, folded, segments, unfolded, written
    from oomph.play import play

    _, stack = decoder_stack(model)
    path = layers_path(model, job)
    repeating = pattern(stack.layers)
    deep = Depth(layers, repeating) if repeating else None

    def played(depth: int, deep: Depth | None = None) -> Any:
        whole = with_layers(model, depth) if repeating else model
        return segments(play(whole, job, layers=deep, on=on, turns="heights").recorder, classes)

    few = shallow(model, job, layers)
    if few is not None:
        depth, period = few
        classes = Classes(path)
        try:
            parts = folded(played(depth, deep), played(depth + period, deep))
            return written(sheet, classes, parts, layers, depth, period)
        except Unfoldable:
            pass
    depth = number(layers)
    yes(layers == depth)
    classes = Classes(path)
    return written(sheet, classes, unfolded(played(depth)), layers, depth, 0)


def grid(build: Callable[..., tuple[Model, Job, Size]], columns: Mapping[str, Any], *, on: Place = "gpu") -> Any:
    """Return the peak bytes of many jobs at once: an int64 array of one per job.

    `columns` maps names to arrays of one length (entry i of each makes job i); `build(**sizes)` returns model, job and
    number of layers from sizes that may be expressions. One job of each branch is played, the others follow it.
    """
    import numpy as np

    arrays = {name: np.asarray(column, np.int64) for name, column in columns.items()}
    (count,) = {len(column) for column in arrays.values()}
    peaks = np.zeros(count, np.int64)
    waiting = np.arange(count)
    while len(waiting):
        sheet = Sheet()
        first = {name: sheet.axis(int(column[waiting[0]])) for name, column in arrays.items()}
        model, job, layers = build(**first)
        recipe = compiled(sheet, model, job, layers, on)
        left = []
        for start in range(0, len(waiting), JOBS_AT_ONCE):
            chosen = waiting[start : start + JOBS_AT_ONCE]
            holds = _sums(recipe, arrays, chosen).hold() & np.ones(len(chosen), bool)
            left.append(chosen[~holds])
            chosen = chosen[holds]
            peaks[chosen] = with_numbers(_sums(recipe, arrays, chosen)).peak
        waiting = np.concatenate(left)
    return peaks


def _sums(recipe: Recipe, arrays: Mapping[str, Any], chosen: Any) -> Sums:
    return Sums(recipe, [column[chosen] for column in arrays.values()])
