"""Playing a job on the tape: parameters, inputs, forward and backward of one micro-batch after another.

What is alive when, and what the peak is, are then in the recorder; nothing here knows a formula.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

from oomph.errors import UnsupportedError, UsageError
from oomph.job import InferJob, TrainJob
from oomph.methods import adapted, as_coded, forward_of
from oomph.methods.bitsandbytes import Linear8bit
from oomph.methods.lisa import switched_off
from oomph.model import Model
from oomph.objectives import KINDS as OBJECTIVES
from oomph.objectives import check_model, objective_file
from oomph.objectives.judged import judge
from oomph.objectives.passes import Passes, autocast_dtype, made
from oomph.optimizers import Optimizer, hidden_size
from oomph.optimizers.clip import clip_grad_norm
from oomph.optimizers.zero import Total, Zero
from oomph.pattern import Depth
from oomph.play_infer import infer
from oomph.played import Played
from oomph.programs import kernel_of, program_of
from oomph.structure import decoder_stack
from oomph.tape import Recorder, Tape
from oomph.tape.activation_offload import offloading
from oomph.tape.autograd import backward, like
from oomph.tape.bound import Bound, bind
from oomph.tape.sizes import Size, number
from oomph.tape.sym import Sym
from oomph.tape.tape import Place

FOUND_HEADS = ("lm_head", "embed_out", "output")  # paths of heads that TRL leaves alone; GPT-NeoX calls its lm_head now


def play(model: Model, job: TrainJob | InferJob, *, layers: Depth | None = None, on: Place = "gpu") -> Played:
    """Play a job, whichever it is."""
    if isinstance(job, InferJob):
        return infer(model, job, on=on)
    return train_step(model, job, layers=layers, on=on)


def train_step(
    model: Model,
    job: TrainJob,
    *,
    layers: Depth | None = None,
    on: Place = "gpu",
    warm_up: bool = False,
    at_loss: Callable[[Sym], None] | None = None,
) -> Played:
    """Play one training step: micro-batches, clipping, optimizer, zero_grad.

    `layers` is how deep the model is meant to be where it stands for a deeper one (see fold.py).
    `on` says whose events are played (see tape.Place). A steady step works on what an earlier one left, which is put
    there; with `warm_up`, or where outputs are kept and so a whole graph, the earlier one is played too. `at_loss` is
    called with each loss before its backward pass.
    """
    check_model(model, job)
    original = as_coded(model, job)
    program_of(original)  # what cannot be played is said before what its method lacks
    model = adapted(model, job)
    program = program_of(model)
    tape = _tape(model, job, on)
    recorder = tape.recorder
    with tape.playing():
        recorder.mark("parameters")
        forward = forward_of(program.causal_lm, model, job)
        passes = Passes(tape, job, forward, model, bind(model, tape, job.weight_dtype))
        tape.scope = ""
        parameters = [one for one in passes.policy.parameters() if one.requires_grad]
        if not parameters:
            raise UsageError("Nothing trains in this job.", "Choose a method, or parts to train, that the model has.")
        updated = program.updated(passes.policy, parameters) if hasattr(program, "updated") else parameters
        buffers = _buffers(program, passes.policy)
        if OBJECTIVES[job.objective].judged:
            judging = judge(passes, original)
            of_value = list(passes.judges["value"].parameters())
            parameters, updated = [*parameters, *of_value], [*updated, *of_value]
            buffers += [one for each in passes.judges.values() for one in _buffers(judging, each)]
            del of_value
        total = partial(_at_depth, updated, model, layers)
        shallow = layers is not None and number(layers.layers) != len(decoder_stack(model)[1].layers)
        optimizer = _optimizer(job, passes.policy, updated, total, shallow)
        if isinstance(optimizer, Optimizer) and job.method == "lisa" and (job.steady or optimizer.makes_at_once):
            optimizer.remember(switched_off(passes.policy, model))
        if job.compares_with == "loaded":
            other = model.teacher or original
            dtype = job.weight_dtype if job.teacher_dtype == "student" else job.teacher_dtype
            passes.reference = bind(other, tape, dtype, "reference")
            if OBJECTIVES[job.objective].teacher:
                passes.of_teacher = program_of(other).causal_lm, other.decoder_type
            buffers += _buffers(program_of(other), passes.reference)
        played = Played(recorder)
        tape.at_loss = at_loss
        step = partial(_step, passes, model, optimizer, parameters, played, layers)
        if job.steady and (warm_up or _settles(passes.policy, job)):
            step()
        else:
            _leave_behind(optimizer, updated, job)
            if job.steady and hasattr(program, "leave_behind"):
                for each in passes.models:
                    program.leave_behind(each, job)
                    del each
        played.start = recorder.position
        step()
        tape.variables.clear()
        tape.shared.clear()
        del step, passes, buffers, optimizer, parameters, updated
    return played


def _tape(model: Model, job: TrainJob, on: Place) -> Tape:
    """Return a tape that knows what of a job its programs ask for."""
    tape = Tape(on)
    tape.kernel, tape.dropout, tape.loss = kernel_of(model, job), job.dropout, job.loss
    tape.keeps_inputs = job.keeps_4bit_inputs
    tape.repeats_keys = job.repeats_keys
    tape.keeps_softmax_inputs, tape.heads_of_4_51 = job.keeps_softmax_inputs, job.heads_of_4_51
    tape.inputs_train = job.checkpointing != "none"  # transformers' enable_input_require_grads
    tape.reentrant = job.checkpointing in ("reentrant", "unsloth")
    tape.experts, tape.routing = job.experts, job.routing
    tape.images, tape.image_size = job.images, job.image_size
    tape.prompt_len, tape.holes = job.prompt_len, job.padding
    tape.sequences = job.sequences if job.packing else 0
    tape.stays = _stays(model, job)
    return tape


def _stays(model: Model, job: TrainJob) -> Literal["", "head", "loss"]:
    """Return what saves nothing that is moved: the head that TRL finds, or all from it on, as torchtune has it."""
    if job.activation_offload == "torchtune":
        return "loss"
    found = job.activation_offload == "trl" and any(name in model.parts for name in FOUND_HEADS)
    return "head" if found else ""


def _settles(bound: Bound, job: TrainJob) -> bool:
    """Tell whether a step leaves what the next one finds, beside optimizer states and gradients."""
    biases = job.quantization == "int8" and _has_bias(bound) and autocast_dtype(job) is not None
    scales = job.qat != "none"  # those of a module's last call stay on it
    buffers = "unsloth" in (job.kernels, job.checkpointing) or job.activation_offload in ("trl", "torchtune")
    return biases or scales or buffers or job.keep_outputs or OBJECTIVES[job.objective].judged


def _has_bias(bound: Bound) -> bool:
    """Tell whether a quantised map below has a bias, whose dtype is for good what its first input's is."""
    if isinstance(bound.block, Linear8bit):
        return bound.parts["bias"] is not None
    return any(_has_bias(part) for part in bound.parts.values() if isinstance(part, Bound))


def _buffers(program: Any, bound: Bound) -> list[Sym]:
    """Return what lies on the device beside a model's parameters."""
    return [bound.tape.note(each, "buffer") for each in program.buffers(bound)]


def _optimizer(
    job: TrainJob, policy: Bound, parameters: list[Sym], total: Total, shallow: bool
) -> Optimizer | Zero | None:
    """Return what updates the parameters."""
    if job.optimizer == "none":
        return None
    if job.zero_stage:
        bucket = job.zero_bucket or hidden_size(policy) * hidden_size(policy)
        return Zero(job, bucket, parameters, total, shallow)
    return Optimizer(job, policy, parameters)


def _leave_behind(optimizer: Optimizer | Zero | None, parameters: list[Sym], job: TrainJob) -> None:
    """Allocate what an earlier step left: optimizer states, and gradients that are not freed yet or never."""
    if not job.steady:
        return
    if optimizer is not None:
        optimizer.make_states()
    if job.leaves_gradients and not job.zero_stage:
        for one in parameters:
            one.grad = like(one, one.dtype, "zeros_like")
            one.tape.recorder.name(one.grad.storage.ordinal, one.made_for, "gradient")


def _step(
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
    objective = objective_file(job.objective)
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
        clip_grad_norm(parameters, partial(_at_depth, model=model, deep=layers, of=_one))
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
        tape.on_node = _crossing(tape)
        backward(loss)
        tape.on_node = None
        recorder.mark("after backward")
        tape.borders.clear()

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


def _at_depth(parameters: list[Sym], model: Model, deep: Depth | None, of: Callable[[Sym], Size]) -> Size:
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
    tape.on_node = _crossing(tape)
    run_backward(loss)
    inside.close()
    tape.on_node = None
    recorder.mark("after backward")
    if job.hold_logits:
        del outputs
    del loss
    if not job.keep_outputs:
        tape.variables.clear()
    inputs.clear()


def _crossing(tape: Tape) -> Callable[[int], None]:
    """Return what marks the segments of a backward pass: it crosses the layers from the last to the first."""
    borders = list(tape.borders)

    def cross(sequence: int) -> None:
        while borders and sequence < borders[-1][0]:
            tape.recorder.mark(borders.pop()[1])

    return cross
