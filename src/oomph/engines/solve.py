"""The largest value of one input of a served job with which it still fits: exact, one more does not.

One deployment says where to look: what requests take is a function of their length and number. The value and one more
are then each deployed on their own, so that what a flag moves besides the cache is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from oomph.answer import Subject
from oomph.engines.base import Deployment, Engine, ServeJob, asked
from oomph.engines.checks import well_asked
from oomph.engines.flags import field_of, integers
from oomph.engines.serving import serve
from oomph.errors import OomphError, UsageError, close_matches
from oomph.ledger import Ledger
from oomph.planning.result import Limit, Limits
from oomph.units import human

if TYPE_CHECKING:
    from oomph.devices import Device

MOST = 2**24  # a value beyond which nobody looks
USUAL = ("context", "concurrency")
WORDS = {"context": "requests of {} tokens", "concurrency": "{} requests at a time", "gpu-layers": "{} layers on GPUs"}
# What people say for fields that engines call differently, the first that an engine has.
FIELDS = {
    "gpu-layers": ("gpu_layers", "n_gpu_layers"),
    "batch": ("ubatch_size", "ubatch", "max_num_batched_tokens", "chunked_prefill_size", "batch_size", "batch"),
}

FREEING = ("n_cpu_moe",)  # fields of which more takes less of GPUs


@dataclass(frozen=True)
class Axis:
    """An input to search over: its name, the job's field, what to call a value, and between which values to look."""

    over: str
    field: str
    words: str
    least: int
    most: int
    why: str


def limits(
    found: Subject, engine: Engine, job: ServeJob, devices: Sequence[Device], over: Sequence[str] = ()
) -> Limits:
    """Return the largest values of several inputs, each with everything else as the job has it.

    Without any named: the longest context, and how many requests at a time.
    """
    ledger = serve(found, engine, job, devices)
    return Limits(ledger, tuple(largest(found, engine, job, devices, name) for name in over or USUAL))


def largest(found: Subject, engine: Engine, job: ServeJob, devices: Sequence[Device], over: str) -> Limit:
    """Return the largest value of an input with which a job fits on devices.

    Raises UsageError for an input that the engine does not have, and what the engine raises of the job as it is.
    """
    if not devices:
        raise UsageError("The largest value is a question of a device.", "Name one: --gpu rtx-4090.")
    well_asked(engine, job, devices)
    deployed = engine.deploy(found, job, devices)
    axis = _axis(found, engine, deployed, over)
    if over == "concurrency" and job.context is None:
        job = replace(job, context=deployed.context)  # more requests are not shorter ones
    search = _Search(found, engine, job, devices, axis)
    value = search.run()
    at = search.ledger(value) if value is not None else None
    following = axis.least if value is None else value + 1
    beyond = search.ledger(following) if following <= axis.most else None
    limited = value is not None and (value >= axis.most or search.refusal(following) or not search.within(following))
    bound = _why(axis, search, value) if limited else "memory"
    return Limit(over, value or 0, bound, _sentence(axis, search, value, bound, beyond), at, beyond)


def _axis(found: Subject, engine: Engine, deployed: Deployment, over: str) -> Axis:
    """Return what to search over, between the values that make sense."""
    layers = found.model.num_layers + 1  # the output counts as one
    if over in USUAL:
        most, why = MOST, f"{MOST:,} is where oomph stops to look"
        made_for = found.model.context_length
        if over == "context" and made_for:
            most, why = made_for, f"the model is made for {made_for:,} tokens"
        limit = deployed.limits.get(over)
        if limit is not None and limit.most <= most:
            most, why = limit.most, limit.why
        return Axis(over, over, WORDS[over], 1, max(1, most), why)
    names = {each.name for each in fields(engine.job)}
    field = next((name for name in FIELDS.get(over, ()) if name in names), None) or field_of(engine, over)
    if field is None or field not in integers(engine.job):
        known = [*USUAL, *(name for name, all_of_it in FIELDS.items() if names & {*all_of_it})]
        known += [name.replace("_", "-") for name in integers(engine.job) if name not in FREEING]
        hint = close_matches(over, known) or f"Choose one of {', '.join(dict.fromkeys(known))}."
        raise UsageError(f"{over[:60]!r} is nothing that {engine.name} could have more of.", hint)
    if field in FREEING:
        raise UsageError(
            f"More {over} leaves more room on GPUs, so that there is no most of it.",
            "oomph serve names the fewest that are enough; or say --over gpu-layers.",
        )
    if field in FIELDS["gpu-layers"]:
        return Axis(over, field, WORDS["gpu-layers"], 0, layers, f"all {layers - 1} layers and the output are there")
    return Axis(over, field, f"{over} {{}}", 1, MOST, f"{MOST:,} is where oomph stops to look")


class _Search:
    """A search between two values; every one is deployed once."""

    def __init__(self, found: Subject, engine: Engine, job: ServeJob, devices: Sequence[Device], axis: Axis) -> None:
        self.found, self.engine, self.devices, self.axis = found, engine, devices, axis
        self._job = job
        self._deployed: dict[int, Deployment | OomphError] = {}

    def job(self, value: int) -> ServeJob:
        changed: Any = {self.axis.field: value}
        return replace(self._job, **changed)

    def deployed(self, value: int) -> Deployment | OomphError:
        """Return the deployment with a value, or why there is none."""
        if value not in self._deployed:
            try:
                self._deployed[value] = self.engine.deploy(self.found, self.job(value), self.devices)
            except OomphError as error:
                self._deployed[value] = error
        return self._deployed[value]

    def fits(self, value: int) -> bool:
        found = self.deployed(value)
        return not isinstance(found, OomphError) and bool(found.fits(found.context, self.job(value).concurrency))

    def within(self, value: int) -> bool:
        """Say whether the engine takes a value at all."""
        found = self.deployed(value)
        return not isinstance(found, OomphError) and bool(found.within(found.context, self.job(value).concurrency))

    def refusal(self, value: int) -> str:
        """Return why the engine does not take a value, '' if it does."""
        found = self.deployed(value)
        return found.problem.rstrip(".") if isinstance(found, OomphError) else ""

    def run(self) -> int | None:
        """Return a value that fits, the next one not, or the largest there is; None where the least does not."""
        least, most = self.axis.least, self.axis.most
        if not self.fits(least):
            return None
        low, high, step = least, most + 1, 1
        guess = self._guess()
        if guess is not None and self.fits(guess):
            low = guess
            while low + step <= most and self.fits(low + step):
                low, step = low + step, step * 2
            high = min(low + step, most + 1)
        elif guess is not None:
            high = guess
            while high - step > least and not self.fits(high - step):
                high, step = high - step, step * 2
            low = max(high - step, least)
        return _bisect(self.fits, low, high)

    def _guess(self) -> int | None:
        """Return the largest value by the deployment of the least; None for what is no argument of its functions."""
        found = self.deployed(self.axis.least)
        if self.axis.field not in USUAL or isinstance(found, OomphError):
            return None
        return self._by(found, lambda *asked: bool(found.fits(*asked)), self.axis.most)

    def memory(self, value: int) -> int:
        """Return up to which value memory alone would do, whatever a flag says of it; `value` fits."""
        job = self.job(value)
        try:
            lifted = job.with_context(value) if self.axis.field == "context" else job
            found = self.engine.deploy(self.found, lifted, self.devices)
        except OomphError:
            return value
        return self._by(found, lambda *asked: all(share.fits(*asked) for share in found.known), MOST)

    def _by(self, found: Deployment, good: Callable[[int, int], bool], most: int) -> int:
        """Return the largest context or number of requests that is good for one deployment."""
        if self.axis.field == "context":
            return _bisect(lambda value: good(value, self._job.concurrency), self.axis.least, most + 1)
        return _bisect(lambda value: good(found.context, value), self.axis.least, most + 1)

    def ledger(self, value: int) -> Ledger | None:
        """Return the ledger of a value; None for one that the engine refuses."""
        if isinstance(self.deployed(value), OomphError):
            return None
        return serve(self.found, self.engine, self.job(value), self.devices)


def _bisect(good: Callable[[int], bool], low: int, high: int) -> int:
    """Return a value that is good, the next one not, of values from `low`, which is good, to below `high`."""
    if high - 1 > low and good(high - 1):
        return high - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


def _why(axis: Axis, search: _Search, value: int | None) -> str:
    """Return what sets a limit that memory does not set."""
    assert value is not None
    if value >= axis.most:
        return axis.why
    following = search.deployed(value + 1)
    if isinstance(following, OomphError):
        return following.problem.rstrip(".")
    for name, amount in asked(following.context, search.job(value + 1).concurrency).items():
        if name in following.limits and amount > following.limits[name].most:
            return following.limits[name].why
    return axis.why


def _sentence(axis: Axis, search: _Search, value: int | None, bound: str, beyond: Ledger | None) -> str:
    """Return the limit, what sets it and what is left over, in words."""
    verdict = beyond.verdict if beyond else None
    if value is None:
        said = verdict.sentence if verdict else search.refusal(axis.least)
        return f"Not even {_number(axis, axis.least)}: {said}"
    most = f"At most {_number(axis, value)}"
    left = _left(search, value)
    if bound == "memory":
        return f"{most}; {left}. With {value + 1:,}: {verdict.sentence if verdict else 'no more'}"
    held = search.memory(value) if axis.field in USUAL and axis.most < MOST else None
    more = f"; memory would do for {held:,}" if held and value < held < MOST else ""
    return f"{most}: {bound}{more}; {left}."


def _number(axis: Axis, value: int) -> str:
    """Return a value in words: 1 request at a time."""
    words = axis.words.format(f"{value:,}")
    return words.replace("1 requests", "1 request") if value == 1 and words.startswith("1 ") else words


def _left(search: _Search, value: int) -> str:
    """Return in words what the fullest device has left."""
    deployed, concurrency = search.deployed(value), search.job(value).concurrency
    assert not isinstance(deployed, OomphError)  # it fits
    spare = {
        share.name: share.safe_room_bytes - int(share.needs(deployed.context, concurrency)) for share in deployed.known
    }
    name = min(spare, key=lambda each: spare[each])
    return f"{human(spare[name])} are left" + (f" on {name}" if len(spare) > 1 else "")
