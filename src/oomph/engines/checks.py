"""What every input of a job must be: of the type its field says, and of a size that arithmetic on arrays holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from oomph.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from oomph.devices import Device
    from oomph.engines.base import Engine, ServeJob

# What --dtype of servers built on torch may say, and oomph's name for it.
DTYPES = {"auto": None, "half": "fp16", "float16": "fp16", "bfloat16": "bf16", "float": "fp32", "float32": "fp32"}
LARGEST = 2**40  # tokens, requests, bytes: beyond it nothing is a machine's
SHOWN = 40  # letters of a value that an error repeats


def whole(flag: str, value: Any, most: int = 2**31) -> None:
    """Raise UsageError for a value of a flag that is neither None nor a whole number from 1 to `most`.

    >>> whole("--tp", 0)
    Traceback (most recent call last):
        ...
    oomph.errors.UsageError: --tp '0' is not a whole number from 1 to 2,147,483,648. Correct it.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most):
        raise UsageError(f"{flag} {str(value)[:SHOWN]!r} is not a whole number from 1 to {most:,}.", "Correct it.")


def well_asked(engine: Engine, job: ServeJob, devices: Sequence[Device]) -> None:
    """Raise UsageError for requests that are none, UnsupportedError for devices that the engine does not run on."""
    for name, value in (("context", job.context), ("concurrency", job.concurrency)):
        if isinstance(value, int) and not 1 <= value <= LARGEST:
            raise UsageError(f"A {name} of {value} is no question.", f"Give a whole number from 1 to {LARGEST}.")
    for device in devices:
        if engine.vendors and device.vendor and device.vendor not in engine.vendors:
            of = " and ".join(NAMES.get(each, each) for each in engine.vendors)
            raise UnsupportedError(
                f"{engine.title} on {device.name} is not modelled: here it runs on {of}.",
                "Name another device, or another engine: llama.cpp runs on most.",
            )


NAMES = {"nvidia": "NVIDIA", "amd": "AMD", "apple": "Apple"}


def typed(job: Any) -> None:
    """Raise UsageError for a value of another type than its field's, or a number that is none of a machine's.

    >>> from oomph.engines.base import ServeJob
    >>> typed(ServeJob(context="8k"))
    Traceback (most recent call last):
        ...
    oomph.errors.UsageError: context is '8k'. Give a whole number.
    """
    for name, kinds in _kinds(type(job)):
        value = getattr(job, name)
        fits = isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
        if fits and isinstance(value, tuple):
            fits = all(isinstance(each, (int, float, str)) and not isinstance(each, bool) for each in value)
        if fits and isinstance(value, (int, float)):
            fits = -LARGEST <= value <= LARGEST
        if not fits:
            raise UsageError(f"{name} is {str(value)[:SHOWN]!r}.", f"Give {_words(kinds)}.")


Kinds = tuple[tuple[str, tuple[type[Any], ...]], ...]
_KINDS: dict[type[Any], Kinds] = {}


def _kinds(job: type[Any]) -> Kinds:
    if job not in _KINDS:
        hints = get_type_hints(job)
        _KINDS[job] = tuple(
            (each.name, tuple(get_origin(one) or one for one in _of(hints[each.name]))) for each in fields(job)
        )
    return _KINDS[job]


def _of(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type."""
    return (hint,) if get_origin(hint) is tuple else get_args(hint) or (hint,)


def _words(kinds: tuple[type[Any], ...]) -> str:
    named = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", tuple: "a list"}
    return " or ".join(named[each] for each in kinds if each in named)
