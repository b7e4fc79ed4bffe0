"""The forward passes that an objective is made of: through the model that trains, and through its reference."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.job import TrainJob
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes
from oomph.tape.sym import Sym
from oomph.tape.tape import autocast

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.tape import Tape

Forward = Callable[..., "tuple[Sym | None, Any, Any]"]


def autocast_dtype(job: TrainJob) -> str | None:
    """Return the dtype autocast works in, None without autocast."""
    return job.precision.removeprefix("amp-") if job.autocast or job.precision.startswith("amp-") else None


@dataclass
class Passes:
    """A model that trains on a tape, its reference (None where that is itself without adapters), and their forward."""

    tape: Tape
    job: TrainJob
    forward: Forward
    model: Model
    policy: Bound
    reference: Bound | None = None
    of_teacher: tuple[Forward, str] | None = None  # its own forward and decoder type where it is of another size
    judges: dict[str, Bound] = field(default_factory=dict)  # PPO's models of value and reward
    backbone: Callable[..., tuple[Sym, Any]] | None = None  # what is below their heads
    value_head: Bound | None = None  # of LLaMA-Factory's reward model
    variables: SimpleNamespace = field(default_factory=SimpleNamespace)  # of PPO's loop, from step to step

    @property
    def models(self) -> list[Bound]:
        """The models in memory."""
        return [each for each in (self.policy, self.reference, *self.judges.values()) if each is not None]

    def of_policy(
        self,
        input_ids: Sym,
        labels: Sym | None,
        attention_mask: Sym | None,
        outputs: tuple[str, ...],
        use_cache: bool = False,
    ) -> list[Any]:
        """Return the outputs of the model that trains, which die with the list: the loss first, a cache last."""
        checkpointing = Checkpointing.of(self.job)
        return self._run(self.policy, checkpointing, input_ids, labels, attention_mask, outputs, use_cache)

    def of_reference(
        self,
        input_ids: Sym,
        labels: Sym | None,
        attention_mask: Sym | None,
        outputs: tuple[str, ...],
        use_cache: bool = False,
    ) -> list[Any]:
        """Return the outputs of the reference: its own weights, or those of the policy with adapters switched off."""
        with self.tape.no_grad(), self.without_adapters(), self.named("reference"):
            bound = self.reference or self.policy
            kernel = self.tape.kernel  # which the forward pass of some types changes
            try:
                return self._run(bound, Checkpointing(), input_ids, labels, attention_mask, outputs, use_cache)
            finally:
                self.tape.kernel = kernel

    def of_mismatched(
        self, input_ids: Sym, labels: Sym | None, attention_mask: Sym, outputs: tuple[str, ...]
    ) -> list[Any]:
        """Return the outputs of the model that trains, checkpointed as it is, but without gradients."""
        checkpointing = Checkpointing.of(self.job)
        with self.tape.no_grad(), self.named("mismatched"):
            return self._run(self.policy, checkpointing, input_ids, labels, attention_mask, outputs)

    def _run(
        self,
        bound: Bound,
        checkpointing: Checkpointing,
        input_ids: Sym,
        labels: Sym | None,
        attention_mask: Sym | None,
        outputs: tuple[str, ...],
        use_cache: bool = False,
    ) -> list[Any]:
        """Run a forward pass as accelerate wraps it: under autocast of its own, 16-bit outputs cast to fp32."""
        tape = self.tape
        tape.scope, tape.scored = "", outputs
        with autocast(tape, autocast_dtype(self.job)):
            forward, kind = self.forward, self.model.decoder_type
            if self.of_teacher is not None and bound is self.reference:
                forward, kind = self.of_teacher
            loss, scored, cache = forward(
                bound, input_ids, labels, checkpointing, kind, attention_mask=attention_mask, use_cache=use_cache
            )
            found = [scored, loss]  # dies from the back
            del scored, loss
        if self.job.fp32_outputs and isinstance(found[0], Sym):
            found[0] = ops.cast(found[0], "fp32")
        if use_cache:
            found.insert(0, cache)
        tape.recorder.mark("objective")
        tape.scope = "objective"
        return found

    @contextmanager
    def named(self, work: str) -> Iterator[None]:
        """Call what happens inside by a name."""
        before, self.tape.work = self.tape.work, work
        self.tape.recorder.mark(f"embedding {work}")
        try:
            yield
        finally:
            self.tape.work = before

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Switch adapters off inside, where the reference is the policy itself."""
        tape, own = self.tape, self.reference is not None
        before, (tape.adapters, tape.training) = (tape.adapters, tape.training), (own, not own)
        try:
            yield
        finally:
            tape.adapters, tape.training = before


@contextmanager
def crossing(tape: Tape) -> Iterator[None]:
    """Mark the segments of a backward pass that is played inside: it crosses the layers from the last to the first."""
    borders = list(tape.borders)
    tape.borders.clear()

    def cross(sequence: int) -> None:
        while borders and sequence < borders[-1][0]:
            tape.recorder.mark(borders.pop()[1])

    before, tape.on_node = tape.on_node, cross
    try:
        yield
    finally:
        tape.on_node = before


def made(tape: Tape, shapes: Shapes) -> dict[str, Sym]:
    """Return the tensors of a batch, in order."""
    return {name: tape.note(tape.empty(shape, dtype, op=name), "input") for name, (shape, dtype) in shapes.items()}


def written(labels: Sym) -> None:
    """Write a number into labels by indexing: a GPU is told it, elsewhere it is a tensor for a moment."""
    if labels.tape.on != "gpu":
        labels.tape.empty((), "int64", op="lift_fresh")


def item(made: Sym) -> None:
    """Read a number from the device, as `.item()`: nothing is allocated, and who asked lets go of it."""
    del made


def mean_item(x: Sym) -> None:
    """Play x.mean().item(), of which nothing stays."""
    ops.mean_of_all(x)
