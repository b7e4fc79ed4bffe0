"""Playing a job on the tape: parameters, inputs, forward and backward of one micro-batch after another.

What is alive when, and what the peak is, are then in the recorder; nothing here knows a formula.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError, UsageError
from oomph.job import InferJob, TrainJob
from oomph.methods import adapted
from oomph.model import Model
from oomph.optimizers import Optimizer
from oomph.optimizers.clip import clip_grad_norm
from oomph.pattern import Depth
from oomph.play_infer import infer
from oomph.played import Played
from oomph.programs import program_of
from oomph.structure import decoder_stack
from oomph.tape import Recorder, Tape
from oomph.tape.autograd import backward, like
from oomph.tape.bound import Bound, bind
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym
from oomph.tape.tape import Place, autocast

Forward = Callable[..., "tuple[Sym | None, Sym | None, Any]"]


def autocast_dtype(job: TrainJob) -> str | None:
    """Return the dtype autocast works in, None without autocast."""
    return job.precision.removeprefix("amp-") if job.autocast or job.precision.startswith("amp-") else None


def play(model: Model, job: TrainJob | InferJob, *, layers: Depth | None = None, on: Place = "gpu") -> Played:
    """Play a job, whichever it is."""
    if isinstance(job, InferJob):
        return infer(model, job, on=on)
    return train_step(model, job, layers=layers, on=on)


def train_step(
    model: Model, job: TrainJob, *, layers: Depth | None = None, on: Place = "gpu", warm_up: bool = False
) -> Played:
    """Play one training step: micro-batches, clipping, optimizer, zero_grad.

    `layers` is how deep the model is meant to be where it stands for a deeper one (see fold.py).
    `on` says whose events are played (see tape.Place). A steady step works on what an earlier one left, which is put
    there; with `warm_up`, or where outputs are kept and so a whole graph, the earlier one is played too.
    """
    program = program_of(model)
    model = adapted(model, job)
    tape = Tape(on)
    recorder = tape.recorder
    tape.kernel, tape.dropout, tape.loss = job.attention, job.dropout, job.loss
    tape.keeps_inputs = job.keeps_4bit_inputs
    tape.inputs_train = job.checkpointing != "none"  # transformers' enable_input_require_grads
    tape.experts, tape.routing = job.experts, job.routing
    with tape.playing():
        recorder.mark("parameters")
        bound = bind(model, tape, job.weight_dtype)
        tape.scope = ""
        parameters = [one for one in bound.parameters() if one.requires_grad]
        if not parameters:
            raise UsageError("Nothing trains in this job.", "Choose a method, or parts to train, that the model has.")
        buffers = program.buffers(bound)
        for each in buffers:
            tape.note(each, "buffer")
        optimizer = None if job.optimizer == "none" else Optimizer(job, bound, parameters)
        kept: list[Any] = []  # what the caller's variable holds from one forward pass to the next
        played = Played(recorder)
        step = partial(_step, tape, bound, program.causal_lm, model, job, optimizer, parameters, played, layers, kept)
        if job.steady and (warm_up or job.keep_outputs or job.kernels == "unsloth"):
            step()
        else:
            _leave_behind(optimizer, parameters, job)
            if job.steady and hasattr(program, "leave_behind"):
                program.leave_behind(bound)
        played.start = recorder.position
        step()
        del step, kept, bound, buffers, optimizer, parameters
    return played


def _leave_behind(optimizer: Optimizer | None, parameters: list[Sym], job: TrainJob) -> None:
    """Allocate what an earlier step left: optimizer states, and gradients that are not freed yet or never."""
    if not job.steady:
        return
    if optimizer is not None:
        optimizer.make_states()
    if job.leaves_gradients:
        for one in parameters:
            one.grad = like(one, one.dtype, "zeros_like")
            one.tape.recorder.name(one.grad.storage.ordinal, one.made_for, "gradient")


def _step(
    tape: Tape,
    bound: Bound,
    forward: Forward,
    model: Model,
    job: TrainJob,
    optimizer: Optimizer | None,
    parameters: list[Sym],
    played: Played,
    layers: Depth | None,
    kept: list[Any],
) -> None:
    """Play a whole step and note where what stands."""
    recorder = tape.recorder
    zero_grad = partial(_zero_grad, recorder, parameters if optimizer is None else optimizer.parameters, job)
    if optimizer is not None and job.optimizer_in_backward:
        tape.on_gradient = partial(_step_in_backward, optimizer)
    if job.zero_grad == "before-forward":
        zero_grad()
    for index in range(job.accumulation):
        first = index == 0 and job.zero_grad == "before-backward"
        _micro_batch(tape, bound, forward, model, job, played, kept, zero_grad if first else None)
    played.backward_end = recorder.position
    if job.clip_gradients:
        recorder.mark("clip gradients")
        clip_grad_norm(parameters, _at_depth(parameters, model, layers))
    if optimizer is not None and not job.optimizer_in_backward:
        tape.scope = "optimizer"
        optimizer.step()
    if job.zero_grad == "after-step":
        zero_grad()
    recorder.mark("end")
    played.end = recorder.position


def _step_in_backward(optimizer: Optimizer, parameter: Sym) -> None:
    """Update a parameter and free its gradient; other leaves (inputs of a layer that runs again) are left alone."""
    if not optimizer.updates(parameter):
        return
    tape = parameter.tape
    outer, tape.scope = tape.scope, "optimizer"
    optimizer.step_one(parameter)
    parameter.grad = None
    tape.scope = outer


def _zero_grad(recorder: Recorder, parameters: list[Sym], job: TrainJob) -> None:
    """Free the gradients, or leave them, filled with zeros."""
    recorder.mark("zero_grad")
    if job.set_to_none:
        for one in parameters:
            one.grad = None


def _at_depth(parameters: list[Sym], model: Model, deep: Depth | None) -> Size:
    """Return how many parameters there are in a model that is as deep as it is meant to be."""
    if deep is None:
        return len(parameters)
    path, stack = decoder_stack(model)
    before, period, fixed = len(deep.pattern.before), len(deep.pattern.period), deep.pattern.fixed
    numbers = (one.made_for[len(path) + 1 :].partition(".")[0] for one in parameters if one.made_for.startswith(path))
    inside = sum(before <= int(number) < before + period for number in numbers)
    periods = (len(stack.layers) - fixed) // period
    others = len(stack.layers) - periods * period
    return (deep.layers - others) // period * inside + (len(parameters) - periods * inside)


def _micro_batch(
    tape: Tape,
    bound: Bound,
    forward: Forward,
    model: Model,
    job: TrainJob,
    played: Played,
    kept: list[Any],
    zero_grad: Callable[[], None] | None,
) -> None:
    """Play forward and backward of one micro-batch; its inputs and outputs die at the end, outputs first.

    Outputs that are kept die when the next ones take their place.
    """
    recorder = tape.recorder
    tape.layer_starts.clear()
    tape.scope = ""
    recorder.mark("embedding forward")
    between = ["attention_mask"] * job.padding + ["position_ids"] * job.packing
    names = ("input_ids", *between, "labels")
    of_sequences = model.objective == "sequence-classification"
    shapes = [(job.batch, job.seq_len)] * (len(names) - 1) + [
        (job.batch,) if of_sequences else (job.batch, job.seq_len)
    ]
    inputs = [tape.empty(shape, "int64", op=name) for name, shape in zip(names, shapes, strict=True)]
    for one in inputs:
        tape.note(one, "input")
    checkpointing = Checkpointing(job.checkpointing, job.checkpoint_every)
    arguments: tuple[Any, ...] = (bound, inputs[0], inputs[-1], checkpointing, model.model_type)
    options = {
        "attention_mask": inputs[1] if job.padding else None,
        "position_ids": inputs[1] if job.packing else None,
        # merge_with_config_defaults switches it off
        "use_cache": job.use_cache and job.checkpointing == "none",
    }
    with autocast(tape, autocast_dtype(job)):
        loss, logits, cache = forward(*arguments, **options)
        if job.fp32_outputs:
            in_fp32 = loss and ops.cast(loss, "fp32"), logits if logits is None else ops.cast(logits, "fp32")
            loss, logits = in_fp32
            del in_fp32
        outputs = [cache, logits, loss]  # dies from the back, the loss first, as a ModelOutput does
        if job.loss == "mean" and logits is not None:
            loss = ops.mean_of_all(logits)
        del arguments, options, logits, cache
        if job.keep_outputs:
            kept[:] = [outputs]
        if tape.autocast is not None:
            recorder.mark("autocast exit")
    if loss is None:
        raise UnsupportedError("Training needs labels.")
    if job.accumulation > 1:
        loss = loss * (1 / job.accumulation)
    if not job.hold_logits:
        del outputs
    if zero_grad is not None:
        zero_grad()
    recorder.mark("loss backward")
    played.forward_end = recorder.position
    tape.on_node = _crossing(tape)
    backward(loss)
    tape.on_node = None
    recorder.mark("after backward")
    if job.hold_logits:
        del outputs
    del loss
    while inputs:
        inputs.pop(0)


def _crossing(tape: Tape) -> Callable[[int], None]:
    """Return what marks the segments of a backward pass: it crosses the layers from the last to the first."""
    starts, names = tape.layer_starts, ["embedding", *(f"layer {index}" for index in range(len(tape.layer_starts)))]
    borders = list(zip([*starts, tape.layers_end], names, strict=True))

    def cross(sequence: int) -> None:
        while borders and sequence < borders[-1][0]:
            tape.recorder.mark(f"{borders.pop()[1]} backward")

    return cross
