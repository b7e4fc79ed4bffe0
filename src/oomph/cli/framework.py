"""`--framework` and `--config`: a job of what was typed, what a config file says, and a program's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from oomph.cli.job_options import given
from oomph.errors import UsageError
from oomph.job import DEFAULTS, TrainJob
from oomph.runtimes import runtime
from oomph.runtimes.base import Versions
from oomph.runtimes.peft import given_way
from oomph.runtimes.trainer import use_cache

SHOWN = 20  # unknown keys that are listed


@dataclass(frozen=True)
class Framework:
    """What a framework adds to an answer: defaults taken, keys not read, and the model its config names."""

    taken: tuple[str, ...]
    warnings: tuple[str, ...]
    model: str | None


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
    said = {**file.fields, **typed}
    found = program.with_defaults(Versions(), said)
    if "use_cache" not in said:
        found["use_cache"] = bool(found.get("use_cache")) and use_cache(found.get("checkpointing", "none"))
    if config and name and program.name != file.runtime:
        raise UsageError(f"{config} is a config of {file.runtime}, not of {program.name}.", "Leave out --framework.")
    unread = ", ".join(file.unknown[:SHOWN]) + (" ..." if len(file.unknown) > SHOWN else "")
    warnings = (*((f"Not read in {config}: {unread}.",) if unread else ()), *file.notes)
    taken = tuple(f"{program.name}: {text}" for text in program.taken(Versions(), said))
    return TrainJob(**given_way(found, typed, DEFAULTS)), Framework(taken, warnings, file.model)
