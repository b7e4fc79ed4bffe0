"""The group of a tensor in a played training step: by the operation that made it, and by how long it lives."""

from __future__ import annotations

from collections.abc import Callable

from oomph.stream import Label, Stream

STATES = frozenset({"exp_avg", "exp_avg_sq", "momentum_buffer", "step"})
OTHERWISE = {"parameters": "buffers", "clip gradients": "temporaries", "optimizer step": "temporaries"}
LAST = "end"  # the mark after zero_grad: from here the tape takes itself apart


def step_groups(stream: Stream) -> Callable[[int, Label | None], str]:
    """Return what `timeline.from_stream` asks about a stream of `play.train_step`.

    A gradient is what a backward made that is still there when the last backward is over, or what lay there zeroed.
    What clipping and the optimizer make for themselves are temporaries, everything else made in the step activations.
    """
    left_behind = stream.live_at(_backward_end(stream))

    def group(ordinal: int, label: Label | None) -> str:
        if label is None:
            return "activations"
        if label.op == "parameter":
            return "weights"
        if label.op in STATES:
            return "optimizer"
        if (label.instant.endswith("backward") and ordinal in left_behind) or label.op == "zeros_like":
            return "gradients"
        return OTHERWISE.get(label.instant, "activations")

    return group


def step_end(stream: Stream) -> int:
    """Return the position after the step's last event: what follows is not part of the job."""
    return next((position for position, name in reversed(stream.marks) if name == LAST), len(stream.events))


def _backward_end(stream: Stream) -> int:
    """Return where the instant after the last backward begins."""
    return next((position for position, name in reversed(stream.marks) if name == "after backward"), 0)
