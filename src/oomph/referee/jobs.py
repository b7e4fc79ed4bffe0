"""The real job of training: a model, torch.optim, one step as a user writes it; without gradients in inference.py.

Everything here runs the same on fake and on real tensors, under the tracker or without any. `Watcher` hears where the
job is; local variables are few on purpose, because what they hold stays in memory.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from oomph.errors import UnsupportedError
from oomph.job import InferJob, TrainJob
from oomph.job_words import OF_PROMPTS
from oomph.objectives import KINDS as OBJECTIVES
from oomph.optimizer_names import KINDS
from oomph.referee import activation_offload
from oomph.referee.adapters import switch_layers
from oomph.referee.inputs import labels_of, text_inputs, told_apart
from oomph.referee.kernels import installed
from oomph.referee.losses import IGNORED, install, unwrapped
from oomph.referee.models import AUTOCAST, DTYPES, layer_lists
from oomph.referee.optimizers import make_optimizer
from oomph.referee.selective import selective_contexts
from oomph.referee.watcher import Watcher
from oomph.tape.selective import words_of

LARGEST_NORM = 1.0  # no byte depends on it
PROJECTOR = ("ortho_matrix", "ortho_matrix_scales", "ortho_matrix_zeros", "past_ortho_vector")
OF_BITSANDBYTES = ("Linear4bit", "Linear8bitLt")


def scored(job: TrainJob | InferJob) -> int | None:
    """Return how many tokens of a sequence are scored, for code that asks where they are; None: all that it sees."""
    if not isinstance(job, TrainJob) or job.loss not in OF_PROMPTS:
        return None
    return job.shape[1] - job.sequences_in_row * max(1, job.prompt_len)


def read_number(job: TrainJob | InferJob) -> int:
    """Return what integers answer that the code of a job reads: how many tokens chunked_nll goes through, else 1."""
    if not isinstance(job, TrainJob) or job.loss != "chunked-nll":
        return 1
    from oomph.referee.trl import CHUNK

    return -(-job.shape[0] * (scored(job) or 0) // CHUNK) * CHUNK


def train(model: Any, job: TrainJob, watcher: Watcher, warm_up: bool | None = None, reference: Any = None) -> None:
    """Make one optimizer step that counts, after another one if `warm_up` (None: if that leaves anything behind).

    Inputs are made where the model is, as the reference is where the objective needs one.
    """
    if job.packs and "position_ids" not in inspect.signature(unwrapped(model).forward).parameters:
        raise UnsupportedError(f"{type(model).__name__} takes no position ids.", "Leave out packing.")
    with _checkpointed(model, job):
        _train(model, job, watcher, warm_up, reference)


def _train(model: Any, job: TrainJob, watcher: Watcher, warm_up: bool | None, reference: Any) -> None:
    trainer = _prepared(model, reference, job, watcher)
    optimizer = make_optimizer(job, model)
    kept: list[Any] = []  # what the caller's variable holds from one forward pass to the next
    with installed(model, job), activation_offload.installed(model, job) as offloading:
        if has_warm_up(job) or (job.steady and _remembers(model, job)) if warm_up is None else warm_up:
            _step(model, job, optimizer, watcher, kept, trainer, offloading)
        if job.method == "lisa":
            switch_layers(model, job)
        watcher.ready(model, optimizer, reference)
        _step(model, job, optimizer, watcher, kept, trainer, offloading)


def _prepared(model: Any, reference: Any, job: TrainJob, watcher: Watcher) -> Any:
    """Put the loss of a job into its model and wrap it as accelerate does; return the trainer of an objective."""
    if job.objective == "sft":
        install(model, job.loss)
        if job.fp32_outputs:
            model.forward = returning_fp32(model.forward)
        return None
    if OBJECTIVES[job.objective].task == "embedding":
        from oomph.referee import embeddings

        return embeddings.trainer(job, model, partial(_wrapped, job=job, model=model, watcher=watcher))
    if job.objective_code == "llama-factory":
        from oomph.referee import llama_factory as code
    else:
        from oomph.referee import trl as code  # type: ignore[no-redef]

    made = code.trainer(job, model, reference)
    for each in (model, reference):
        if each is not None:
            forward = _under_autocast(each.forward, job, model.device.type)
            each.forward = _announced(forward, watcher, partial(_work, each, reference))
    return made


def _wrapped(forward: Callable[..., Any], *, job: TrainJob, model: Any, watcher: Watcher) -> Callable[..., Any]:
    """Return the forward of an embedding model as accelerate wraps it; a pass without gradients fills a cache."""
    of_all = _under_autocast(forward, job, model.device.type)
    return _announced(of_all, watcher, lambda: "forward" if torch.is_grad_enabled() else "caching")


def _announced(forward: Callable[..., Any], watcher: Watcher, work: Callable[[], str]) -> Callable[..., Any]:
    """Return a forward of which a watcher hears."""

    def announced(*args: Any, **kwargs: Any) -> Any:
        watcher.passing(work())
        try:
            return forward(*args, **kwargs)
        finally:
            watcher.passing("objective")

    return announced


def _work(model: Any, reference: Any) -> str:
    """Return what a forward pass that begins now is for."""
    if torch.is_grad_enabled():
        return "forward"
    off = any(getattr(module, "_disable_adapters", False) for module in model.modules())
    return "reference" if model is reference or off else "mismatched"


def _under_autocast(forward: Callable[..., Any], job: TrainJob, device_type: str) -> Callable[..., Any]:
    """Return a forward as accelerate's prepare_model wraps it under mixed precision."""

    def in_low_precision(*args: Any, **kwargs: Any) -> Any:
        with in_autocast(job, device_type):
            return forward(*args, **kwargs)

    return returning_fp32(in_low_precision) if job.fp32_outputs else in_low_precision


def has_warm_up(job: TrainJob) -> bool:
    """Say whether a steady step differs from the first: it leaves optimizer states, gradients or outputs behind."""
    has_state = job.optimizer in KINDS and KINDS[job.optimizer].has_state
    leaves_buffers = "unsloth" in (job.kernels, job.checkpointing) or job.activation_offload in ("trl", "torchtune")
    return job.steady and (has_state or job.leaves_gradients or job.keep_outputs or leaves_buffers)


def _remembers(model: Any, job: TrainJob) -> bool:
    """Say whether a forward pass leaves something behind: LongRoPE's frequencies for long sequences, how far positions
    are ahead of tokens where there are images, the dtype that bitsandbytes gives a bias, states that a module keeps,
    what flash-linear-attention remembers of where sequences begin.
    """
    if job.packs and job.packed_by == "lengths" and "fla" in job.mixers:
        return True
    return any(
        getattr(module, "rope_type", "") == "longrope"
        or ((job.images or job.padding) and hasattr(module, "rope_deltas"))
        or hasattr(module, "recurrent_states")
        or (type(module).__name__ in OF_BITSANDBYTES and module.bias is not None)
        for module in model.modules()
    )


@contextlib.contextmanager
def _checkpointed(model: Any, job: TrainJob) -> Iterator[None]:
    """Run with gradient checkpointing on for layers 0, n, 2n, ..."""
    if job.checkpointing == "none":
        yield
        return
    with contextlib.ExitStack() as stack:
        if job.checkpointing == "unsloth":
            from oomph.referee import unsloth_checkpoints

            stack.enter_context(unsloth_checkpoints.installed(DTYPES[job.precision.removeprefix(AUTOCAST)]))
        reentrant = job.checkpointing != "non-reentrant"
        options: dict[str, Any] = {"use_reentrant": reentrant}
        if job.checkpoint_saves:
            options["context_fn"] = selective_contexts(words_of(job.checkpoint_saves))
        if job.method == "freeze":
            from oomph.referee.llama_factory import checkpoint_what_trains

            checkpoint_what_trains(model, options)
        else:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        for layers in layer_lists(model):
            for layer in (layer for index, layer in enumerate(layers) if index % job.checkpoint_every):
                layer.gradient_checkpointing = False
        yield


def _step(
    model: Any,
    job: TrainJob,
    optimizer: Any,
    watcher: Watcher,
    kept: list[Any],
    trainer: Any,
    offloading: activation_offload.Offloading,
) -> None:
    zero_grad = partial((optimizer or model).zero_grad, set_to_none=job.set_to_none)
    if job.zero_grad == "before-forward":
        watcher.mark("zero_grad")
        zero_grad()
    for index in range(job.accumulation):
        first = index == 0 and job.zero_grad == "before-backward"
        run_backward = getattr(optimizer, "fused_backward", torch.Tensor.backward)
        _micro_batch(model, job, watcher, kept, zero_grad if first else None, trainer, run_backward, offloading)
    watcher.backward_done(model)
    if job.clip_gradients:
        watcher.mark("clip gradients")
        # On CUDA the default is the foreach way; on a tensor called "cpu" it has to be asked for.
        torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_NORM, foreach=True)
    if optimizer is not None:
        watcher.mark("optimizer step")
        optimizer.step()
        watcher.updated(optimizer)
    if job.zero_grad == "after-step":
        watcher.mark("zero_grad")
        zero_grad()
    watcher.mark("end")


def _micro_batch(
    model: Any,
    job: TrainJob,
    watcher: Watcher,
    kept: list[Any],
    zero_grad: Callable[[], None] | None,
    trainer: Any,
    run_backward: Callable[[Any], None],
    offloading: activation_offload.Offloading,
) -> None:
    """Run forward and backward of one micro-batch; its inputs and outputs die at the end, outputs first.

    Outputs that are kept die when the next ones take their place.
    """
    watcher.mark("forward")
    inside = contextlib.ExitStack()
    if trainer is None:
        inputs = _labelled(model, job)
        inside.enter_context(offloading())
        loss, outputs = _loss(model, job, inputs, kept)
    else:
        inputs = _batch(job, model)
        inside.enter_context(offloading())
        loss, outputs = trainer.compute_loss(model, inputs), None
    if job.activation_offload != "trl":  # whose context goes around the backward pass too
        inside.close()
    if job.accumulation > 1:
        loss = loss / job.accumulation
    if not job.hold_logits:
        del outputs
    if zero_grad is not None:
        watcher.mark("zero_grad")
        zero_grad()
    watcher.mark("backward")
    run_backward(loss)
    inside.close()
    if job.hold_logits:
        del outputs
    del loss
    inputs.clear()


def _batch(job: TrainJob, model: Any) -> dict[str, Any]:
    """Return a batch as the collator of an objective's trainer makes it."""
    if OBJECTIVES[job.objective].task == "embedding":
        from oomph.referee import embeddings

        return embeddings.inputs(job, model)
    if job.objective_code == "llama-factory":
        from oomph.referee import llama_factory

        return llama_factory.inputs(job, model)
    from oomph.referee import trl

    return trl.inputs(job, model)


def _labelled(model: Any, job: TrainJob) -> dict[str, Any]:
    """Return a batch with labels, of which the prompt's are ignored."""
    inputs = text_inputs(model, *job.shape, job.shape[1] if job.padding else 0)
    if job.packs:
        inputs |= told_apart(job, model.device)
    inputs["labels"] = labels_of(model, job)
    if job.prompt_len and inputs["labels"].dim() > 1:
        inputs["labels"][:, : job.prompt_len].fill_(IGNORED)
    if job.images:
        from oomph.referee.images import add_images

        add_images(inputs, unwrapped(model), job)
    if job.audio:
        from oomph.referee.audio import add_audio

        add_audio(inputs, unwrapped(model), job)
    return inputs


def _loss(model: Any, job: TrainJob, inputs: dict[str, Any], kept: list[Any]) -> tuple[Any, Any]:
    """Run the forward pass as a user writes it: the loss, and the outputs that are held."""
    given = {name: each for name, each in inputs.items() if job.loss != "mean" or name != "labels"}
    with in_autocast(job, model.device.type):
        outputs = model(**given, use_cache=job.use_cache)
        loss = outputs.logits.mean() if job.loss == "mean" else outputs.loss
        if job.keep_outputs:
            kept[:] = [outputs]
    return loss, outputs


def in_autocast(job: TrainJob, device_type: str) -> Any:
    """Return the context that a job's forward passes run in."""
    if not (job.autocast or job.precision.startswith(AUTOCAST)):
        return contextlib.nullcontext()
    return torch.autocast(device_type, dtype=DTYPES[job.precision.removeprefix(AUTOCAST)])


def returning_fp32(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward whose half-precision outputs come as fp32 copies.

    To the same effect as accelerate's convert_outputs_to_fp32, which wraps `forward` under mixed precision.
    """

    def convert(outputs: Any) -> Any:
        if isinstance(outputs, tuple):
            return tuple(each.float() if isinstance(each, torch.Tensor) else each for each in outputs)
        return type(outputs)({
            name: value.float() if getattr(value, "dtype", None) in (torch.float16, torch.bfloat16) else value
            for name, value in outputs.items()
        })  # fmt: skip

    def forward_in_fp32(*args: Any, **kwargs: Any) -> Any:
        return convert(forward(*args, **kwargs))

    return forward_in_fp32


def state_tensors(model: Any, optimizer: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, tensor) of every optimizer state in the order of the parameters."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups if optimizer is not None else ():
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                yield from ((f"{names[parameter]}.{part}", each) for part, each in parts(key, value))


def parts(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, tensor) of what a state consists of: itself, a projector's matrix, what a subclass wraps, a list."""
    if isinstance(value, list):
        for at, each in enumerate(value):
            yield from parts(f"{key}.{at}", each)
    if hasattr(value, "ortho_matrix"):  # GaLore's projector, and what Q-GaLore's has beside its codes
        for name in PROJECTOR:
            yield from parts(f"{key}.{name}", getattr(value, name, None))
        return
    if not isinstance(value, torch.Tensor):
        return
    if not hasattr(value, "__tensor_flatten__"):
        yield key, value
        return
    for inner in value.__tensor_flatten__()[0]:
        yield f"{key}.{inner}", getattr(value, inner)
