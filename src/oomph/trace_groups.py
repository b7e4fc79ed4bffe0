"""The group of a tensor in a traced training step: by what made it, and by how long it lives."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from oomph.stream import Label, Stream

BEFORE = frozenset({"parameters", "gradients", "optimizer states", "other"})  # instants of what lies there already
# What lies there before the step says what it is.
BY_OPERATION = {
    "parameter": "weights",
    "buffer": "buffers",
    "gradient": "gradients",
    "optimizer state": "optimizer",
}
BY_INSTANT = {"parameters": "buffers", "clip gradients": "temporaries", "optimizer step": "temporaries"}


def trace_groups(stream: Stream) -> Callable[[int, Label | None], str]:
    """Return what `timeline.from_stream` asks about a step's stream.

    A gradient is what a backward made that is still there when the last backward is over, or what lay there zeroed; a
    state also what a first optimizer step leaves behind. What clipping and the optimizer make for themselves are
    temporaries, everything else made in the step activations.
    """
    gradients, states = stream.live_at(_backward_end(stream)), stream.live_at(len(stream.events))

    def group(ordinal: int, label: Label | None) -> str:
        if label is None:
            return "activations"
        if label.op in BY_OPERATION:
            return BY_OPERATION[label.op]
        kept = label.op == "zeros_like" and label.instant in BEFORE  # zeroed in a step before
        if kept or (label.instant.endswith("backward") and ordinal in gradients):
            return "gradients"
        if label.instant == "optimizer step" and ordinal in states:
            return "optimizer"
        return BY_INSTANT.get(label.instant, "activations")

    return group


def trace_start(stream: Stream) -> int:
    """Return the position of the step's first event: what is before it was there already."""
    return next((position for position, name in stream.marks if name not in BEFORE), 0)


def _backward_end(stream: Stream) -> int:
    """Return where the instant after the last backward begins."""
    ends = [after for (_, name), (after, _) in pairwise(stream.marks) if name.endswith("backward")]
    return ends[-1] if ends else len(stream.events)
