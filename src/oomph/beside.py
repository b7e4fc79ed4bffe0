"""Estimate and trace of one job beside each other: bytes by instant and by what they are, and where the two part."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from oomph.compare import Parting, first_difference, steps
from oomph.job import TrainJob
from oomph.ledger import Figure, Instant, Item, Ledger
from oomph.played import Played
from oomph.referee.trace import Trace, phases
from oomph.stream import Stream, rounded
from oomph.structure import Job
from oomph.trace_groups import BEFORE, trace_groups

# The estimate names its instants more finely than hooks on the real modules can; what they call one is one here.
ONE = {
    "embedding forward": "forward", "head forward": "head", "loss": "head", "loss backward": "backward",
    "optimizer states": "optimizer step", "projected optimizer step": "optimizer step", "Muon step": "optimizer step",
    "norms for the optimizer": "optimizer step", "Prodigy update": "optimizer step",
    "D-Adaptation update": "optimizer step", "AdamW of the copies": "optimizer step",
    "weights of the copies": "optimizer step", "gradients of the copies": "optimizer step",
}  # fmt: skip
# And the other way round, for drawings that lay one over the other.
AS_ESTIMATED = {theirs: ours for ours, theirs in ONE.items() if theirs != "optimizer step" and ours != "loss"}
AS_ESTIMATED["loss"] = AS_ESTIMATED["head"]
PART_OF_BEFORE = ("embedding backward", "after backward", "autocast exit")
NUMBER, ONE_LAYER = re.compile(r"\.\d+\."), re.compile(r"layer \d+")
LAYER = re.compile(r"layer \d+ (\w+)")


@dataclass(frozen=True)
class Row:
    """One instant in both: the most bytes in it and those alive at its end; None where a side has no such instant."""

    name: str
    estimate: tuple[int, int] | None
    trace: tuple[int, int] | None

    @property
    def equal(self) -> bool:
        """Tell whether both sides say the same."""
        return self.estimate == self.trace


@dataclass(frozen=True)
class Beside:
    """Both answers. `parting` is the first event in which they differ; `refused` says why there is no estimate."""

    trace: Trace
    rows: tuple[Row, ...]
    kept: tuple[tuple[str, int | None, int], ...]  # what it is, estimate, trace
    parting: Parting | None
    refused: str = ""

    @property
    def equal(self) -> bool | None:
        """Tell whether every event is the same; None without an estimate."""
        return None if self.refused else self.parting is None

    @property
    def peaks(self) -> tuple[int | None, int]:
        """The most bytes alive, estimate and trace."""
        ours = [row.estimate[0] for row in self.rows if row.estimate]
        return (max(ours) if ours else None), max(row.trace[0] for row in self.rows if row.trace)


def beside(job: Job, played: Played | None, trace: Trace, refused: str = "") -> Beside:
    """Return both sides; `played` must have been played with `on="trace"`, as a trace sums."""
    theirs = list(_instants(trace.stream, _begin(trace.stream)))
    kept: list[tuple[str, int | None, int]] = [
        ("parameters", _kept(played, "parameter"), trace.parameter_bytes),
        ("buffers", _kept(played, "buffer"), trace.buffer_bytes),
        ("optimizer states", _kept(played, "optimizer state"), trace.optimizer_bytes),
    ]
    if played is None:
        return Beside(trace, tuple(Row(name, None, each) for name, each in theirs), tuple(kept), None, refused)
    stream = played.recorder.stream()
    stream.events = stream.events[: played.end]
    ours = list(_instants(stream, played.start))
    unordered = job.precision.startswith("amp-") or (isinstance(job, TrainJob) and job.autocast)
    parting = first_difference(
        steps(stream, played.start, unordered), steps(trace.stream, _begin(trace.stream), unordered)
    )
    return Beside(trace, tuple(_matched(ours, theirs)), tuple(kept), parting)


def _kept(played: Played | None, why: str) -> int | None:
    """Return what there is of these at the end; of parameters at the start, as the trace counts them."""
    return None if played is None else played.kept(why, played.start if why == "parameter" else None)


def _begin(stream: Stream) -> int:
    """Return where the job begins in a trace: what stands there before it has instants of its own."""
    return next(position for position, name in stream.marks if name not in BEFORE)


def _instants(stream: Stream, start: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield (name, (most, end)) of the instants from a position on; neighbours of one name are one."""
    found: list[tuple[str, int, int]] = []
    begin = next(at for at, (position, name) in enumerate(stream.marks) if position >= start and name not in BEFORE)
    for phase in phases(stream)[begin:]:
        name = ONE.get(phase.name, phase.name)
        if found and (name == found[-1][0] or phase.name in PART_OF_BEFORE):
            found[-1] = (found[-1][0], max(found[-1][1], phase.peak_bytes), phase.end_bytes)
        elif name != "end":
            found.append((name, phase.peak_bytes, phase.end_bytes))
    for name, peak, end in found:
        yield name, (peak, end)


def _matched(
    ours: Sequence[tuple[str, tuple[int, int]]], theirs: Sequence[tuple[str, tuple[int, int]]]
) -> Iterator[Row]:
    """Yield rows in order, instants of one name beside each other."""
    waiting = list(ours)
    for name, trace in theirs:
        names = [each for each, _ in waiting]
        if name not in names:
            yield Row(name, None, trace)
            continue
        at = names.index(name)
        for other, estimate in waiting[:at]:
            yield Row(other, estimate, None)
        yield Row(name, waiting[at][1], trace)
        del waiting[: at + 1]
    for name, estimate in waiting:
        yield Row(name, estimate, None)


def trace_ledger(model: dict[str, Any], job: dict[str, Any], found: Trace) -> Ledger:
    """Return a trace as a ledger: what is alive at its peak, its instants, its allocated bytes."""
    stream = found.stream
    live = [0, *stream.live()]
    top = max(range(_begin(stream), len(live)), key=live.__getitem__)
    group_of = trace_groups(stream)
    rows: dict[tuple[Any, ...], list[int]] = {}
    for ordinal, n_bytes in stream.live_at(top).items():
        label = stream.labels[ordinal]
        name = NUMBER.sub(".*.", found.names.get(ordinal, label.op))
        key = (
            name,
            label.op,
            label.shape,
            label.dtype,
            group_of(ordinal, label),
            ONE_LAYER.sub("a layer", label.instant),
        )
        rows.setdefault(key, []).append(rounded(n_bytes))
    items = [
        Item(
            name, group, sum(sizes), axes=(("tensors", len(sizes)), *((f"d{at}", one) for at, one in enumerate(shape))),
            dtype=dtype, evidence=f"traced: {op} in {instant}",
        )
        for (name, op, shape, dtype, group, instant), sizes in rows.items()
    ]  # fmt: skip
    items.sort(key=lambda item: item.n_bytes, reverse=True)
    instants = tuple(Instant(one.name, 1, one.start_bytes, one.peak_bytes, one.end_bytes) for one in phases(stream))
    return Ledger(
        job, model, tuple(items), warnings=found.warnings, figures=(Figure("allocated", live[top], live[top]),),
        instants=instants, why=f"Traced with {', '.join(f'{name} {one}' for name, one in found.versions.items())}.",
    )  # fmt: skip


def collapsed(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield rows with runs of layers as one: the most of all, the end of the last; those that differ stay."""
    for work, run in groupby(rows, _work):
        if work:
            yield _joined(list(run))
        else:
            yield from run


def _work(row: Row) -> str:
    """Return what a layer does, '' for what must stay a row of its own."""
    layer = LAYER.fullmatch(row.name)
    return layer[1] if layer and (row.equal or row.estimate is None) else ""


def _joined(run: Sequence[Row]) -> Row:
    if len(run) == 1:
        return run[0]
    sides = [
        [side for side in each if side is not None] for each in ([r.estimate for r in run], [r.trace for r in run])
    ]
    estimate, trace = ((max(peak for peak, _ in side), side[-1][1]) if side else None for side in sides)
    return Row(f"{run[0].name} to {run[-1].name}", estimate, trace)


def to_dict(found: Beside, ledger: Ledger) -> dict[str, Any]:
    """Return both sides as JSON knows them."""
    parting = found.parting
    return {
        "equal": found.equal,
        "refused": found.refused or None,
        "estimate_peak_bytes": found.peaks[0],
        "trace_peak_bytes": found.peaks[1],
        "first_difference": None if parting is None else {"event": parting.position, "text": str(parting)},
        "kept": [{"what": what, "estimate_bytes": ours, "trace_bytes": theirs} for what, ours, theirs in found.kept],
        "instants": [{"name": row.name, "estimate": row.estimate, "trace": row.trace} for row in found.rows],
        "trace": ledger.to_dict(),
    }
