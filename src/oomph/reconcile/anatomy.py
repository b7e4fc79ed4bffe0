"""Where the memory went when torch ran out of it: the parts of the card, from its message alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from oomph.reconcile.found import Figure, Report


class Slice(NamedTuple):
    """A part of a GPU's memory in GiB."""

    name: str
    gib: float


def slices(report: Report) -> tuple[Slice, ...]:
    """Return what fills the GPU, which add up to its total where the message says enough; () where it says too little.

    torch 1.x does not say how much is the process' own beside its cache, so that and other processes are one slice.
    """
    said = _last(report)
    total, free, allocated, reserved = (said.get(f"{name}_gib") for name in ("total", "free", "allocated", "reserved"))
    if total is None or free is None or allocated is None or reserved is None:
        return ()
    process = said.get("process_gib")
    pools = said.get("graph_pools_gib", 0.0)
    found = [
        Slice("tensors", allocated - pools),
        Slice("private pools of CUDA graphs", pools),
        Slice("cached by torch, not in use", reserved - allocated),
    ]
    if process is None:
        found.append(Slice("context, libraries and other processes", max(0.0, total - free - reserved)))
    else:
        found.append(Slice("CUDA context and libraries", max(0.0, process - reserved)))
        found.append(Slice("other processes", max(0.0, total - free - process)))
    found.append(Slice("free", free))
    return tuple(one for one in found if one.gib > 0)


def sentences(report: Report) -> Iterator[str]:
    """Yield what the message amounts to."""
    said = _last(report)
    asked, free, total = said.get("asked_gib"), said.get("free_gib"), said.get("total_gib")
    allocated, reserved = said.get("allocated_gib"), said.get("reserved_gib")
    if asked is None or free is None:
        return
    yield f"It asked for {asked:.2f} GiB where {free:.2f} GiB were free."
    if allocated is not None and reserved is not None:
        cached = reserved - allocated
        if cached + free >= asked > free:
            yield (
                f"With the {cached:.2f} GiB that torch has cached it would have been enough, were they in one piece: "
                "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True."
            )
        if total is not None:
            yield f"{allocated + asked:.2f} GiB of tensors were needed at this moment, of {total:.2f} GiB of memory."
    if said.get("others_gib"):
        yield f"Other processes hold {said['others_gib']:.2f} GiB: nvidia-smi names them."


def _last(report: Report) -> dict[str, float]:
    """Return the figures of the last message: those of its line."""
    asked = report.last("asked_gib")
    if asked is None:
        return {}
    last: dict[str, Figure] = {one.name: one for one in report.figures if one.line == asked.line}
    return {name: one.value for name, one in last.items()}
