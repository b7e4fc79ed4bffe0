"""A step of training on the tape: micro-batches forward and backward, clipping, the optimizer, zero_grad."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.model import Model
from oomph.objectives import KINDS as OBJECTIVES
from oomph.objectives import objective_file
from oomph.objectives.passes import Passes, crossing, made
from oomph.optimizers import Optimizer
from oomph.optimizers.clip import clip_grad_norm
from oomph.optimizers.zero import Zero
from oomph.pattern import Depth
from oomph.played import Played
from oomph.structure import decoder_stack
from oomph.tape import Recorder
from oomph.tape.activation_offload import offloading
from oomph.tape.autograd import backward
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym


def play_step(
    passes: Passes,
    model: Model,
    optimizer: Optimizer | Zero | None,
    parameters: list[Sym],
    played: Played,
    layers: Depth | None,
) -> None:
    """Play a whole step and note where what stands."""
    tape, job = passes.tape, passes.job
    recorder = tape.recorder
    zero_grad = partial(_zero_grad, recorder, parameters if optimizer is None else optimizer.parameters, job)
    if isinstance(optimizer, Zero):
        tape.on_gradient = optimizer.to_bucket
    elif optimizer is not None and optimizer.fuses_backward:
        tape.before_gradient = partial(_step_before, optimizer)
    elif optimizer is not None and job.optimizer_in_backward:
        tape.on_gradient = partial(_step_in_backward, optimizer)
    run_backward = backward if optimizer is None else optimizer.backward
    objective = objective_file(job)
    if OBJECTIVES[job.objective].judged:
        _iterate(passes, objective, optimizer, played, zero_grad)
        return
    if job.zero_grad == "before-forward":
        zero_grad()
    for index in range(job.accumulation):
        first = index == 0 and job.zero_grad == "before-backward"
        _micro_batch(passes, objective, played, zero_grad if first else None, run_backward)
    played.backward_end = recorder.position
    if job.clip_gradients and not job.zero_stage:  # DeepSpeed scales its fp32 copies in place
        recorder.mark("clip gradients")
        clip_grad_norm(parameters, partial(at_depth, model=model, deep=layers, of=_one))
    if optimizer is not None and not job.optimizer_in_backward:
        tape.scope = "optimizer"
        optimizer.step()
    if job.zero_grad == "after-step":
        zero_grad()
    recorder.mark("end")
    played.end = recorder.position


def _iterate(
    passes: Passes, objective: Any, optimizer: Optimizer | Zero | None, played: Played, zero_grad: Callable[[], None]
) -> None:
    """Play an iteration of an objective whose trainer has a loop of its own, and note where what stands."""
    tape, recorder = passes.tape, passes.tape.recorder

    def run_backward(loss: Sym) -> None:
        recorder.mark("loss backward")
        played.forward_end = recorder.position
        with crossing(tape):
            backward(loss)
        recorder.mark("after backward")

    def update() -> None:
        played.backward_end = recorder.position
        if optimizer is not None:
            tape.scope = "optimizer"
            optimizer.step()
        zero_grad()

    objective.iterate(passes, run_backward, update)
    recorder.mark("end")
    played.end = recorder.position
    objective.forget(passes)


def _step_in_backward(optimizer: Optimizer, parameter: Sym) -> None:
    """Update a parameter and free its gradient; other leaves (inputs of a layer that runs again) are left alone."""
    if not optimizer.updates(parameter):
        return
    tape = parameter.tape
    outer, tape.scope = tape.scope, "optimizer"
    optimizer.step_one(parameter)
    parameter.grad = None
    tape.scope = outer


def _step_before(optimizer: Optimizer, parameter: Sym) -> None:
    """Update what has a gradient before another parameter's is accumulated."""
    if not optimizer.updates(parameter):
        return
    tape = parameter.tape
    outer, tape.scope = tape.scope, "optimizer"
    optimizer.step_complete()
    tape.scope = outer


def _zero_grad(recorder: Recorder, parameters: list[Sym], job: TrainJob) -> None:
    """Free the gradients, or leave them, filled with zeros."""
    recorder.mark("zero_grad")
    if job.set_to_none:
        for one in parameters:
            one.grad = None


def _one(parameter: Sym) -> Size:
    return 1


def at_depth(parameters: list[Sym], model: Model, deep: Depth | None, of: Callable[[Sym], Size]) -> Size:
    """Return a sum over the parameters of a model that is as deep as it is meant to be."""
    if deep is None:
        return sum(map(of, parameters))
    path, stack = decoder_stack(model)
    before, period, fixed = len(deep.pattern.before), len(deep.pattern.period), deep.pattern.fixed
    periods = (len(stack.layers) - fixed) // period
    others = len(stack.layers) - periods * period
    once: list[Sym] = []
    repeated: list[Sym] = []
    for one in parameters:  # in the same words for every depth at hand, so that these give the same expression
        inside = one.made_for.startswith(path)
        at = int(one.made_for[len(path) + 1 :].partition(".")[0]) - before if inside else -1
        if 0 <= at < period:
            repeated.append(one)
        elif not 0 <= at < periods * period:
            once.append(one)
    return (deep.layers - others) // period * sum(map(of, repeated)) + sum(map(of, once))


def _micro_batch(
    passes: Passes,
    objective: Any,
    played: Played,
    zero_grad: Callable[[], None] | None,
    run_backward: Callable[[Sym], None],
) -> None:
    """Play forward and backward of one micro-batch; its inputs and outputs die at the end, outputs first.

    Outputs that are kept die when the next ones take their place.
    """
    tape, job = passes.tape, passes.job
    recorder = tape.recorder
    tape.borders.clear()
    tape.scope = ""
    recorder.mark("embedding forward")
    inputs = made(tape, objective.inputs(passes))
    inside = ExitStack()
    inside.enter_context(offloading(tape, job.activation_offload))
    loss, outputs = objective.compute_loss(passes, inputs)
    if job.activation_offload != "trl":
        inside.close()
    if loss is None:
        raise UnsupportedError("Training needs labels.")
    if job.accumulation > 1:
        loss = loss * (1 / job.accumulation)
    if not job.hold_logits:
        del outputs
    if zero_grad is not None:
        zero_grad()
    if tape.at_loss is not None:
        tape.at_loss(loss)
    recorder.mark("loss backward")
    played.forward_end = recorder.position
    with crossing(tape):
        run_backward(loss)
        inside.close()
    recorder.mark("after backward")
    if job.hold_logits:
        del outputs
    del loss
    if not job.keep_outputs:
        tape.variables.clear()
    tape.cu_seq_lens = tape.seq_idx = None
    inputs.clear()
