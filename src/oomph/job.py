"""What is done with a model: one training step or one inference pass, every input that moves gigabytes spelled out.

A job is the same for the estimate (symbolic tape), the trace (real code without memory) and the measurement (a real
GPU), so that the three can be held against each other. Defaults are printed with every answer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Literal, get_args, get_type_hints

from oomph.errors import UsageError, close_matches

Precision = Literal[
    "bf16",  # weights, gradients and optimizer states in bf16
    "fp16",
    "fp32",
    "amp-bf16",  # fp32 weights under autocast to bf16, with its cache of cast weights
    "amp-fp16",
]
Kernel = Literal["flash", "efficient", "cudnn", "math", "eager"]
Experts = Literal[
    "grouped_mm",  # one product for all experts; what transformers takes unless told otherwise
    "eager",  # a loop over the experts that were hit
    "batched_mm",  # a copy of its expert's weights for every token
]
Routing = Literal["balanced", "worst"]
Checkpointing = Literal["none", "reentrant", "non-reentrant"]
OptimizerName = Literal["adamw", "sgd", "sgd-momentum", "none"]
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
    `experts`: in which form a mixture computes its experts; `routing`: how tokens are spread over them, evenly or all
    to the same ones, which changes bytes in the eager form only.
    `zero_grad`: where gradients are zeroed, or freed with `set_to_none`; of several micro-batches in the first one.
    """

    batch: int = 1
    seq_len: int = 2048
    precision: Precision = "bf16"
    attention: Kernel = "flash"
    experts: Experts = "grouped_mm"
    routing: Routing = "balanced"
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
    steady: bool = True
    set_to_none: bool = True
    zero_grad: ZeroGrad = "after-step"

    def __post_init__(self) -> None:
        check(self)

    @property
    def leaves_gradients(self) -> bool:
        """Say whether gradients of one step are still there when the next begins."""
        return not self.set_to_none or self.zero_grad != "after-step"


@dataclass(frozen=True)
class InferJob:
    """One forward pass without gradients: a prefill of `seq_len` tokens, or `decode` single tokens after it.

    `cache`: none, dynamic (grows by concatenation) or static (`max_cache_len` tokens allocated at once; 0 means
    seq_len + decode). `experts` and `routing` as in TrainJob; generate() decodes with batched_mm where grouped_mm is
    asked for. `logits_to_keep` 0 keeps the logits of every token, 1 only the last one's.
    """

    batch: int = 1
    seq_len: int = 2048
    decode: int = 0
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    attention: Kernel = "flash"
    experts: Experts = "grouped_mm"
    routing: Routing = "balanced"
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


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def describe(job: TrainJob | InferJob) -> dict[str, Any]:
    """Return every input with its value, in the order of the fields."""
    return {field.name: getattr(job, field.name) for field in fields(job)}
