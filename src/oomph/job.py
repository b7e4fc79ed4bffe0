"""What is done with a model: one training step or one inference pass, every input that moves gigabytes spelled out.

A job is the same for the estimate (symbolic tape), the trace (real code without memory) and the measurement (a real
GPU), so that the three can be held against each other. Defaults are printed with every answer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Literal, get_args, get_type_hints

from oomph.errors import UsageError, close_matches
from oomph.optimizer_names import KINDS

Precision = Literal[
    "bf16",  # weights, gradients and optimizer states in bf16
    "fp16",
    "fp32",
    "amp-bf16",  # fp32 weights under autocast to bf16, with its cache of cast weights
    "amp-fp16",
]
Kernel = Literal["flash", "efficient", "cudnn", "math", "eager"]
Checkpointing = Literal["none", "reentrant", "non-reentrant"]
OptimizerName = Literal[
    "adamw", "adamw_torch", "adamw_torch_fused", "adamw-amsgrad", "sgd", "sgd-momentum", "rmsprop", "adagrad",
    "adafactor", "adamw_8bit", "adamw_bnb_8bit", "adamw_bnb_32bit", "paged_adamw_8bit", "paged_adamw_32bit",
    "lion_8bit", "lion_32bit", "paged_lion_8bit", "paged_lion_32bit", "rmsprop_bnb", "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit", "ademamix", "ademamix_8bit", "paged_ademamix_8bit", "paged_ademamix_32bit", "galore_adamw",
    "galore_adamw_layerwise", "muon", "none",
]  # fmt: skip
Implementation = Literal["foreach", "fused", "loop"]
ZeroGrad = Literal["after-step", "before-forward", "before-backward"]


@dataclass(frozen=True)
class TrainJob:
    """One optimizer step of causal language-model training on one GPU.

    `batch` and `seq_len` are of one micro-batch, in sequences and tokens. `steady` asks for a later step, when
    optimizer states exist; otherwise the first. `hold_logits`: the caller keeps the model's output through the
    backward pass, as `outputs = model(...); outputs.loss.backward()` does. `keep_outputs`: that variable outlives the
    step, as in a loop written out in one function, until the next forward pass gives it another value.
    `fp32_outputs`: accelerate's wrapper, which returns logits as fp32 copies. `padding`: the batch carries a padding
    mask, which disables flash. `packing`: each row holds several sequences one behind the other, told apart by position
    ids that the caller passes instead of a mask; transformers then builds a mask itself, unless there is a cache.
    `optimizer` is a name of oomph.optimizer_names; `implementation` is torch.optim's way through the parameters, others
    have one way of their own. `embedding_32bit`: 8-bit optimizers of bitsandbytes keep fp32 states for embeddings, as
    the HF Trainer asks them to.
    `optimizer_in_backward`: each parameter has its own optimizer, which steps and frees the gradient as soon as it is
    there (a post-accumulate-grad hook). `optim_rank`: of the projections of GaLore, which a step computes anew if it is
    the first, or with `update_projection` (one in 200 by default).
    `zero_grad`: where gradients are zeroed, or freed with `set_to_none`; of several micro-batches in the first one.
    """

    batch: int = 1
    seq_len: int = 2048
    precision: Precision = "bf16"
    attention: Kernel = "flash"
    padding: bool = False
    packing: bool = False
    dropout: bool = True  # as the config says; False sets every rate to 0
    checkpointing: Checkpointing = "none"
    checkpoint_every: int = 1
    use_cache: bool = False
    hold_logits: bool = True
    keep_outputs: bool = False
    fp32_outputs: bool = False
    accumulation: int = 1
    clip_gradients: bool = False
    optimizer: OptimizerName = "adamw"
    implementation: Implementation = "foreach"
    embedding_32bit: bool = True
    optimizer_in_backward: bool = False
    optim_rank: int = 128
    update_projection: bool = False
    steady: bool = True
    set_to_none: bool = True
    zero_grad: ZeroGrad = "after-step"

    def __post_init__(self) -> None:
        check(self)
        if self.optimizer in KINDS and KINDS[self.optimizer].in_backward:
            object.__setattr__(self, "optimizer_in_backward", True)
        _check_in_backward(self)
        object.__setattr__(self, "implementation", _implementation(self.optimizer, self.implementation))

    @property
    def leaves_gradients(self) -> bool:
        """Say whether gradients of one step are still there when the next begins."""
        return not self.set_to_none or (self.zero_grad != "after-step" and not self.optimizer_in_backward)


@dataclass(frozen=True)
class InferJob:
    """One forward pass without gradients: a prefill of `seq_len` tokens, or `decode` single tokens after it.

    `cache`: none, dynamic (grows by concatenation) or static (`max_cache_len` tokens allocated at once; 0 means
    seq_len + decode). `logits_to_keep` 0 keeps the logits of every token, 1 only the last one's.
    """

    batch: int = 1
    seq_len: int = 2048
    decode: int = 0
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    attention: Kernel = "flash"
    padding: bool = False
    cache: Literal["none", "dynamic", "static"] = "dynamic"
    max_cache_len: int = 0
    logits_to_keep: int = 1

    def __post_init__(self) -> None:
        check(self)


REPEATED = 3  # micro-batches from which on each does what the one before did


def shortened(job: TrainJob | InferJob) -> TrainJob | InferJob:
    """Return a job with no more micro-batches than tell what all of them do: heights repeat from the second on.

    >>> shortened(TrainJob(accumulation=64)).accumulation
    3
    """
    if isinstance(job, TrainJob) and job.accumulation > REPEATED:
        return replace(job, accumulation=REPEATED)
    return job


MOST = 2**31  # tokens, sequences or micro-batches beyond which a number is a slip of the keyboard


def check(job: TrainJob | InferJob) -> None:
    """Refuse values that no job could have, with close matches for misspelt ones."""
    kind: Any = type(job)
    hints = _hints(kind)
    for field in fields(job):
        value, choices = getattr(job, field.name), get_args(hints[field.name])
        if choices and value not in choices:
            hint = close_matches(str(value), choices) or f"Choose one of {', '.join(map(str, choices))}."
            raise UsageError(f"{field.name} cannot be {value!r}.", hint)
        low = 0 if field.name in ("decode", "max_cache_len", "logits_to_keep") else 1
        if hints[field.name] is int and not low <= value <= MOST:
            raise UsageError(f"{field.name} cannot be {value}.", f"Give a whole number of at least {low}.")
    if isinstance(job, TrainJob) and job.padding and job.packing:
        fix = "Leave one out: transformers looks for packed sequences only where there is no mask."
        raise UsageError("A batch has a padding mask or packed sequences, not both.", fix)


def _implementation(optimizer: str, asked: str) -> str:
    """Return the way an optimizer goes through the parameters; refuses one that it does not have."""
    kind = KINDS.get(optimizer)
    ways = kind.implementations if kind is not None else ()
    if asked in ways or ((kind is None or asked == TrainJob.implementation) and len(ways) != 1):
        return asked
    if asked == TrainJob.implementation:
        return ways[0]
    fix = f"It has {' and '.join(ways)}." if ways else "Leave it out: this optimizer has one way of its own."
    raise UsageError(f"{optimizer} has no implementation {asked!r}.", fix)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _check_in_backward(job: TrainJob) -> None:
    """Refuse what needs all gradients at once where each is gone before the next is there."""
    if not job.optimizer_in_backward:
        return
    for wrong, what in (
        (job.optimizer == "none", "no optimizer"),
        (job.optimizer == "muon", "Muon, which leaves other parameters to a second optimizer"),
        (job.accumulation > 1, "gradient accumulation"),
        (job.clip_gradients, "clipping"),
        (not job.set_to_none, "gradients that are kept"),
    ):
        if wrong:
            raise UsageError(f"An optimizer in backward does not go with {what}.", "Leave one of the two out.")


def describe(job: TrainJob | InferJob) -> dict[str, Any]:
    """Return every input with its value, in the order of the fields."""
    return {field.name: getattr(job, field.name) for field in fields(job)}
