"""Playing a job on the tape: parameters, inputs, forward and backward of one micro-batch after another.

What is alive when, and what the peak is, are then in the recorder; nothing here knows a formula.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.model import Model
from oomph.optimizers import Optimizer
from oomph.optimizers.clip import clip_grad_norm
from oomph.programs import PROGRAMS
from oomph.stream import ROUND
from oomph.tape import Recorder, Tape
from oomph.tape.autograd import backward, like
from oomph.tape.bound import Bound, bind
from oomph.tape.sizes import Size, ceil_to
from oomph.tape.sym import Sym
from oomph.tape.tape import autocast

Forward = Callable[..., "tuple[Sym | None, Sym, Any]"]


@dataclass
class Played:
    """One training step on the tape. Bytes count every allocation rounded to 512 B.

    `parameters`, `buffers` and `states` are what lies there for good; `resident` is alive before the step (with
    gradients that were kept), `forward_end` when the loss is known, `backward_end` when all gradients are there, `end`
    after zero_grad. `start` is the position of the step's first event in the stream.
    """

    recorder: Recorder
    parameters: Size = 0
    buffers: Size = 0
    states: Size = 0
    resident: Size = 0
    forward_end: Size = 0
    backward_end: Size = 0
    end: Size = 0
    peak: Size = 0
    start: int = 0


def program_of(model: Model) -> Any:
    """Return the program file of a model's type; refused with a way to go on where there is none."""
    if model.model_type not in PROGRAMS:
        raise UnsupportedError(
            f"oomph cannot play a step of {model.model_type or 'this architecture'} yet.",
            "Trace the real code instead: oomph trace.",
        )
    return import_module(f"oomph.programs.{PROGRAMS[model.model_type]}")


def weight_dtype(job: TrainJob) -> str:
    """Return the dtype parameters are kept in: fp32 under autocast."""
    return "fp32" if job.precision.startswith("amp-") else job.precision


def autocast_dtype(job: TrainJob) -> str | None:
    """Return the dtype autocast works in, None without autocast."""
    return job.precision.removeprefix("amp-") if job.precision.startswith("amp-") else None


def train_step(model: Model, job: TrainJob, *, in_place_sums: bool = True, events: bool = False) -> Played:
    """Play one training step: micro-batches, clipping, optimizer, zero_grad.

    `in_place_sums=False` equals a trace, which never adds gradients in place (see Tape).
    """
    program = program_of(model)
    refuse_unplayed(job)
    tape = Tape(Recorder(events), in_place_sums)
    recorder = tape.recorder
    tape.kernel, tape.dropout = job.attention, job.dropout
    with tape.playing():
        recorder.mark("parameters")
        bound = bind(model, tape, weight_dtype(job))
        parameters = [one for one in bound.parameters() if one.requires_grad]
        played = Played(recorder, parameters=recorder.live)
        buffers = program.buffers(bound)
        played.buffers = recorder.live - played.parameters
        optimizer = None if job.optimizer == "none" else Optimizer(job.optimizer, parameters, job.implementation)
        _leave_behind(optimizer, parameters, job)
        _step(tape, bound, program.causal_lm, model, job, optimizer, parameters, played)
        del bound, buffers, optimizer, parameters
    return played


def refuse_unplayed(job: TrainJob) -> None:
    """Refuse inputs that the tape has no rule for yet, naming each; never play something else instead."""
    odd = {
        "checkpointing": job.checkpointing == "reentrant",
        "checkpoint_every": job.checkpoint_every != 1,
        "fp32_outputs": job.fp32_outputs,
    }
    unknown = ", ".join(f"{name}={getattr(job, name)}" for name, found in odd.items() if found)
    if unknown:
        raise UnsupportedError(f"oomph cannot play {unknown} yet.", "Trace the real code instead: oomph trace.")


def _leave_behind(optimizer: Optimizer | None, parameters: list[Sym], job: TrainJob) -> None:
    """Allocate what an earlier step left: optimizer states, and gradients that were zeroed but kept."""
    if not job.steady:
        return
    if optimizer is not None:
        optimizer.make_states()
    if not job.set_to_none:
        for one in parameters:
            one.grad = like(one, one.dtype, "zeros_like")


def _step(
    tape: Tape,
    bound: Bound,
    forward: Forward,
    model: Model,
    job: TrainJob,
    optimizer: Optimizer | None,
    parameters: list[Sym],
    played: Played,
) -> None:
    """Play a whole step and note what is alive when."""
    recorder = tape.recorder
    recorder.segments.clear()
    played.start, played.resident, recorder.peak = _position(recorder), recorder.live, recorder.live
    for _ in range(job.accumulation):
        _micro_batch(tape, bound, forward, model, job, played)
    played.backward_end = recorder.live
    if job.clip_gradients:
        recorder.mark("clip gradients")
        clip_grad_norm(parameters)
    if optimizer is not None:
        before = recorder.live
        recorder.mark("optimizer step")
        optimizer.step()
        made = recorder.live - before  # in a first step
        kept = played.resident - played.parameters - played.buffers
        played.states = made if not job.steady else kept - (_gradient_bytes(parameters) if not job.set_to_none else 0)
    recorder.mark("zero_grad")
    if job.set_to_none:
        for one in parameters:
            one.grad = None
    recorder.mark("end")
    played.end, played.peak = recorder.live, recorder.peak


def _gradient_bytes(parameters: list[Sym]) -> Size:
    """Return the bytes of the gradients that are there, rounded as the allocator does."""
    total: Size = 0
    for one in parameters:
        if one.grad is not None:
            total = total + ceil_to(one.grad.storage.n_bytes, ROUND)
    return total


def _micro_batch(tape: Tape, bound: Bound, forward: Forward, model: Model, job: TrainJob, played: Played) -> None:
    """Play forward and backward of one micro-batch; its inputs and outputs die at the end, outputs first."""
    recorder = tape.recorder
    tape.layer_starts.clear()
    recorder.mark("embedding forward")
    names = ("input_ids", "attention_mask", "labels") if job.padding else ("input_ids", "labels")
    inputs = [tape.empty((job.batch, job.seq_len), "int64", op=name) for name in names]
    checkpointing = job.checkpointing != "none"
    arguments: tuple[Any, ...] = (bound, inputs[0], inputs[-1], checkpointing, model.model_type)
    options = {
        "attention_mask": inputs[1] if job.padding else None,
        "use_cache": job.use_cache and not checkpointing,  # merge_with_config_defaults switches it off
    }
    with autocast(tape, autocast_dtype(job)):
        loss, logits, cache = forward(*arguments, **options)
        outputs = [cache, logits, loss]  # dies from the back, the loss first, as a ModelOutput does
        del arguments, options, logits, cache
        recorder.mark("autocast exit")
    if loss is None:
        raise UnsupportedError("Training needs labels.")
    if job.accumulation > 1:
        loss = loss * (1 / job.accumulation)
    if not job.hold_logits:
        del outputs
    recorder.mark("loss backward")
    played.forward_end = recorder.live
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


def _position(recorder: Recorder) -> int:
    return len(recorder.stream.events) if recorder.stream is not None else 0
