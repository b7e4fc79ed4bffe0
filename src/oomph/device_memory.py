"""From what tensors take to what a GPU shows: allocated, reserved, device, each with a point and an upper bound.

    allocated   tensors, with cuBLAS's workspaces, in whole blocks as torch.cuda.max_memory_allocated counts
    reserved    the segments torch's caching allocator needs for them, as torch.cuda.max_memory_reserved counts
    device      what nvidia-smi shows of the process: reserved, the CUDA context and, with several processes, NCCL

The upper bounds hold for the stream as it is: they widen by what is not known of the device, and each such gap has a
name. docs/device-memory.md has the evidence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.allocator import Config, Replay, replay
from oomph.constants import Constant, measured, rule
from oomph.ledger import Figure, Item
from oomph.stream import Event, Stream
from oomph.units import MIB

if TYPE_CHECKING:
    from oomph.devices import Device

# What a program keeps beside the job (losses, metrics, a batch fetched ahead) is no input of a job: the upper bounds of
# allocated and reserved leave it one segment of the allocator's small pool.
SMALL_SEGMENT = 2 * MIB
MATRIX_PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "addbmm", "_grouped_mm", "_scaled_mm"})


@dataclass(frozen=True)
class Figures:
    """The three figures of a job on one device.

    `items` are what is not in the stream: workspaces, the allocator's own share, context, NCCL. The stream's peak and
    their points add up to `device`. `played` is what the allocator did with the stream.
    """

    allocated: Figure
    reserved: Figure
    device: Figure
    items: tuple[Item, ...]
    played: Replay


@dataclass(frozen=True)
class Fit:
    """Whether a job runs on a device of some capacity: `status` is fits, tight (the point does, the upper bound does
    not) or too_big. `played` is the run at the point: how often the cache was emptied, and where memory ran out."""

    status: str
    capacity_bytes: int
    played: Replay


def figures(
    stream: Stream,
    device: Device | None = None,
    config: Config | None = None,
    *,
    processes: int = 1,
    recorded: bool = False,
    capacity_bytes: int | None = None,
) -> Figures:
    """Return the three figures of a stream on a device, None for an unknown one.

    `config` is the allocator's, `processes` how many work together. A `recorded` stream has cuBLAS's workspaces in it.
    With a capacity, what programs see of the device, the cache is emptied where the point would not fit, as torch does,
    so less is reserved; a job that does not run even so is shown as if memory had no end.

    >>> from oomph.devices import find
    >>> stream = Stream([Event(0, 30 * 2**20), Event(0, -30 * 2**20), Event(1, 40 * 2**20)])
    >>> found = figures(stream, find("rtx-4090"))
    >>> [figure.n_bytes // 2**20 for figure in (found.allocated, found.reserved, found.device)]
    [40, 70, 564]
    """
    workspace = rule("cublas_workspace", device)
    positions = [] if recorded else first_products(stream)
    beside = _beside(device, processes)
    context = sum(one.n_bytes for one in beside)

    def play(workspace_bytes: int) -> Replay:
        whole = with_workspaces(stream, positions, workspace_bytes)
        free = replay(whole, config)
        if capacity_bytes is None or free.reserved_peak_bytes + context <= capacity_bytes:
            return free
        bounded = replay(whole, config, max(0, capacity_bytes - context), capacity_bytes)
        return bounded if bounded.fits else free

    point = safe = play(workspace.n_bytes)
    if positions and workspace.high > workspace.n_bytes:
        safe = play(workspace.high)
    around = 0 if recorded else SMALL_SEGMENT
    most_allocated = max(point.allocated_peak_bytes, safe.allocated_peak_bytes) + around
    allocated = Figure("allocated", point.allocated_peak_bytes, most_allocated)
    # larger workspaces may lie better and need less
    most = max(point.reserved_peak_bytes, safe.reserved_peak_bytes) + one_more(stream, config or Config()) + around
    reserved = Figure("reserved", point.reserved_peak_bytes, most)
    shown = Figure("device", point.reserved_peak_bytes + context, most + sum(one.high for one in beside))
    items = _items(stream.peak_bytes, len(positions), workspace, reserved, beside, around)
    return Figures(allocated, reserved, shown, tuple(items), point)


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
    >>> [fits(stream, size * 2**20).status for size in (800, 600, 30)]
    ['fits', 'tight', 'too_big']
    """
    workspace = rule("cublas_workspace", device)
    positions = [] if recorded else first_products(stream)
    beside = _beside(device, processes)

    def play(workspace_bytes: int, beside_bytes: int) -> Replay:
        room = max(0, capacity_bytes - beside_bytes)
        return replay(with_workspaces(stream, positions, workspace_bytes), config, room, capacity_bytes)

    point = play(workspace.n_bytes, sum(one.n_bytes for one in beside))
    if not point.fits:
        return Fit("too_big", capacity_bytes, point)
    safe = play(workspace.high, sum(one.high for one in beside))
    return Fit("fits" if safe.fits else "tight", capacity_bytes, point)


def one_more(stream: Stream, config: Config) -> int:
    """Return the segment of the largest request that might have been served from the cache.

    Whether it is hangs on small things (an input that lives longer, which of two free blocks is cut): published runs of
    one job with growing batches are higher by just this at some batches, and then lower again. Expandable segments grow
    where they are too small, so there nothing is added.

    >>> stream = Stream([Event(0, 50 * 2**20), Event(1, 2**20), Event(1, -(2**20)), Event(2, 31 * 2**20)])
    >>> one_more(stream, Config()) // 2**20
    32
    """
    if config.expandable_segments:
        return 0
    first = next((position for position, event in enumerate(stream.events) if event.n_bytes < 0), None)
    largest = max((n_bytes for _, n_bytes in stream.events[first:]), default=0) if first is not None else 0
    return config.segment_bytes(config.rounded(largest)) if largest > 0 else 0


def first_products(stream: Stream) -> list[int]:
    """Return the positions after the first matrix product of the forward and of the backward pass.

    Each host thread has its own cuBLAS handle (ATen/cuda/detail/DeviceThreadHandles.h), and autograd runs the backward
    of CUDA tensors in a thread of its own: both get a workspace, when their first product has its result.

    >>> from oomph.stream import Label
    >>> names = [("mm", "layer 0 forward"), ("mm", "head"), ("mul", "loss backward"), ("mm", "layer 0 backward")]
    >>> labels = {at: Label(op, (), "bf16", instant) for at, (op, instant) in enumerate(names)}
    >>> first_products(Stream([Event(at, 512) for at in range(4)], labels=labels))
    [1, 4]
    """
    found: dict[bool, int] = {}
    for position, (ordinal, n_bytes) in enumerate(stream.events):
        label = stream.labels.get(ordinal)
        if label is None or n_bytes <= 0 or label.op not in MATRIX_PRODUCTS:
            continue
        found.setdefault(label.instant.endswith("backward"), position + 1)
        if len(found) > 1:
            break
    return sorted(found.values())


def with_workspaces(stream: Stream, positions: Iterable[int], n_bytes: int) -> Stream:
    """Return the stream with an allocation that stays at each of the positions; labels are left behind.

    >>> with_workspaces(Stream([Event(0, 512), Event(0, -512)], [(2, "end")]), [1], 8).events
    [Event(ordinal=0, n_bytes=512), Event(ordinal=1, n_bytes=8), Event(ordinal=0, n_bytes=-512)]
    """
    places = sorted(positions)
    free = 1 + max((event.ordinal for event in stream.events), default=-1)
    events: list[Event] = []
    start = 0
    for number, place in enumerate(places):
        events += stream.events[start:place]
        events.append(Event(free + number, n_bytes))
        start = place
    events += stream.events[start:]
    marks = [(position + sum(place < position for place in places), name) for position, name in stream.marks]
    return Stream(events, marks)


def _beside(device: Device | None, processes: int) -> list[Constant]:
    """Return what a process holds outside the allocator."""
    return [measured("cuda_context", device), *([measured("nccl", device)] if processes > 1 else [])]


def _items(
    tensors: int, count: int, workspace: Constant, reserved: Figure, beside: list[Constant], around: int
) -> Iterable[Item]:
    """Yield a line for each thing between the tensors' peak and the device's figure, its gap named in the evidence.

    Workspaces made from memory that was free again by then add less than they take.
    """
    if around:
        yield Item(
            "small tensors of the program around the job", "runtime", 0, source="rule", safe=around,
            evidence="losses, metrics, a batch fetched ahead: one segment of the allocator's small pool",
        )  # fmt: skip
    added = min(count * workspace.n_bytes, reserved.n_bytes - tensors)
    most = max(added, min(count * workspace.high, reserved.safe_bytes - tensors))
    if count:
        yield Item(
            "cuBLAS workspaces", "runtime", added, axes=(("handles", count), ("bytes", workspace.n_bytes)),
            source="rule", evidence=_why(workspace), safe=most,
        )  # fmt: skip
    share = reserved.n_bytes - tensors - added
    yield Item(
        "allocator rounding and cache", "runtime", share, source="rule",
        evidence="the stream played through the rules of torch 2.13's CUDACachingAllocator.cpp; at most one more of "
        "the largest request: whether it finds a place in the cache hangs on small things",
        safe=max(share, reserved.safe_bytes - tensors - most - around),
    )  # fmt: skip
    for one in beside:
        title = {"cuda_context": "CUDA context", "nccl": "NCCL"}[one.name]
        yield Item(title, "runtime", one.n_bytes, source=one.source, evidence=_why(one), safe=one.high)


def _why(one: Constant) -> str:
    return f"{one.evidence}; at most {one.high} bytes: {one.gap}" if one.gap else one.evidence
