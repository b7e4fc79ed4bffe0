"""From what tensors take to what a GPU shows: allocated, reserved, device, each with a point and an upper bound.

    allocated   tensors, with cuBLAS's workspaces, in whole blocks as torch.cuda.max_memory_allocated counts
    reserved    the segments torch's caching allocator needs for them, as torch.cuda.max_memory_reserved counts
    device      what nvidia-smi shows of the process: reserved, the CUDA context and, with several processes, NCCL

The upper bounds widen by what is not known of the device, and by how much more other versions of the libraries may
allocate than those that are played; each such gap has a name. docs/device-memory.md has the evidence.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from operator import itemgetter
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, TypeAlias

from oomph.allocator import Again, Config, Replay, replay
from oomph.constants import Constant, measured, other_versions, rule
from oomph.ledger import Figure, Item
from oomph.stream import Event, Stream
from oomph.units import MIB, human

if TYPE_CHECKING:
    from oomph.devices import Device
    from oomph.runs import Run

# What a program keeps beside the job (losses, metrics, a batch fetched ahead) is no input of a job: the upper bounds of
# allocated and reserved leave it one segment of the allocator's small pool.
SMALL_SEGMENT = 2 * MIB
Places: TypeAlias = "list[tuple[int, int]]"  # (position in a stream, bytes)
WORKSPACES = {"cublas_workspace": "cuBLAS workspaces", "cublaslt_workspace": "cuBLASLt workspaces"}
MISFITS = 2  # of the largest request; the most that published runs show is 1.8
STUDENT = 3.143  # the 99 % point of Student's t with six degrees of freedom: of seven runs
WITH_BIAS = frozenset({"addmm"})
MATRIX_PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "addbmm", "_grouped_mm", "_scaled_mm"})


@dataclass(frozen=True)
class Figures:
    """The three figures of a job on one device.

    `items` are what is not in the stream: workspaces, the allocator's own share, context, NCCL. The stream's peak and
    their points add up to `device`. `played` is what the allocator did with the stream. `runs_fit` says whether every
    run of many steps, if there are any, went through on the device.
    """

    allocated: Figure
    reserved: Figure
    device: Figure
    items: tuple[Item, ...]
    played: Replay
    runs_fit: bool = True


@dataclass(frozen=True)
class Fit:
    """Whether a job runs on a device of some capacity: `status` is fits, tight (the point does, the upper bound does
    not) or too_big. `played` is the run at the point: how often the cache was emptied, and where memory ran out.
    `missing_bytes` is what the device would have had to give there at least, or at the upper bound; 0 where it fits."""

    status: str
    capacity_bytes: int
    played: Replay
    missing_bytes: int = 0


def figures(
    stream: Stream,
    device: Device | None = None,
    config: Config | None = None,
    *,
    processes: int = 1,
    recorded: bool = False,
    capacity_bytes: int | None = None,
    runs: Sequence[Run] = (),
) -> Figures:
    """Return the three figures of a stream on a device, None for an unknown one.

    `config` is the allocator's, `processes` how many work together. A `recorded` stream has cuBLAS's workspaces in it,
    and is what the versions at work did.
    With a capacity, what programs see of the device, the cache is emptied where the point would not fit, as torch does,
    so less is reserved; a job that does not run even so is shown as if memory had no end.
    `runs` are many steps of other lengths each (oomph.runs): what they reserve beyond the stream is added, in the
    median run and at most.

    >>> from oomph.devices import find
    >>> stream = Stream([Event(0, 30 * 2**20), Event(0, -30 * 2**20), Event(1, 40 * 2**20)])
    >>> found = figures(stream, find("rtx-4090"))
    >>> [figure.n_bytes // 2**20 for figure in (found.allocated, found.reserved, found.device)]
    [40, 70, 564]
    """
    workspaces = [] if recorded else _workspaces(stream, device)
    beside = _beside(device, processes)
    context = sum(one.n_bytes for one in beside)

    def play(places: Places, events: Stream = stream, then: Sequence[Again] = ()) -> Replay:
        whole = with_workspaces(events, places)
        if capacity_bytes is not None:
            bounded = replay(whole, config, max(0, capacity_bytes - context), capacity_bytes, then=then)
            if bounded.fits:
                return bounded
        return replay(whole, config, then=then)

    point = safe = play(_at_point(workspaces))
    if _at_most(workspaces) != _at_point(workspaces):
        safe = play(_at_most(workspaces))
    around = [] if recorded else _around(point.allocated_peak_bytes)
    room = sum(one.safe_bytes for one in around)
    most_allocated = max(point.allocated_peak_bytes, safe.allocated_peak_bytes) + room
    allocated = Figure("allocated", point.allocated_peak_bytes, most_allocated)
    # larger workspaces may lie better and need less
    most = max(point.reserved_peak_bytes, safe.reserved_peak_bytes) + misfits(stream, config or Config()) + room
    reserved = Figure("reserved", point.reserved_peak_bytes, most)
    items = list(_items(stream.peak_bytes, workspaces, reserved, beside, around))
    through = [play(_at_most(workspaces), run.first, run.then) for run in runs]
    if through:
        cut_up = _cut_up([one.reserved_peak_bytes - reserved.n_bytes for one in through])
        reserved = Figure("reserved", reserved.n_bytes + cut_up.n_bytes, most + cut_up.safe_bytes)
        items.append(cut_up)
    shown = Figure("device", reserved.n_bytes + context, reserved.safe_bytes + sum(one.high for one in beside))
    enough = capacity_bytes is None or all(one.reserved_peak_bytes + context <= capacity_bytes for one in through)
    return Figures(allocated, reserved, shown, tuple(items), point, enough)


def fits(
    stream: Stream,
    capacity_bytes: int,
    device: Device | None = None,
    config: Config | None = None,
    *,
    processes: int = 1,
    recorded: bool = False,
) -> Fit:
    """Play a stream on a device where programs see so many bytes: the cache is emptied when they run out, as in torch.

    A job whose reserved memory is above the capacity may still fit: what is cached is given back first.

    >>> stream = Stream([Event(0, 30 * 2**20), Event(0, -30 * 2**20), Event(1, 40 * 2**20)])
    >>> [fits(stream, size * 2**20).status for size in (900, 600, 30)]
    ['fits', 'tight', 'too_big']
    """
    workspaces = [] if recorded else _workspaces(stream, device)
    beside = _beside(device, processes)

    def play(places: Places, beside_bytes: int) -> tuple[Replay, int]:
        room = max(0, capacity_bytes - beside_bytes)
        run = replay(with_workspaces(stream, places), config, room, capacity_bytes)
        return run, 0 if run.oom is None else max(1, run.oom.requested_bytes + run.oom.reserved_bytes - room)

    versions = 0 if recorded else other_versions(stream.peak_bytes).high
    least, most = sum(one.n_bytes for one in beside), sum(one.high for one in beside) + versions
    point, missing = play(_at_point(workspaces), least)
    if missing:
        return Fit("too_big", capacity_bytes, point, missing)
    # What never needed more, and gave nothing back, does just the same where there is less room.
    enough = not point.device_frees and point.reserved_peak_bytes <= capacity_bytes - most
    if enough and _at_most(workspaces) == _at_point(workspaces):
        return Fit("fits", capacity_bytes, point)
    _, missing_at_most = play(_at_most(workspaces), most)
    return Fit("tight" if missing_at_most else "fits", capacity_bytes, point, missing_at_most)


def misfits(stream: Stream, config: Config) -> int:
    """Return two segments of the largest request that might have been served from the cache.

    Whether it is hangs on small things (an input that lives longer, which of two free blocks is cut): published runs of
    one job with growing batches are higher by just one of them at some batches, and then lower again. Single runs of
    four sources are higher by up to 1.8 of them: two requests that the cache did not serve. That it is no more than two
    is evidence, no rule. Expandable segments grow where they are too small, so there nothing is added.

    >>> stream = Stream([Event(0, 50 * 2**20), Event(1, 2**20), Event(1, -(2**20)), Event(2, 31 * 2**20)])
    >>> misfits(stream, Config()) // 2**20
    64
    """
    if config.expandable_segments:
        return 0
    first = next((position for position, event in enumerate(stream.events) if event.n_bytes < 0), None)
    largest = max((n_bytes for _, n_bytes in stream.events[first:]), default=0) if first is not None else 0
    return MISFITS * config.segment_bytes(config.rounded(largest)) if largest > 0 else 0


def _workspaces(stream: Stream, device: Device | None) -> list[tuple[int, Constant]]:
    """Return what the libraries of matrix products keep, each with the position at which it is allocated."""
    return [
        *((position, rule("cublas_workspace", device)) for position in first_products(stream)),
        *((position, rule("cublaslt_workspace", device)) for position in first_products(stream, WITH_BIAS)),
    ]


def _at_point(workspaces: Sequence[tuple[int, Constant]]) -> Places:
    return [(position, one.n_bytes) for position, one in workspaces]


def _at_most(workspaces: Sequence[tuple[int, Constant]]) -> Places:
    return [(position, one.high) for position, one in workspaces]


def first_products(stream: Stream, ops: Container[str] = MATRIX_PRODUCTS) -> list[int]:
    """Return the positions after the first matrix product of the forward and of the backward pass.

    Each host thread has its own cuBLAS handle (ATen/cuda/detail/DeviceThreadHandles.h), and autograd runs the backward
    of CUDA tensors in a thread of its own: both get a workspace, when their first product has its result.

    >>> from oomph.stream import Label
    >>> names = [("mm", "layer 0 forward"), ("mm", "head"), ("mul", "loss backward"), ("mm", "layer 0 backward")]
    >>> labels = {at: Label(op, (), "bf16", instant) for at, (op, instant) in enumerate(names)}
    >>> first_products(Stream([Event(at, 512) for at in range(4)], labels=labels))
    [1, 4]
    """
    backward = {at: label.instant.endswith("backward") for at, label in stream.labels.items() if label.op in ops}
    sought, found = set(backward.values()), dict[bool, int]()
    for position, (ordinal, n_bytes) in enumerate(stream.events):
        if len(found) == len(sought):
            break
        if ordinal in backward and n_bytes > 0:
            found.setdefault(backward[ordinal], position + 1)
    return sorted(found.values())


def with_workspaces(stream: Stream, places: Places) -> Stream:
    """Return the stream with allocations that stay, each of (position, bytes); labels are left behind.

    >>> with_workspaces(Stream([Event(0, 512), Event(0, -512)], [(2, "end")]), [(1, 8)]).events
    [Event(ordinal=0, n_bytes=512), Event(ordinal=1, n_bytes=8), Event(ordinal=0, n_bytes=-512)]
    """
    places = sorted(places, key=lambda place: place[0])
    free = 1 + max(map(itemgetter(0), stream.events), default=-1)
    events: list[Event] = []
    start = 0
    for number, (place, n_bytes) in enumerate(places):
        events += stream.events[start:place]
        events.append(Event(free + number, n_bytes))
        start = place
    events += stream.events[start:]
    marks = [(position + sum(place < position for place, _ in places), name) for position, name in stream.marks]
    return Stream(events, marks, lanes=stream.lanes)


def _beside(device: Device | None, processes: int) -> list[Constant]:
    """Return what a process holds outside the allocator."""
    return [measured("cuda_context", device), *([measured("nccl", device)] if processes > 1 else [])]


def _items(
    tensors: int,
    workspaces: Sequence[tuple[int, Constant]],
    reserved: Figure,
    beside: list[Constant],
    around: Sequence[Item],
) -> Iterable[Item]:
    """Yield a line for each thing between the tensors' peak and the device's figure, its gap named in the evidence.

    Workspaces made from memory that was free again by then add less than they take.
    """
    yield from around
    left, room = reserved.n_bytes - tensors, reserved.safe_bytes - tensors
    for name, title in WORKSPACES.items():
        made = [one for _, one in workspaces if one.name == name]
        if made:
            added = min(sum(one.n_bytes for one in made), left)
            most = max(added, min(sum(one.high for one in made), room))
            left, room = left - added, room - most
            yield Item(
                title, "runtime", added, axes=(("handles", len(made)), ("bytes", made[0].n_bytes)),
                source="rule", evidence=_why(made[0]), safe=most,
            )  # fmt: skip
    yield Item(
        "allocator rounding and cache", "runtime", left, source="rule",
        evidence="the stream played through the rules of torch 2.13's CUDACachingAllocator.cpp; at most two more of "
        "the largest request: whether it finds a place in the cache hangs on small things",
        safe=max(left, room - sum(one.safe_bytes for one in around)),
    )  # fmt: skip
    for one in beside:
        title = {"cuda_context": "CUDA context", "nccl": "NCCL"}[one.name]
        yield Item(title, "runtime", one.n_bytes, source=one.source, evidence=_why(one), safe=one.high)


def _around(allocated_bytes: int) -> list[Item]:
    """Return the lines of what a job does not say: nothing at the point, room in the upper bounds."""
    versions = other_versions(allocated_bytes)
    return [
        Item(
            "small tensors of the program around the job", "runtime", 0, source="rule", safe=SMALL_SEGMENT,
            evidence="losses, metrics, a batch fetched ahead: one segment of the allocator's small pool",
        ),
        Item(
            "versions that differ from those played", "runtime", 0, source=versions.source, safe=versions.high,
            evidence=versions.evidence,
        ),
    ]  # fmt: skip


def one_more_run(grown: Sequence[float]) -> float:
    """Return what another run stays below in 99 of 100 cases, from what seven have: a one-sided prediction limit.

    Of numbers drawn from one normal distribution the next one lies `t s sqrt(1 + 1/n)` above their mean once in a
    hundred times; the worst of seven is passed by the next run once in eight times.

    >>> round(one_more_run([10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0]), 2)
    20.26
    """
    return mean(grown) + STUDENT * stdev(grown) * sqrt(1 + 1 / len(grown))


def _cut_up(grown: Sequence[int]) -> Item:
    """Return the line of what runs of mixed lengths reserve beyond a step of the longest: some drawn at random."""
    typical = max(0, round(median(grown)))
    return Item(
        "cache cut up by batches of many lengths", "runtime", typical, source="rule",
        evidence=f"{len(grown)} runs of many steps played through the allocator; which lengths follow each other is "
        f"chance: from {human(max(0, min(grown)))} to {human(max(0, max(grown)))}; at most: what one more run stays "
        "below in 99 of 100 cases, if runs are normally distributed",
        safe=max(typical, round(one_more_run(grown))),
    )  # fmt: skip


def _why(one: Constant) -> str:
    return f"{one.evidence}; at most {one.high} bytes: {one.gap}" if one.gap else one.evidence
