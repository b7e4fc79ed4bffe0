"""The real job: a model, torch.optim, one step as a user writes it.

Everything here runs the same on fake and on real tensors, under the tracker or without any. `Watcher` hears where the
job is; local variables are few on purpose, because what they hold stays in memory.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch

from oomph.errors import UnsupportedError
from oomph.job import InferJob, TrainJob
from oomph.job_words import OF_PROMPTS
from oomph.optimizer_names import KINDS
from oomph.referee import activation_offload, beams, lookup
from oomph.referee.adapters import switch_layers
from oomph.referee.assistant import Assistant
from oomph.referee.caches import empty_cache
from oomph.referee.kernels import installed
from oomph.referee.losses import IGNORED, install, unwrapped
from oomph.referee.models import AUTOCAST, DTYPES, layer_lists
from oomph.referee.optimizers import make_optimizer
from oomph.referee.selective import selective_contexts
from oomph.tape.selective import words_of

LARGEST_NORM = 1.0  # no byte depends on it
OF_BITSANDBYTES = ("Linear4bit", "Linear8bitLt")


class Watcher(Protocol):
    """Who follows a job."""

    def mark(self, name: str) -> None:
        """Hear that an instant begins."""

    def ready(self, model: Any, optimizer: Any, reference: Any = None) -> None:
        """Hear that the step that counts comes next."""

    def passing(self, work: str) -> None:
        """Hear that a forward pass of an objective begins ("forward", "reference" ...) or is over ("objective")."""

    def backward_done(self, model: Any) -> None:
        """Hear that all gradients are there."""

    def updated(self, optimizer: Any) -> None:
        """Hear that the optimizer has made its step."""


def scored(job: TrainJob | InferJob) -> int | None:
    """Return how many tokens of a sequence are scored, for code that asks where they are; None: all that it sees."""
    if not isinstance(job, TrainJob) or job.loss not in OF_PROMPTS:
        return None
    return job.seq_len - max(1, job.prompt_len)


def read_number(job: TrainJob | InferJob) -> int:
    """Return what integers answer that the code of a job reads: how many tokens chunked_nll goes through, else 1."""
    if not isinstance(job, TrainJob) or job.loss != "chunked-nll":
        return 1
    from oomph.referee.trl import CHUNK

    return -(-job.batch * (scored(job) or 0) // CHUNK) * CHUNK


def train(model: Any, job: TrainJob, watcher: Watcher, warm_up: bool | None = None, reference: Any = None) -> None:
    """Make one optimizer step that counts, after another one if `warm_up` (None: if that leaves anything behind).

    Inputs are made where the model is, as the reference is where the objective needs one.
    """
    if job.packing and "position_ids" not in inspect.signature(unwrapped(model).forward).parameters:
        raise UnsupportedError(f"{type(model).__name__} takes no position ids.", "Leave out packing.")
    with _checkpointed(model, job):
        _train(model, job, watcher, warm_up, reference)


def _train(model: Any, job: TrainJob, watcher: Watcher, warm_up: bool | None, reference: Any) -> None:
    trainer = _prepared(model, reference, job, watcher)
    optimizer = make_optimizer(job, model)
    kept: list[Any] = []  # what the caller's variable holds from one forward pass to the next
    with installed(model, job.kernels), activation_offload.installed(model, job) as offloading:
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
    from oomph.referee import trl

    made = trl.trainer(job, model, reference)
    for each in (model, reference):
        if each is not None:
            forward = _under_autocast(each.forward, job, model.device.type)
            each.forward = _announced(forward, watcher, partial(_work, each, reference))
    return made


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
    are ahead of tokens where there are images, the dtype that bitsandbytes gives a bias.
    """
    return any(
        getattr(module, "rope_type", "") == "longrope"
        or (job.images and hasattr(module, "rope_deltas"))
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
        from oomph.referee import trl

        inputs = trl.inputs(job, model)
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


def _labelled(model: Any, job: TrainJob) -> dict[str, Any]:
    """Return a batch with labels, of which the prompt's are ignored."""
    inputs = _inputs(model, job.batch, job.seq_len, job.seq_len if job.padding else 0)
    if job.packing:
        inputs["position_ids"] = _two_in_a_row(job, model.device)
    inputs["labels"] = _labels(model, job)
    if job.prompt_len and inputs["labels"].dim() > 1:
        inputs["labels"][:, : job.prompt_len].fill_(IGNORED)
    if job.images:
        from oomph.referee.images import add_images

        add_images(inputs, unwrapped(model), job)
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


def _inputs(model: Any, batch: int, length: int, masked: int) -> dict[str, Any]:
    """Return token ids [batch, length] int64 and a mask [batch, masked] int64, if any, whose first column is 0.

    The ids are random: what a CUDA embedding's backward takes grows with how many different ones there are.
    """
    device, vocab = model.device, model.config.get_text_config().vocab_size
    if unwrapped(model).main_input_name == "input_features":
        return {"input_features": _features(model, batch)}
    return {"input_ids": torch.randint(vocab, (batch, length), device=device), **_mask(model, batch, masked)}


def _mask(model: Any, batch: int, masked: int) -> dict[str, Any]:
    """Return a mask [batch, masked] int64 whose first column is 0, if any."""
    if not masked:
        return {}
    made = torch.ones(batch, masked, dtype=torch.long, device=model.device)
    made[:, :1].zero_()
    return {"attention_mask": made}


def _features(model: Any, batch: int) -> torch.Tensor:
    """Return a spectrogram [batch, mels, frames] in the weights' dtype, as long as the processor makes all of them."""
    encoder = unwrapped(model).get_encoder()
    frames = model.config.max_source_positions * encoder.conv1.stride[0] * encoder.conv2.stride[0]
    return torch.randn(batch, model.config.num_mel_bins, frames, dtype=model.dtype, device=model.device)


def _labels(model: Any, job: TrainJob) -> torch.Tensor:
    """Return int64 labels of tokens [batch, seq_len] or sequences [batch]; of a classifier of one label numbers, in
    the weights' dtype: backward refuses another one.
    """
    classifies = type(unwrapped(model)).__name__.endswith("ForSequenceClassification")
    shape = (job.batch,) if classifies else (job.batch, job.target_len or job.seq_len)
    numbers = classifies and model.config.num_labels == 1
    return torch.zeros(shape, dtype=model.dtype if numbers else torch.long, device=model.device)


def _two_in_a_row(job: TrainJob, device: Any) -> torch.Tensor:
    """Return position ids [batch, seq_len] int64 of two sequences in each row, the second as long or one shorter.

    Made in place, so that nothing else is allocated.
    """
    first = (job.seq_len + 1) // 2
    counted = torch.ones(job.batch, job.seq_len, dtype=torch.long, device=device).cumsum_(1)
    return counted.sub_(1).remainder_(first)


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
        return type(outputs)({
            name: value.float() if getattr(value, "dtype", None) in (torch.float16, torch.bfloat16) else value
            for name, value in outputs.items()
        })  # fmt: skip

    def forward_in_fp32(*args: Any, **kwargs: Any) -> Any:
        return convert(forward(*args, **kwargs))

    return forward_in_fp32


def infer(model: Any, job: InferJob, watcher: Watcher, warm_up: bool = False, assistant: Any = None) -> None:
    """Run a prefill and `decode` single tokens after it; of each pass only the cache stays.

    `warm_up` asks for the same once before, whose cache is dropped.
    """
    with torch.no_grad():
        if warm_up:
            _prefill_and_decode(model, job, watcher, assistant)
        watcher.ready(model, None, assistant)
        _prefill_and_decode(model, job, watcher, assistant)


def _prefill_and_decode(model: Any, job: InferJob, watcher: Watcher, assistant: Any) -> None:
    if getattr(model.config, "is_encoder_decoder", False):
        return _encode_and_decode(model, job, watcher)
    if job.beams > 1 or job.candidates:
        return _search(model, job, watcher, assistant)
    watcher.mark("prefill")
    cache = _pass(model, job, job.seq_len, job.seq_len, empty_cache(model, job))
    for index in range(1, job.decode + 1):
        watcher.mark(f"decode {index}")
        seen = job.seq_len + index
        cache = _pass(model, job, seen if job.cache == "none" else 1, seen, cache)
    watcher.mark("end")
    return None


def _encode_and_decode(model: Any, job: InferJob, watcher: Watcher) -> None:
    """Run an encoder on `seq_len` tokens, then the decoder on its first token and `decode` more; what the encoder gave
    stays, as in `generate`.
    """
    watcher.mark("prefill")
    encoded, mask = _encoded(model, job)
    if job.beams > 1:
        return _encoded_search(model, job, watcher, encoded, mask)
    cache = _decoder_pass(model, job, encoded, mask, 1, None)
    for index in range(1, job.decode + 1):
        watcher.mark(f"decode {index}")
        cache = _decoder_pass(model, job, encoded, mask, index + 1 if job.cache == "none" else 1, cache)
    watcher.mark("end")
    return None


def _encoded_search(model: Any, job: InferJob, watcher: Watcher, encoded: Any, mask: Any) -> None:
    """Search with beams over what an encoder gave, which is there once for each beam from then on."""
    encoded["last_hidden_state"] = encoded.last_hidden_state.repeat_interleave(job.beams, dim=0)
    if mask is not None:
        mask = mask.repeat_interleave(job.beams, dim=0)

    def run(ids: Any, seen: int, cache: Any) -> Any:
        return _decoded(model, job, encoded, mask, ids, cache)

    prompt = torch.zeros((job.batch, 1), dtype=torch.long, device=model.device)
    beams.search(model, job, watcher.mark, run, prompt, None)


def _encoded(model: Any, job: InferJob) -> tuple[Any, Any]:
    """Return what the encoder makes of its input, and the mask that the decoder sees it through."""
    inputs = _inputs(model, job.batch, job.seq_len, job.seq_len if job.padding else 0)
    return model.get_encoder()(**inputs), inputs.get("attention_mask")


def _decoder_pass(model: Any, job: InferJob, encoded: Any, mask: Any, new: int, cache: Any) -> Any:
    """Run the decoder on `new` tokens, return the cache."""
    ids = torch.zeros((job.batch, new), dtype=torch.long, device=model.device)
    outputs = _decoded(model, job, encoded, mask, ids, cache)
    return outputs.past_key_values if job.cache != "none" else None


def _decoded(model: Any, job: InferJob, encoded: Any, mask: Any, ids: Any, cache: Any) -> Any:
    options = {"encoder_outputs": encoded, "past_key_values": cache, "use_cache": job.cache != "none"}
    if mask is not None:
        options["attention_mask"] = mask
    return model(decoder_input_ids=ids, **options)


def _search(model: Any, job: InferJob, watcher: Watcher, assistant: Any) -> None:
    """Search with beams, or look candidates up, over prompts that the caller holds."""

    def run(ids: Any, seen: int, cache: Any) -> Any:
        return _outputs(model, job, {"input_ids": ids, **_mask(model, ids.shape[0], seen if job.padding else 0)}, cache)

    watcher.mark("prefill")
    if job.candidates:
        job = replace(job, logits_to_keep=job.candidates + 1)
    prompt = _inputs(model, job.batch, job.seq_len, 0)["input_ids"]
    if job.candidates:
        drafts = Assistant(assistant, job) if assistant is not None else None
        lookup.write(job, watcher.mark, run, prompt, empty_cache(model, job), drafts)
    else:
        beams.search(model, job, watcher.mark, run, prompt, empty_cache(model, job))


def _pass(model: Any, job: InferJob, new: int, seen: int, cache: Any) -> Any:
    """Run `new` tokens of `seen`, return the cache. The mask, when there is one, covers all tokens seen."""
    inputs = _inputs(model, job.batch, new, seen if job.padding else 0)
    if job.images and not seen - new:
        from oomph.referee.images import add_images

        add_images(inputs, model, job)
    outputs = _outputs(model, job, inputs, cache)
    return outputs.get(_cache_word(model)) if job.cache != "none" else None


def _outputs(model: Any, job: InferJob, inputs: dict[str, Any], cache: Any) -> Any:
    options = {_cache_word(model): cache, "use_cache": job.cache != "none"}
    if job.logits_to_keep and "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = job.logits_to_keep
    return model(**inputs, **options)


def _cache_word(model: Any) -> str:
    """Return what a model calls its cache; cache_params is Mamba's word."""
    takes = inspect.signature(model.forward).parameters
    return "past_key_values" if "past_key_values" in takes else "cache_params"


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
    value = getattr(value, "ortho_matrix", value)  # GaLore's projector
    if not isinstance(value, torch.Tensor):
        return
    if not hasattr(value, "__tensor_flatten__"):
        yield key, value
        return
    for inner in value.__tensor_flatten__()[0]:
        yield f"{key}.{inner}", getattr(value, inner)
