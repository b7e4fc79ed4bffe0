"""Playing a job on the tape: parameters, inputs, forward and backward of one micro-batch after another.

What is alive when, and what the peak is, are then in the recorder; nothing here knows a formula.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from oomph.errors import UsageError
from oomph.job import InferJob, TrainJob
from oomph.methods import adapted, as_coded, forward_of
from oomph.methods.bitsandbytes import Linear8bit
from oomph.methods.lisa import switched_off
from oomph.methods.q_galore import int8_maps
from oomph.model import Model
from oomph.objectives import KINDS as OBJECTIVES
from oomph.objectives import check_model, factory_reward, kind_of
from oomph.objectives.judged import judge
from oomph.objectives.passes import Passes, autocast_dtype
from oomph.ops.delta_chunks import leave_memos
from oomph.optimizers import Optimizer, hidden_size
from oomph.optimizers.zero import Zero
from oomph.pattern import Depth
from oomph.play_infer import infer
from oomph.play_step import at_depth, play_step
from oomph.played import Played
from oomph.programs import HEADS, program_of
from oomph.programs.attention_kernels import check_packed, kernel_of
from oomph.programs.mixer_packages import check_mixers, has_gated_delta_nets
from oomph.structure import decoder_stack
from oomph.tape import Tape
from oomph.tape.autograd import like, reaches_nothing
from oomph.tape.bound import Bound, bind
from oomph.tape.sizes import number
from oomph.tape.sym import Sym, new
from oomph.tape.tape import Place
from oomph.tape.turns import Turns

FOUND_HEADS = ("lm_head", "embed_out", "output")  # paths of heads that TRL leaves alone; GPT-NeoX calls its lm_head now


def play(
    model: Model,
    job: TrainJob | InferJob,
    *,
    layers: Depth | None = None,
    on: Place = "gpu",
    turns: Turns = "all",
) -> Played:
    """Play a job, whichever it is."""
    if isinstance(job, InferJob):
        return infer(model, job, on=on, turns=turns)
    return train_step(model, job, layers=layers, on=on, turns=turns)


def train_step(
    model: Model,
    job: TrainJob,
    *,
    layers: Depth | None = None,
    on: Place = "gpu",
    warm_up: bool = False,
    turns: Turns = "all",
    at_loss: Callable[[Sym], None] | None = None,
) -> Played:
    """Play one training step: micro-batches, clipping, optimizer, zero_grad.

    `layers` is how deep the model is meant to be where it stands for a deeper one (see fold.py).
    `on` says whose events are played (see tape.Place). A steady step works on what an earlier one left, which is put
    there; with `warm_up`, or where outputs are kept and so a whole graph, the earlier one is played too.
    `turns` of loops over tokens are played (see tape/turns.py). `at_loss` is called with each loss before its backward
    pass.
    """
    check_model(model, job)
    check_packed(model, job)
    check_mixers(model, job)
    original = as_coded(model, job)
    program_of(original)  # what cannot be played is said before what its method lacks
    model = adapted(model, job)
    tape = _tape(model, job, on)
    tape.turns = turns
    recorder = tape.recorder
    with tape.playing():
        recorder.mark("parameters")
        memory = _Memory(tape, original, model, job)
        memory.make_optimizer(layers)
        memory.load_reference()
        played = Played(recorder)
        tape.at_loss = at_loss
        step = partial(play_step, memory.passes, model, memory.optimizer, memory.parameters, played, layers)
        settles = getattr(memory.program, "settles", False) or _settles(memory.passes.policy, job)
        if job.steady and (warm_up or settles):
            step()
        else:
            memory.leave_behind()
        played.start = recorder.position
        step()
        tape.variables.clear()
        tape.shared.clear()
        tape.memos.clear()
        del step, memory
    return played


class _Memory:
    """What lies on the device from step to step: models and their buffers, the optimizer.

    `parameters` are those that want a gradient, `updated` those of them that get one.
    """

    def __init__(self, tape: Tape, original: Model, model: Model, job: TrainJob) -> None:
        self.tape, self.original, self.model, self.job = tape, original, model, job
        self.program = program_of(model)
        forward = forward_of(self.program.causal_lm, model, job)
        self.passes = Passes(tape, job, forward, model, bind(model, tape, job.weight_dtype))
        self.optimizer: Optimizer | Zero | None = None
        tape.scope = ""
        self.parameters = [one for one in self.passes.policy.parameters() if one.requires_grad]
        if not self.parameters:
            raise UsageError("Nothing trains in this job.", "Choose a method, or parts to train, that the model has.")
        updated = getattr(self.program, "updated", lambda policy, parameters: parameters)
        self.updated: list[Sym] = updated(self.passes.policy, self.parameters)
        if job.weight_quant:
            codes = [one.weight for one in int8_maps(self.passes.policy)]
            # Layer by layer nothing but these has a hook that is called; what else has gradients is never updated.
            self.updated = codes if job.optimizer_in_backward else [*self.updated, *codes]
        if not self.updated:
            raise reaches_nothing()  # torch finds inputs of checkpoints to go back to, and nothing to update
        self.buffers = _buffers(self.program, self.passes.policy)
        if OBJECTIVES[job.objective].judged:
            self._load_judges()
        elif kind_of(job).valued:
            self._put_on_value_head()

    def _put_on_value_head(self) -> None:
        """Put a head of values on, which trains too; the language's, which nobody asks, gets no gradient."""
        self.passes.value_head = factory_reward.head(self.passes, self.original)
        of_head = list(self.passes.value_head.parameters())
        below = [one for one in self.updated if not one.made_for.startswith(tuple(f"{path}." for path in HEADS))]
        self.parameters, self.updated = [*self.parameters, *of_head], [*below, *of_head]

    def _load_judges(self) -> None:
        """Load models of reward and value, of which the latter trains too."""
        judging = judge(self.passes, self.original)
        of_value = list(self.passes.judges["value"].parameters())
        self.parameters, self.updated = [*self.parameters, *of_value], [*self.updated, *of_value]
        self.buffers += [one for each in self.passes.judges.values() for one in _buffers(judging, each)]

    @property
    def never_updated(self) -> list[Sym]:
        """Parameters whose gradients are added to for ever: Q-GaLore's loop by layers forgets them."""
        return self.parameters if self.job.weight_quant and self.job.optimizer_in_backward else []

    def make_optimizer(self, layers: Depth | None) -> None:
        """Make what updates the parameters of a model that stands for one of so many layers."""
        job, policy = self.job, self.passes.policy
        if job.optimizer == "none":
            return
        if job.zero_stage:
            total = partial(at_depth, self.updated, self.model, layers)
            shallow = layers is not None and number(layers.layers) != len(decoder_stack(self.model)[1].layers)
            bucket = job.zero_bucket or hidden_size(policy) * hidden_size(policy)
            self.optimizer = Zero(job, bucket, self.updated, total, shallow)
            return
        self.optimizer = Optimizer(job, policy, self.updated)
        if job.method == "lisa" and (job.steady or self.optimizer.makes_at_once):
            self.optimizer.remember(switched_off(policy, self.model))

    def load_reference(self) -> None:
        """Load the second model that an objective compares with, if that is not the first without its adapters."""
        job = self.job
        if job.compares_with != "loaded":
            return
        other = self.model.teacher or self.original
        dtype = job.weight_dtype if job.teacher_dtype == "student" else job.teacher_dtype
        self.passes.reference = bind(other, self.tape, dtype, "reference")
        if OBJECTIVES[job.objective].teacher:
            self.passes.of_teacher = program_of(other).causal_lm, other.decoder_type
        self.buffers += _buffers(program_of(other), self.passes.reference)

    def leave_behind(self) -> None:
        """Allocate what an earlier step left: optimizer states, gradients that are not freed, what a program keeps."""
        job = self.job
        if not job.steady:
            return
        if self.optimizer is not None:
            self.optimizer.make_states()
        if (job.leaves_gradients and not job.zero_stage) or self.never_updated:
            for one in self.never_updated or self.updated:
                one.grad = _left(self.optimizer, one)
                one.tape.recorder.name(one.grad.storage.ordinal, one.made_for, "gradient")
        if job.packs and job.packed_by == "lengths" and "fla" in self.tape.mixers and has_gated_delta_nets(self.model):
            leave_memos(self.tape, job.accumulation, job.shape[1])
        if hasattr(self.program, "leave_behind"):
            for each in self.passes.models:
                self.program.leave_behind(each, job)


def _left(optimizer: Optimizer | Zero | None, one: Sym) -> Sym:
    """Return the gradient that is left of a parameter: a small one where an optimizer put it in its place."""
    shape = optimizer.small_gradient(one) if isinstance(optimizer, Optimizer) else None
    return like(one, one.dtype, "zeros_like") if shape is None else new(one.tape, shape, one.dtype, op="mm")


def _tape(model: Model, job: TrainJob, on: Place) -> Tape:
    """Return a tape that knows what of a job its programs ask for."""
    tape = Tape(on)
    tape.kernel, tape.dropout, tape.loss = kernel_of(model, job), job.dropout, job.loss
    tape.mixers = frozenset(job.mixers.split("+"))
    tape.keeps_inputs = job.keeps_4bit_inputs
    tape.repeats_keys = job.repeats_keys
    tape.keeps_softmax_inputs, tape.heads_of_4_51 = job.keeps_softmax_inputs, job.heads_of_4_51
    # transformers' enable_input_require_grads, which LLaMA-Factory asks of layers instead
    tape.inputs_train = job.checkpointing != "none" and job.method != "freeze"
    tape.reentrant = job.checkpointing in ("reentrant", "unsloth")
    tape.experts, tape.routing = job.experts, job.routing
    tape.images, tape.image_size, tape.audio = job.images, job.image_size, job.audio
    tape.prompt_len, tape.holes = job.prompt_len, job.padding
    tape.sequences = job.sequences_in_row if job.packs else 0
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
