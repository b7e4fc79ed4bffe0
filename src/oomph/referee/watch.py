"""Names for the instants of a job while it runs: forward and backward of each layer, head, loss, optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oomph.job import InferJob, TrainJob
from oomph.referee import jobs, models
from oomph.referee.losses import unwrapped
from oomph.referee.optimizers import counters_on_host
from oomph.referee.quantised import scales
from oomph.referee.tracker import Tracker

Progress = Callable[[int, int], None]  # layers done, layers in all


class TrackerWatcher:
    """Tells a tracker where the job is, and keeps the byte counts that are known only at certain instants."""

    def __init__(self, tracker: Tracker, passes: int, progress: Progress | None = None) -> None:
        self.tracker = tracker
        self.facts = dict.fromkeys(("parameter_bytes", "buffer_bytes", "gradient_bytes", "optimizer_bytes"), 0)
        self.progress = progress
        self.passes = passes
        self.done, self.total = 0, 0
        self.work = "forward"

    def mark(self, name: str) -> None:
        """Begin an instant."""
        self.tracker.mark(name)

    def passing(self, work: str) -> None:
        """Begin a forward pass of an objective: of the model that trains, or beside it; end it with "objective"."""
        if work not in ("forward", "objective"):
            self.tracker.mark(f"embedding {work}")
        elif work == "objective":
            self.tracker.mark(work)
        self.work = work

    def follow(self, model: Any) -> None:
        """Mark where each decoder layer begins, the head after the last one, and the loss.

        Backward of a layer begins where the gradient of its output is complete: at the output's node.
        """
        layers = models.decoder_layers(model)
        self.total += self.passes * len(layers)
        for index, layer in enumerate(layers):
            layer.register_forward_pre_hook(self._forward_hook(f"layer {index}"))
            layer.register_forward_hook(self._output_hook(f"layer {index} backward", index == len(layers) - 1))
        model = unwrapped(model)
        if hasattr(model, "loss_function"):
            model.loss_function = self._marked_loss(model.loss_function)

    def ready(self, model: Any, optimizer: Any, reference: Any = None) -> None:
        """Begin the stream: parameters and buffers, gradients left from before, optimizer states."""
        self.tracker.forget(counters_on_host(optimizer))
        self.tracker.counters_on_host = optimizer is not None and not optimizer.defaults.get("fused")
        gradients = [(f"{name}.grad", each.grad) for name, each in model.named_parameters() if each.grad is not None]
        packed, buffers = models.packed_and_buffers(model)
        weights = [*model.named_parameters(), *scales(model), *packed]
        if reference is not None:
            weights += [(f"reference.{name}", each) for name, each in reference.named_parameters()]
            buffers += [(f"reference.{name}", each) for name, each in reference.named_buffers()]
        groups: list[Any] = [
            ("parameters", "parameter", weights),
            ("parameters", "buffer", buffers),
            ("gradients", "gradient", gradients),
            ("optimizer states", "optimizer state", list(jobs.state_tensors(model, optimizer))),
        ]
        self.tracker.restart([group for group in groups if group[2]])
        self.facts["parameter_bytes"] = self.tracker.rounded_bytes(tensor for _, tensor in weights)
        self.facts["buffer_bytes"] = self.tracker.rounded_bytes(tensor for _, tensor in buffers)

    def backward_done(self, model: Any) -> None:
        """Count the gradients."""
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        gradients += [each for one in model.parameters() if (each := getattr(one, "float_grad", None)) is not None]
        self.facts["gradient_bytes"] = self.tracker.rounded_bytes(gradients)

    def updated(self, optimizer: Any) -> None:
        """Count the optimizer's states."""
        states = (jobs.parts(key, value) for one in optimizer.state.values() for key, value in one.items())
        self.facts["optimizer_bytes"] = self.tracker.rounded_bytes(each for state in states for _, each in state)

    def _enter(self, name: str) -> None:
        self.tracker.mark(name)
        self.done += 1
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)

    def _forward_hook(self, layer: str) -> Callable[..., None]:
        def before(module: Any, args: Any) -> None:
            self._enter(f"{layer} {self.work}")

        return before

    def _output_hook(self, name: str, last: bool) -> Callable[..., None]:
        def at_backward(gradients: Any) -> None:
            self._enter(name)

        def after(module: Any, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if getattr(first, "grad_fn", None) is not None:
                first.grad_fn.register_prehook(at_backward)
            if last:
                self.tracker.mark("head" if self.work == "forward" else f"head {self.work}")

        return after

    def _marked_loss(self, loss_function: Callable[..., Any]) -> Callable[..., Any]:
        def loss(*args: Any, **kwargs: Any) -> Any:
            self.tracker.mark("loss")
            return loss_function(*args, **kwargs)

        return loss


def passes(job: TrainJob | InferJob) -> int:
    """Return how often a job goes through all layers: forward and backward each count once."""
    if isinstance(job, TrainJob):
        return 2 * job.accumulation * (2 if jobs.has_warm_up(job) else 1)
    return 1 + job.decode
