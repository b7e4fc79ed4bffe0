"""Streams of jobs: every event from an empty GPU on, played once for all jobs of a structure and a depth.

The allocator wants each event in its place, which recipes do not keep. A job is played on expressions here too, so that
another batch or length is the same events with other bytes, as long as all comparisons come out alike. Few layers are
played where they tell what all of them do (unfold.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from oomph.device_map import placed
from oomph.job import TrainJob, shortened
from oomph.methods import layers_path
from oomph.model import Model
from oomph.optimizers.deepspeed import REDUCED
from oomph.pattern import Depth, pattern
from oomph.recipe import Recipe, Sums
from oomph.stream import Event, Label, Stream
from oomph.structure import Job, decoder_stack, shallow, structure, symbolic, with_layers
from oomph.tape.sizes import Sheet, Size, number, yes

if TYPE_CHECKING:
    from oomph.fold import Classes
    from oomph.played import Played
    from oomph.tape.turns import Turns
    from oomph.unfold import Events, Spelled

ON_OTHER_STREAMS = {REDUCED: 1}  # operations whose results are not allocated on the first CUDA stream
TURNS = 3  # of loops over tokens: those that are not like all others, and one to compare with
KEPT = 32  # scripts in memory; one of a deep model takes some megabytes


@dataclass(frozen=True, eq=False)
class Script:
    """A stream with its sizes left open: what is allocated (an ordinal) or freed (its complement), in order.

    `kinds` is the class of each allocation in the recipe, which has no parts; `labels` are those of the allocations
    that a figure depends on.
    """

    recipe: Recipe
    events: list[int]
    kinds: list[int]
    marks: list[tuple[int, str]]
    labels: dict[int, Label]

    def of(self, sums: Sums) -> Script:
        """Return the script for the numbers put in: the same for all."""
        return self

    def stream(self, sums: Sums) -> Stream:
        """Return the stream for the numbers put in."""
        of_class = self.class_bytes(sums)
        sizes = [of_class[kind] for kind in self.kinds]
        events = [Event(at, sizes[at]) if at >= 0 else Event(~at, -sizes[~at]) for at in self.events]
        return Stream(events, list(self.marks), dict(self.labels), self.lanes)

    @cached_property
    def lanes(self) -> dict[int, int]:
        """The CUDA stream of each allocation that is not on the first one."""
        of_class = [ON_OTHER_STREAMS.get(one.op, 0) for one in self.recipe.classes]
        return {at: of_class[kind] for at, kind in enumerate(self.kinds) if of_class[kind]} if any(of_class) else {}

    def class_bytes(self, sums: Sums) -> list[int]:
        """Return the bytes of an allocation of each class for the numbers put in."""
        return [sums.number(one.n_bytes) for one in self.recipe.classes]


@dataclass(frozen=True, eq=False)
class Looped:
    """A script with the length of its loops over tokens left open too: it is played with few turns, and with more.

    `classes` are those of the recipe on the expressions that were played; its number of layers is that length.
    """

    recipe: Recipe
    classes: Sequence[tuple[Any, ...]]
    few: Spelled
    more: Spelled

    def of(self, sums: Sums) -> Script:
        """Return the script for the numbers put in, with as many turns as they say."""
        from oomph.unfold import deeper

        return _script(self.recipe, self.classes, deeper(self.few, self.more, sums.number(self.recipe.layers) - TURNS))


_scripts: dict[str, list[Script | Looped]] = {}


def job_stream(model: Model, job: Job) -> Stream:
    """Return the events of a job from an empty GPU on: a steady step follows a first one, whose traces it works in.

    Of the labels only those are there that tell where cuBLAS gets its workspaces.
    """
    script, sums = job_script(model, job)
    return script.stream(sums)


def job_script(model: Model, job: Job) -> tuple[Script, Sums]:
    """Return the script of a job, and the job's numbers in its recipe."""
    job = placed(model, shortened(job))
    found = structure(model, job)
    key = f"{found.key} layers={len(decoder_stack(model)[1].layers)}"
    for script in _scripts.get(key, ()):
        sums = Sums(script.recipe, found.numbers)
        if sums.hold():
            return script.of(sums), sums
    script = _written(model, job)
    if sum(map(len, _scripts.values())) >= KEPT:
        _scripts.clear()
    _scripts.setdefault(key, []).insert(0, script)
    sums = Sums(script.recipe, found.numbers)
    return script.of(sums), sums


def _written(model: Model, job: Job) -> Script | Looped:
    """Play a job on expressions and return its script; few layers are played where they tell what all of them do."""
    from oomph.fold import Classes, written

    sheet = Sheet()
    lifted, open_job = symbolic(model, job, sheet)
    classes = Classes(layers_path(model, job))
    loops: set[Size] = set()
    found = _events(lifted, open_job, classes, TURNS, loops)
    if loops:
        turns = _turns(lifted, open_job, classes, found, loops)
        if turns is not None:
            return Looped(written(sheet, classes, (), next(iter(loops)), 0, 0), list(classes.numbers), *turns)
        found = _events(lifted, open_job, classes)
    return _script(written(sheet, classes, (), 0, 0, 0), list(classes.numbers), found)


def _script(recipe: Recipe, classes: Sequence[tuple[Any, ...]], found: Events) -> Script:
    return Script(recipe, *found, _first_products(found, classes))


def _turns(model: Model, job: Job, classes: Classes, found: Events, loops: set[Size]) -> tuple[Spelled, Spelled] | None:
    """Return a job with few turns of its loops over tokens, which were `found`, and with more; None where they do not
    tell all turns, as where loops differ in length."""
    from oomph.fold import Unfoldable
    from oomph.unfold import PERIODS, deeper, spelled

    (length, *others) = loops
    if others or not yes(length > TURNS + PERIODS):
        return None
    few, more = (spelled(each) for each in (found, _events(model, job, classes, TURNS + PERIODS)))
    try:
        deeper(few, more, PERIODS)
    except Unfoldable:
        return None
    return few, more


def _events(
    model: Model, job: Job, classes: Classes, turns: Turns = "all", loops: set[Size] | None = None
) -> Events:  # fmt: skip
    """Return the events of a job; few layers are played where they tell what all of them do.

    Of loops over tokens `turns` are played; the lengths of those that have more are added to `loops`.
    """
    return _unfolded(model, job, classes, turns, loops) or _in_full(model, job, classes, turns, loops)


def _unfolded(
    model: Model, job: Job, classes: Classes, turns: Turns = "all", loops: set[Size] | None = None
) -> Events | None:
    """Return the events of a job from those with few layers; None where these do not tell them."""
    from oomph.fold import Unfoldable
    from oomph.unfold import PERIODS, deeper, events_of, spelled

    layers = decoder_stack(model)[1].layers
    few, repeating = shallow(model, job, len(layers), PERIODS), pattern(layers)
    if few is None or repeating is None:
        return None
    depth, period = few
    if 2 * depth + PERIODS * period >= len(layers):
        return None  # it would take longer
    deep = Depth(len(layers), repeating)
    try:
        two = [_played(with_layers(model, each), job, deep, turns, loops) for each in (depth, depth + PERIODS * period)]
        few_layers, more_layers = (spelled(events_of(each, classes)) for each in two)
        return deeper(few_layers, more_layers, (len(layers) - depth) // period)
    except Unfoldable:
        return None


def _in_full(
    model: Model, job: Job, classes: Classes, turns: Turns = "all", loops: set[Size] | None = None
) -> Events:  # fmt: skip
    """Return the events of a job with all its layers."""
    from oomph.unfold import events_of

    return events_of(_played(model, job, None, turns, loops), classes)


def _played(model: Model, job: Job, deep: Depth | None, turns: Turns, loops: set[Size] | None) -> Played:
    from oomph.play import play, train_step

    if isinstance(job, TrainJob):
        played = train_step(model, job, layers=deep, warm_up=True, turns=turns)
    else:
        played = play(model, job, turns=turns)
    if loops is not None:
        loops |= played.recorder.loops
    return played


def _first_products(found: Events, classes: Sequence[tuple[Any, ...]]) -> dict[int, Label]:
    """Return the first matrix product of the forward and of the backward pass."""
    from oomph.device_memory import MATRIX_PRODUCTS

    begins, instant = dict(found.marks), ""  # of several marks at one position the last one counts
    first: dict[bool, tuple[int, str]] = {}
    for position, event in enumerate(found.events):
        instant = begins.get(position, instant)
        if event >= 0 and classes[found.kinds[event]][1] in MATRIX_PRODUCTS:
            first.setdefault(instant.endswith("backward"), (event, instant))
            if len(first) > 1:
                break
    labels = {}
    for event, instant in first.values():
        _, op, shape, dtype, *_ = classes[found.kinds[event]]
        labels[event] = Label(op, tuple(map(number, shape)), dtype, instant)
    return labels
