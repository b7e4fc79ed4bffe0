"""What a runtime is, and the versions it depends on."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from oomph.errors import UnsupportedError
from oomph.job import DEFAULTS, TrainJob
from oomph.job_words import BASES, PRESETS
from oomph.objectives import KINDS as OBJECTIVES
from oomph.optimizer_names import KINDS

if TYPE_CHECKING:
    from oomph.model import Model

Version = tuple[int, ...]
# The newest releases whose defaults are written down here; what is newer is taken to do as they do.
NEWEST: dict[str, Version] = {
    "torch": (2, 13),
    "transformers": (5, 23),
    "peft": (0, 21),
    "trl": (1, 16),
    "sentence_transformers": (6, 2),
    "bnb": (0, 50),
    "unsloth": (2026, 10, 9),
}
_NAMED = re.compile(r"\b([A-Za-z_]+)[ =~]+(\d+(?:\.\d+){1,3})")
LONGEST = 500  # characters of a text in which versions are looked for


@dataclass(frozen=True)
class Versions:
    """Versions of libraries; one that is not known is the newest.

    >>> Versions.found_in("torch 2.4.1, transformers 4.48.1").of("transformers")
    (4, 48, 1)
    >>> Versions().at_least("torch", 2, 8), Versions.found_in("torch ~1.10").at_least("torch", 2)
    (True, False)
    """

    known: tuple[tuple[str, Version], ...] = ()

    @staticmethod
    def found_in(text: str) -> Versions:
        """Return the versions that a text names."""
        pairs = {name.lower(): tuple(map(int, number.split("."))) for name, number in _NAMED.findall(text[:LONGEST])}
        return Versions(tuple(sorted(pairs.items())))

    def of(self, library: str) -> Version:
        """Return the version of a library."""
        return dict(self.known).get(library, NEWEST.get(library, (0,)))

    def at_least(self, library: str, *least: int) -> bool:
        """Tell whether a library is of some version or newer."""
        return self.of(library) >= least


@dataclass(frozen=True)
class Default:
    """A value for a field of a job, and why it is this one."""

    value: Any
    why: str


Defaults = Mapping[str, Default]


def given_way(values: Mapping[str, Any], said: Collection[str]) -> dict[str, Any]:
    """Return a job's fields, where what a method stands for gives way to what was said.

    `said` are the names of fields that were, by a user or a program. qlora with something else said is lora with the
    rest of what qlora stands for.

    >>> given_way({"method": "qlora", "kbit_preparation": False}, {"kbit_preparation"})
    {'method': 'lora', 'kbit_preparation': False, 'quantization': 'nf4-dq', 'targets': 'all-linear'}
    """
    presets = PRESETS.get(values.get("method", ""), {})
    other = {name for name in presets if name in said and values[name] == DEFAULTS[name]}
    if not other or values["method"] not in BASES:
        return dict(values)
    rest = {name: value for name, value in presets.items() if name not in said}
    return {**values, "method": BASES[values["method"]], **rest}


@dataclass(frozen=True)
class Runtime:
    """A program: its name, what it is in a line, where its defaults are written down, and what they are."""

    name: str
    what: str
    source: str
    defaults: Callable[[Versions], Defaults]
    quantised: Callable[[Versions], Defaults] = lambda versions: {}  # more of them on a quantised base
    whole: Callable[[Versions], Defaults] = lambda versions: {}  # where all weights train
    # More of them where rows are packed, which the attention that is asked for may decide.
    packed: Callable[[Versions, str], Defaults] = lambda versions, attention: {}
    # More of them as a whole job has it that is given: kernels that a program puts in where it can.
    of_job: Callable[[Mapping[str, Any]], Defaults] = lambda given: {}
    # Which packages for layers that keep a state come with it, where a model has such layers.
    mixers: Default | None = None
    # What becomes of its own defaults with a model that they do not go with, each with the reason.
    of_model: Callable[[Model, TrainJob], Defaults] = lambda model, job: {}
    # What is different for an objective beyond sft; None where such a job is not modelled as this program runs it.
    of_objective: Callable[[str, Versions], Defaults] | None = None

    def job(self, versions: Versions = Versions(), **given: Any) -> TrainJob:
        """Return a job as this program runs it; what is given wins.

        >>> from oomph.runtimes import runtime
        >>> runtime("trainer").job(batch=2).clip_gradients
        True
        """
        return TrainJob(**self.with_defaults(versions, given))

    def with_defaults(self, versions: Versions, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is given and, for the rest, the program's defaults, as far as they go with it.

        Both win over what a method stands for.
        """
        found = {**{name: each.value for name, each in self._taken(versions, given).items()}, **given}
        return given_way(found, found)

    def _defaults(self, versions: Versions, objective: str) -> Defaults:
        if objective == "sft":
            return self.defaults(versions)
        if self.of_objective is None:
            own = "sentence-transformers" if OBJECTIVES[objective].task == "embedding" else "trl"
            fix = f"Say --framework {own}."
            raise UnsupportedError(f"oomph does not know {objective} as {self.name} runs it yet.", fix)
        return {**self.defaults(versions), **self.of_objective(objective, versions)}

    def _taken(self, versions: Versions, given: Mapping[str, Any]) -> Defaults:
        narrow = given.get("method") == "qlora" or given.get("quantization", "none") != "none"
        known = self._defaults(versions, given.get("objective", "sft"))
        known = {**known, **(self.quantised(versions) if narrow else {})}
        method = given.get("method") or (known["method"].value if "method" in known else "full")
        known = {**known, **(self.whole(versions) if method == "full" else {})}
        if given.get("packing") or given.get("padding_free"):
            known = {**known, **self.packed(versions, given.get("attention", "flash"))}
        known = {**known, **self.of_job(given)}
        kind = KINDS.get(given.get("optimizer") or (known["optimizer"].value if "optimizer" in known else ""))
        in_backward = bool(given.get("optimizer_in_backward")) or (kind is not None and kind.in_backward)

        def goes(name: str, default: Default) -> bool:
            if name == "clip_gradients":  # which finds no gradients where each is gone after its update
                return not in_backward
            return name != "implementation" or kind is None or default.value in kind.implementations

        return {name: default for name, default in known.items() if name not in given and goes(name, default)}

    def taken(self, versions: Versions, given: Mapping[str, Any]) -> tuple[str, ...]:
        """Return in words which defaults a job takes, given what the user said."""
        return tuple(
            f"{name}={default.value}: {default.why}"
            for name, default in self._taken(versions, given).items()
            if name in _FIELDS
        )


_FIELDS = {each.name for each in fields(TrainJob)}
