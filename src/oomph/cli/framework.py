"""`--framework` and `--config`: a job of what was typed, what a config file says, and a program's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oomph.cli.job_options import beside, check_kind, given, infer_job, train_job, within_context
from oomph.errors import UsageError
from oomph.job import TrainJob
from oomph.programs.mixer_packages import takes
from oomph.runtimes import runtime
from oomph.runtimes.base import Runtime, Versions
from oomph.runtimes.trainer import use_cache

if TYPE_CHECKING:
    from oomph.ledger import Ledger
    from oomph.model import Model

SHOWN = 20  # unknown keys that are listed


@dataclass(frozen=True)
class Framework:
    """What a framework adds to an answer: defaults taken, keys not read, the model its config names, whether it or
    somebody said how long sequences are, and which fields were said.
    """

    taken: tuple[str, ...]
    warnings: tuple[str, ...]
    model: str | None
    has_length: bool = True
    program: Runtime | None = None
    said: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Asked:
    """A job as a command asks for it, the name of its model, and what is to be told of both."""

    model: str
    job: Any
    taken: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    has_length: bool = True
    program: Runtime | None = None
    said: frozenset[str] = frozenset()

    def of(self, model: Model) -> Asked:
        """Return what is asked of this model: no more tokens than it is made for, unless somebody said how many, and
        of a program's defaults those that go with it.
        """
        job = self.job if self.has_length else within_context(self.job, model.context_length)
        return replace(self, job=job)._with_packages(model)._without(model)

    def _with_packages(self, model: Model) -> Asked:
        """Return the same with packages that come with the program, where the model's layers can take them."""
        if self.program is None or self.program.mixers is None or "mixers" in self.said:
            return self
        packages = self.program.mixers
        if not takes(model, packages.value):
            return self
        text = f"{self.program.name}: mixers={packages.value}: {packages.why}"
        return replace(self, job=replace(self.job, mixers=packages.value), taken=(*self.taken, text))

    def _without(self, model: Model) -> Asked:
        """Return the same without defaults of the program's that do not go with the model, of which is warned."""
        if self.program is None:
            return self
        found = self.program.of_model(model, self.job)
        changes = {name: default for name, default in found.items() if name not in self.said}
        job = replace(self.job, **{name: default.value for name, default in changes.items()})
        gone = tuple(f"{self.program.name}: {name}=" for name in changes)
        taken = tuple(text for text in self.taken if not text.startswith(gone))
        warnings = (*self.warnings, *(f"{default.why}." for default in changes.values()))
        return replace(self, job=job, taken=taken, warnings=warnings)

    def told(self, ledger: Ledger) -> Ledger:
        """Return a ledger with what is to be told before its own."""
        assumptions, warnings = (*self.taken, *ledger.assumptions), (*self.warnings, *ledger.warnings)
        return replace(ledger, assumptions=assumptions, warnings=warnings)


def asked(model: str | None, values: Mapping[str, Any]) -> Asked:
    """Return what the options of a command say, `framework` and `config` among them; raises UsageError for no model."""
    framework, config = values["framework"], values["config"]
    if framework is None and config is None and model is not None:
        return Asked(model, train_job(values), beside(values), has_length=False)
    job, said = framework_job(framework, config, values)
    model = model or said.model
    if model is None:
        why = ": the config names none" if config else ""
        raise UsageError(f"Say which MODEL{why}.", "Its name comes first: llama-3-8b.")
    return Asked(model, job, said.taken, said.warnings, said.has_length, said.program, said.said)


def either_asked(model: str | None, values: Mapping[str, Any]) -> Asked:
    """Return what the options of a command that takes both kinds of job say; raises UsageError as `asked`."""
    check_kind(values)
    if not values["infer"]:
        return asked(model, values)
    if values["framework"] or values["config"]:
        raise UsageError("Programs and their configs are of training.", "Leave --framework and --config out.")
    if model is None:
        raise UsageError("Say which MODEL.", "Its name comes first: llama-3-8b.")
    return Asked(model, infer_job(values), has_length=False)


def framework_job(name: str | None, config: str | None, values: Mapping[str, Any]) -> tuple[TrainJob, Framework]:
    """Return the job and what to say of it. `values` are all options; those that were typed win."""
    from oomph.runtimes.config_file import ConfigFile, load

    file = load(Path(config)) if config else ConfigFile(name or "pytorch", {}, None, ())
    program = runtime(name or file.runtime)
    names = {field.name for field in fields(TrainJob)}
    typed = {option.name: values[option.name] for option in given() if option.name in names}
    if file.untold and "objective" not in typed:
        fix = "Say which: --objective dpo, kto, orpo, cpo ... (sft: none of them)."
        raise UsageError(f"{config}: {file.untold}", fix)
    of_file = {name: value for name, value in file.fields.items() if name != "kernel_parts" or "kernels" not in typed}
    said = {**of_file, **typed}
    found = program.with_defaults(Versions(), said)
    if "use_cache" not in said:
        found["use_cache"] = bool(found.get("use_cache")) and use_cache(found.get("checkpointing", "none"))
    if config and name and program.name != file.runtime:
        raise UsageError(f"{config} is a config of {file.runtime}, not of {program.name}.", "Leave out --framework.")
    unread = ", ".join(file.unknown[:SHOWN]) + (" ..." if len(file.unknown) > SHOWN else "")
    warnings = (*((f"Not read in {config}: {unread}.",) if unread else ()), *file.notes)
    taken = tuple(f"{program.name}: {text}" for text in program.taken(Versions(), said))
    words = Framework(taken, warnings, file.model, "seq_len" in found, program, frozenset(said))
    return TrainJob(**found), words
