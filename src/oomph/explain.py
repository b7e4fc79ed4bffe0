"""What autograd keeps from a layer's forward to its backward: tensor by tensor, with closed forms and sums.

The tensors are those alive when the loss is known, as the tape played them; what one more layer adds to them is what a
layer keeps. Bytes are rounded to 512 per tensor, as torch's allocator does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import Any

from oomph.closed_form import Form, Forms, Monomial, axis_name, constant, plus, text
from oomph.job import TrainJob, describe
from oomph.model import Model
from oomph.pattern import Pattern, pattern
from oomph.peak import GROUP_OF, REST, Alive, alive_at, start_of
from oomph.steps import Step, step
from oomph.stream import ROUND
from oomph.structure import decoder_stack

FORWARD_END = "loss backward"  # the stretch that begins when the loss is known
GROUPS = frozenset({REST, "temporaries", "weight_copies", "kv_cache"})  # of the ledger: what a forward pass adds to
WORD = re.compile(r"[^\W\d_]\w*")  # a letter or a name in a formula
SAVED_FOR = "saved for "
NEEDED_BY = {
    "checkpoint": "the layer's second forward",
    "recomputed": "the layer's second forward",
    "saved for CheckpointFunction": "the layer's second forward",
    "autocast copy": "autocast's cache of weights",
    "input": "its caller",
    "": "its caller",
}


@dataclass(frozen=True)
class Row:
    """Equal tensors: `count` of them, `n_bytes` together.

    `module` is the path with a * for the layer, `shape` has an axis' name ("" for a plain number) and its length,
    `needed_by` says which backward they are kept for.
    """

    module: str
    operation: str
    shape: tuple[tuple[str, int], ...]
    dtype: str
    count: int
    n_bytes: int
    needed_by: str
    terms: tuple[tuple[Monomial, Fraction], ...]  # of n_bytes

    @property
    def formula(self) -> str:
        """The bytes in shape letters, as far as they are known."""
        return text(dict(self.terms))

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON can say it."""
        shape = [{"axis": axis, "size": size} for axis, size in self.shape]
        return {
            **{name: getattr(self, name) for name in ("module", "operation", "dtype", "count", "n_bytes")},
            **{"shape": shape, "formula": self.formula, "needed_by": self.needed_by},
        }


@dataclass(frozen=True)
class SavedTensors:
    """What a step keeps for its backward pass.

    `rows` are of `every` layers: 1, the period of checkpointing or of the layers' pattern, or all where there is none;
    they are there `periods` times. `outside` is what else is kept. `letters` are the axes: letter, what it is called,
    its length.
    """

    model: str
    job: Mapping[str, Any]
    stack: str
    layers: int
    every: int
    periods: int
    rows: tuple[Row, ...]
    outside: tuple[Row, ...]
    letters: tuple[tuple[str, str, int], ...]

    @cached_property
    def row_bytes(self) -> int:
        """What `every` layers keep: A, where that is one layer."""
        return sum(row.n_bytes for row in self.rows)

    @property
    def formula(self) -> str:
        """The sum A in shape letters."""
        return text(_total(self.rows))

    @property
    def layers_bytes(self) -> int:
        """What all layers keep."""
        return self.row_bytes * self.periods

    @property
    def outside_bytes(self) -> int:
        """What is kept outside the layers, and by layers that differ from the others."""
        return sum(row.n_bytes for row in self.outside)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can say it."""
        return {
            "model": self.model,
            "job": dict(self.job),
            "layers": self.layers,
            "per_layers": self.every,
            "rows": [row.to_dict() for row in self.rows],
            "row_bytes": self.row_bytes,
            "formula": self.formula,
            "layers_bytes": self.layers_bytes,
            "outside": [row.to_dict() for row in self.outside],
            "outside_bytes": self.outside_bytes,
            "letters": {letter: {"means": means, "size": size} for letter, means, size in self.letters},
        }


ENOUGH = 4  # periods more, with which every step is deep enough to be folded
Counts = dict[Row, int]  # how often a row of one tensor is there


def model_of(ref: str, *, offline: bool = False, job: TrainJob | None = None) -> Model:
    """Return the model behind a name, folder, file or repository; of a bare model_type, its class's defaults.

    Raises OomphError as `oomph.load` does.
    """
    from oomph.families import class_defaults, model_from_config
    from oomph.families.heads import headed
    from oomph.families.registry import FAMILIES
    from oomph.sources import catalogue

    if ref in FAMILIES and catalogue.find(ref) is None and not os.path.exists(ref):
        config = class_defaults(ref)
        asked = headed(config, *job.head) if job else config
        return model_from_config(asked, f"{ref} (class defaults)")
    from oomph.answer import subject

    return subject(ref, offline=offline, job=job).model


def saved_tensors(model: Model, job: TrainJob) -> SavedTensors:
    """Return what a training step keeps for its backward pass.

    Raises UnsupportedError for a model or a job that cannot be played.
    """
    whole = step(model, job)
    path, stack = decoder_stack(model)
    repeating = pattern(stack.layers)
    deep = _deep(whole, model, job, repeating)
    forms = Forms(deep.sums, model, job)
    kept = _counts(whole, Forms(whole.sums, model, job))
    if deep.folded and repeating is not None:
        every = deep.recipe.period
        periods = (model.num_layers - repeating.fixed) // every
        more = replace(deep, extra=deep.extra + 1)
        one = _less(_counts(more, forms), _counts(deep, forms), 1)
    else:
        every, periods = model.num_layers, 1
        one = {row: count for row, count in kept.items() if row.module.startswith(f"{path}.*")}
    rest = _settled(_less(kept, one, periods))
    rows, outside = _rows(one), _rows(rest)
    return SavedTensors(
        model.name or model.model_type,
        describe(job),
        path,
        model.num_layers,
        every,
        periods,
        rows,
        outside,
        _letters(forms, (*rows, *outside)),
    )


def _deep(whole: Step, model: Model, job: TrainJob, repeating: Pattern | None) -> Step:
    """Return a step that is folded where a shallow model's is not: deeper, and as many layers from a whole period."""
    if whole.folded or repeating is None:
        return whole
    every = job.checkpoint_every if job.checkpointing != "none" else 1
    return step(model, job, model.num_layers + ENOUGH * lcm(len(repeating.period), every))


def _counts(one: Step, forms: Forms) -> Counts:
    """Return what is alive at the end of the forward pass and was not there before it."""
    found: Counts = {}
    for alive in alive_at(one, start_of(one, FORWARD_END)):
        if GROUP_OF.get(alive.kind.why, REST) in GROUPS:
            row = _row(alive, forms)
            found[row] = found.get(row, 0) + alive.count
    return found


def _row(alive: Alive, forms: Forms) -> Row:
    """Return the row of one of these tensors."""
    kind, n_bytes = alive.kind, alive.n_bytes // alive.count
    shape = tuple(
        (axis_name(forms.of(term)), size) for term, size in zip(kind.shape, alive.shape, strict=True)
    )  # fmt: skip
    needed_by = NEEDED_BY.get(kind.why) or f"{kind.why.removeprefix(SAVED_FOR)} backward"
    exact = forms.of(kind.n_bytes)
    if forms.sums.number(kind.n_bytes) != n_bytes:
        exact = {((f"round{ROUND}({text(exact)})", 1),): Fraction(1)} if any(exact) else constant(n_bytes)
    return Row(kind.scope, kind.op, shape, kind.dtype, 1, n_bytes, needed_by, tuple(exact.items()))


def _less(counts: Counts, others: Counts, times: int) -> Counts:
    """Return counts - times·others, without zeros."""
    found = {row: counts.get(row, 0) - times * others.get(row, 0) for row in {**counts, **others}}
    return {row: count for row, count in found.items() if count}


def _settled(counts: Counts) -> Counts:
    """Return counts without negative ones, each set off against equal tensors that another module made.

    The first layer is handed the embedding's output where the others get one of a layer: one too many of the one and
    one too few of the other.
    """
    settled = dict(counts)
    for missing in [row for row, count in counts.items() if count < 0]:
        for other in settled:
            if settled[other] > 0 and (other.n_bytes, other.dtype) == (missing.n_bytes, missing.dtype):
                moved = min(settled[other], -settled[missing])
                settled[other] -= moved
                settled[missing] += moved
    return {row: count for row, count in settled.items() if count}


def _rows(counts: Counts) -> tuple[Row, ...]:
    """Return rows with their counts, largest first."""
    rows = [
        replace(row, count=count, n_bytes=count * row.n_bytes, terms=tuple(plus({}, dict(row.terms), count).items()))
        for row, count in counts.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.n_bytes, row.module, row.operation, row.needed_by)))


def _letters(forms: Forms, rows: tuple[Row, ...]) -> tuple[tuple[str, str, int], ...]:
    """Return the letters that stand in formulas."""
    used = {"b", "s", *(word for row in rows for word in WORD.findall(row.formula))}
    return tuple(
        (letter, " = ".join(names), size) for letter, (names, size) in forms.legend.items() if letter in used
    )  # fmt: skip


def _total(rows: tuple[Row, ...]) -> Form:
    total: Form = {}
    for row in rows:
        total = plus(total, dict(row.terms))
    return total
