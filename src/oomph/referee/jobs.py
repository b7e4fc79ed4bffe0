"""The real job: the transformers class of a config with random weights, torch.optim, one step as a user writes it.

Everything here runs the same on fake and on real tensors, under the tracker or without any. `Watcher` hears where the
job is; local variables are few on purpose, because what they hold stays in memory.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import torch

from oomph.errors import UnsupportedError
from oomph.job import InferJob, TrainJob
from oomph.optimizer_names import KINDS
from oomph.referee.kernels import installed
from oomph.referee.losses import install
from oomph.referee.meta import clean
from oomph.referee.optimizers import make_optimizer

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
AUTOCAST = "amp-"  # precisions that keep fp32 weights
LARGEST_NORM = 1.0  # no byte depends on it


class Watcher(Protocol):
    """Who follows a job."""

    def mark(self, name: str) -> None:
        """Hear that an instant begins."""

    def ready(self, model: Any, optimizer: Any) -> None:
        """Hear that the step that counts comes next."""

    def backward_done(self, model: Any) -> None:
        """Hear that all gradients are there."""

    def updated(self, optimizer: Any) -> None:
        """Hear that the optimizer has made its step."""


def build(raw: Mapping[str, Any], job: TrainJob | InferJob, device: str = "cpu") -> Any:
    """Return the class of a config, with the head its architectures name, on a device, in train or eval mode.

    Raises UnsupportedError when transformers has no such class. Code that comes with a model is never run.
    """
    import transformers

    model_type = str(raw.get("model_type", ""))
    if model_type not in transformers.CONFIG_MAPPING:
        raise UnsupportedError(f"transformers {transformers.__version__} has no architecture {model_type[:80]!r}.")
    config = transformers.CONFIG_MAPPING[model_type](**clean(dict(raw)))
    auto = getattr(transformers, auto_class(raw))
    if type(config) not in auto._model_mapping:
        raise UnsupportedError(f"transformers has no {auto.__name__} for {model_type[:80]!r}.")
    if isinstance(job, TrainJob) and not job.dropout:
        _without_dropout(config)
    dtype = DTYPES["fp32" if job.precision.startswith(AUTOCAST) else job.precision]
    # None lets a class without SDPA fall back to eager, as from_pretrained does.
    attention = "eager" if job.attention == "eager" else None
    # Left out, grouped_mm is taken by classes that have it.
    experts = {} if job.experts == "grouped_mm" else {"experts_implementation": job.experts}
    with torch.device(device), _sparing(job, device):
        model = auto.from_config(config, dtype=dtype, attn_implementation=attention, trust_remote_code=False, **experts)
    if not isinstance(job, TrainJob):
        return model.eval()
    if job.method != "full" or job.freeze_embeddings or job.freeze_layers:
        from oomph.referee.adapters import adapt

        model = adapt(model, job, device)
    return model.train()


def _sparing(job: TrainJob | InferJob, device: str) -> Any:
    """Return a context in which what will be quantised takes no memory on a GPU."""
    if not isinstance(job, TrainJob) or job.quantization == "none" or device == "cpu":
        return contextlib.nullcontext()
    from oomph.referee.quantised import linear_maps_without_memory

    return linear_maps_without_memory()


HEADS = ("ForSequenceClassification", "ForMaskedLM")
ENCODERS = ("bert", "roberta", "xlm-roberta")  # types whose class fills in masks where the config names none


def auto_class(raw: Mapping[str, Any]) -> str:
    """Return which of transformers' auto classes has the head that a config's `architectures` names.

    >>> auto_class({"architectures": ["BertForSequenceClassification"]}), auto_class({"model_type": "llama"})
    ('AutoModelForSequenceClassification', 'AutoModelForCausalLM')
    """
    named = str(next(iter(raw.get("architectures") or []), ""))
    found = next((head for head in HEADS if named.endswith(head)), "ForCausalLM")
    if not named and raw.get("model_type") in ENCODERS:
        found = "ForMaskedLM"
    return f"AutoModel{found}"


def _without_dropout(config: Any) -> None:
    """Set every dropout rate of a config to 0."""
    for name, value in config.to_dict().items():
        if ("dropout" in name or "pdrop" in name) and isinstance(value, float):
            setattr(config, name, 0.0)


def decoder_layers(model: Any) -> list[Any]:
    """Return the model's decoder layers: its longest list of layers that can be checkpointed, else of any modules."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    lists = [list(module) for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    layers = [each for each in lists if isinstance(each[0], GradientCheckpointingLayer)]
    return max(layers or lists, key=len, default=[])


def train(model: Any, job: TrainJob, watcher: Watcher, warm_up: bool | None = None) -> None:
    """Make one optimizer step that counts, after another one if `warm_up` (None: if that leaves anything behind).

    Inputs are made where the model is.
    """
    if job.packing and "position_ids" not in inspect.signature(unwrapped(model).forward).parameters:
        raise UnsupportedError(f"{type(model).__name__} takes no position ids.", "Leave out packing.")
    _checkpoint(model, job)
    install(model, job.loss)
    if job.fp32_outputs:
        model.forward = returning_fp32(model.forward)
    optimizer = make_optimizer(job, model)
    kept: list[Any] = []  # what the caller's variable holds from one forward pass to the next
    with installed(model, job.kernels):
        if has_warm_up(job) or (job.steady and _remembers(model)) if warm_up is None else warm_up:
            _step(model, job, optimizer, watcher, kept)
        watcher.ready(model, optimizer)
        _step(model, job, optimizer, watcher, kept)


def unwrapped(model: Any) -> Any:
    """Return transformers' own model inside PEFT's."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def has_warm_up(job: TrainJob) -> bool:
    """Say whether a steady step differs from the first: it leaves optimizer states, gradients or outputs behind."""
    has_state = job.optimizer in KINDS and KINDS[job.optimizer].has_state
    return job.steady and (has_state or job.leaves_gradients or job.keep_outputs)


def _remembers(model: Any) -> bool:
    """Say whether a forward pass leaves something behind: LongRoPE's frequencies for long sequences."""
    return any(getattr(module, "rope_type", "") == "longrope" for module in model.modules())


def _checkpoint(model: Any, job: TrainJob) -> None:
    """Turn gradient checkpointing on for layers 0, n, 2n, ..."""
    if job.checkpointing == "none":
        return
    reentrant = job.checkpointing == "reentrant"
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    for index, layer in enumerate(decoder_layers(model)):
        if index % job.checkpoint_every:
            layer.gradient_checkpointing = False


def _step(model: Any, job: TrainJob, optimizer: Any, watcher: Watcher, kept: list[Any]) -> None:
    zero_grad = partial((optimizer or model).zero_grad, set_to_none=job.set_to_none)
    if job.zero_grad == "before-forward":
        watcher.mark("zero_grad")
        zero_grad()
    for index in range(job.accumulation):
        _micro_batch(
            model, job, watcher, kept, zero_grad if index == 0 and job.zero_grad == "before-backward" else None
        )
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
    model: Any, job: TrainJob, watcher: Watcher, kept: list[Any], zero_grad: Callable[[], None] | None
) -> None:
    """Run forward and backward of one micro-batch; its inputs and outputs die at the end, outputs first.

    Outputs that are kept die when the next ones take their place.
    """
    watcher.mark("forward")
    inputs = _inputs(model, job.batch, job.seq_len, job.seq_len if job.padding else 0)
    if job.packing:
        inputs["position_ids"] = _two_in_a_row(job, model.device)
    classifies = type(model).__name__.endswith("ForSequenceClassification")
    shape = (job.batch,) if classifies else (job.batch, job.seq_len)
    inputs["labels"] = torch.zeros(shape, dtype=torch.long, device=model.device)
    given = {name: each for name, each in inputs.items() if job.loss != "mean" or name != "labels"}
    with _autocast(job, model.device.type):
        outputs = model(**given, use_cache=job.use_cache)
        loss = outputs.logits.mean() if job.loss == "mean" else outputs.loss
        if job.keep_outputs:
            kept[:] = [outputs]
    del given
    if job.accumulation > 1:
        loss = loss / job.accumulation
    if not job.hold_logits:
        del outputs
    if zero_grad is not None:
        watcher.mark("zero_grad")
        zero_grad()
    watcher.mark("backward")
    loss.backward()
    if job.hold_logits:
        del outputs
    del loss
    inputs.clear()


def _inputs(model: Any, batch: int, length: int, masked: int) -> dict[str, Any]:
    """Return token ids [batch, length] int64 and a mask [batch, masked] int64, if any, whose first column is 0.

    The ids are random: what a CUDA embedding's backward takes grows with how many different ones there are.
    """
    device, vocab = model.device, model.config.get_text_config().vocab_size
    inputs = {"input_ids": torch.randint(vocab, (batch, length), device=device)}
    if masked:
        inputs["attention_mask"] = torch.ones(batch, masked, dtype=torch.long, device=device)
        inputs["attention_mask"][:, :1].zero_()
    return inputs


def _two_in_a_row(job: TrainJob, device: Any) -> torch.Tensor:
    """Return position ids [batch, seq_len] int64 of two sequences in each row, the second as long or one shorter.

    Made in place, so that nothing else is allocated.
    """
    first = (job.seq_len + 1) // 2
    counted = torch.ones(job.batch, job.seq_len, dtype=torch.long, device=device).cumsum_(1)
    return counted.sub_(1).remainder_(first)


def _autocast(job: TrainJob, device_type: str) -> Any:
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


def infer(model: Any, job: InferJob, watcher: Watcher, warm_up: bool = False) -> None:
    """Run a prefill and `decode` single tokens after it; of each pass only the cache stays.

    `warm_up` asks for the same once before, whose cache is dropped.
    """
    with torch.no_grad():
        if warm_up:
            _prefill_and_decode(model, job, watcher)
        watcher.ready(model, None)
        _prefill_and_decode(model, job, watcher)


def _prefill_and_decode(model: Any, job: InferJob, watcher: Watcher) -> None:
    watcher.mark("prefill")
    cache = _pass(model, job, job.seq_len, job.seq_len, _empty_cache(model, job))
    for index in range(1, job.decode + 1):
        watcher.mark(f"decode {index}")
        seen = job.seq_len + index
        cache = _pass(model, job, seen if job.cache == "none" else 1, seen, cache)
    watcher.mark("end")


def _empty_cache(model: Any, job: InferJob) -> Any:
    """Return a static cache (its tensors are made at its first use) or None: forward makes a dynamic one itself."""
    from transformers import StaticCache

    if job.cache != "static":
        return None
    return StaticCache(config=model.config, max_cache_len=job.max_cache_len or job.seq_len + job.decode)


def _pass(model: Any, job: InferJob, new: int, seen: int, cache: Any) -> Any:
    """Run `new` tokens of `seen`, return the cache. The mask, when there is one, covers all tokens seen."""
    inputs = _inputs(model, job.batch, new, seen if job.padding else 0)
    takes = inspect.signature(model.forward).parameters
    name = "past_key_values" if "past_key_values" in takes else "cache_params"  # Mamba's word
    options = {name: cache, "use_cache": job.cache != "none"}
    if job.logits_to_keep and "logits_to_keep" in takes:
        options["logits_to_keep"] = job.logits_to_keep
    outputs = model(**inputs, **options)
    return outputs.get(name) if job.cache != "none" else None


def state_tensors(model: Any, optimizer: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, tensor) of every optimizer state in the order of the parameters."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups if optimizer is not None else ():
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                value = getattr(value, "ortho_matrix", value)  # GaLore's projector
                if isinstance(value, torch.Tensor):
                    yield f"{names[parameter]}.{key}", value
