"""Streams of jobs: every event from an empty GPU on, played once for all jobs of a structure and a depth.

The allocator wants each event in its place, which recipes do not keep. A job is played on expressions here too, so that
another batch or length is the same events with other bytes, as long as all comparisons come out alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from oomph.job import TrainJob, shortened
from oomph.methods import layers_path
from oomph.model import Model
from oomph.recipe import Recipe, Sums
from oomph.stream import Event, Label, Stream
from oomph.structure import Job, decoder_stack, structure, symbolic
from oomph.tape.sizes import Sheet

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

    def stream(self, sums: Sums) -> Stream:
        """Return the stream for the numbers put in."""
        of = self.sizes(sums)
        events = [Event(at, of[at]) if at >= 0 else Event(~at, -of[~at]) for at in self.events]
        return Stream(events, list(self.marks), dict(self.labels))

    def sizes(self, sums: Sums) -> list[int]:
        """Return the bytes of every allocation for the numbers put in."""
        sizes = [sums.number(one.n_bytes) for one in self.recipe.classes]
        return [sizes[kind] for kind in self.kinds]


_scripts: dict[str, list[Script]] = {}


def job_stream(model: Model, job: Job) -> Stream:
    """Return the events of a job from an empty GPU on: a steady step follows a first one, whose traces it works in.

    Of the labels only those are there that tell where cuBLAS gets its workspaces.
    """
    script, sums = job_script(model, job)
    return script.stream(sums)


def job_script(model: Model, job: Job) -> tuple[Script, Sums]:
    """Return the script of a job, and the job's numbers in its recipe."""
    job = shortened(job)
    found = structure(model, job)
    key = f"{found.key} layers={len(decoder_stack(model)[1].layers)}"
    for script in _scripts.get(key, ()):
        sums = Sums(script.recipe, found.numbers)
        if sums.hold():
            return script, sums
    script = _written(model, job)
    if sum(map(len, _scripts.values())) >= KEPT:
        _scripts.clear()
    _scripts.setdefault(key, []).insert(0, script)
    return script, Sums(script.recipe, found.numbers)


def _written(model: Model, job: Job) -> Script:
    """Play a job on expressions and return its script."""
    from oomph.device_memory import MATRIX_PRODUCTS, first_products
    from oomph.fold import Classes, written
    from oomph.play import play, train_step

    sheet = Sheet()
    lifted, open_job = symbolic(model, job, sheet)
    played = train_step(lifted, open_job, warm_up=True) if isinstance(open_job, TrainJob) else play(lifted, open_job)
    recorder = played.recorder
    classes = Classes(layers_path(model, job))
    kinds = classes.of(recorder)
    recipe = written(sheet, classes, (), 0, 0, 0)
    whole = recorder.stream(MATRIX_PRODUCTS)
    products = [whole.events[position - 1].ordinal for position in first_products(whole)]
    labels = {ordinal: whole.labels[ordinal] for ordinal in products}
    return Script(recipe, recorder.events[: played.end], kinds, recorder.marks, labels)
