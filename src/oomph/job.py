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
Kernels = Literal[
    "torch",  # none but torch's own
    "liger",  # Liger's norms, rotary embeddings and gated activations
    "foak",  # fms-acceleration's: Unsloth's norms and rotary embeddings
    "unsloth",  # Unsloth's own: adapters are computed with the maps beneath them
]
Experts = Literal[
    "grouped_mm",  # one product for all experts; what transformers takes unless told otherwise
    "eager",  # a loop over the experts that were hit
    "batched_mm",  # a copy of its expert's weights for every token
]
Routing = Literal["balanced", "worst"]
Checkpointing = Literal["none", "reentrant", "non-reentrant"]
OptimizerName = Literal[
    "adamw", "adamw_torch", "adamw_torch_fused", "adamw-amsgrad", "sgd", "sgd-momentum", "rmsprop", "adagrad",
    "adafactor", "adamw_8bit", "adamw_bnb_8bit", "adamw_bnb_32bit", "paged_adamw_8bit", "paged_adamw_32bit",
    "lion_8bit", "lion_32bit", "paged_lion_8bit", "paged_lion_32bit", "rmsprop_bnb", "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit", "ademamix", "ademamix_8bit", "paged_ademamix_8bit", "paged_ademamix_32bit", "galore_adamw",
    "galore_adamw_layerwise", "muon", "none",
]  # fmt: skip
Implementation = Literal["foreach", "fused", "loop"]
Loss = Literal[
    "hf",  # transformers' own, of logits in fp32
    "hf-4.46",  # as it was from 4.46 to 4.49: shifted fp32 logits are one more copy
    "hf-4.45",  # up to 4.45: the model's logits are fp32, and shifted ones a copy
    "shifted",  # logits shifted in their own dtype: models with code of their own
    "mean",  # of fp32 logits, as profiling scripts take it
    "fused",  # Unsloth's kernel in transformers 4.46 to 4.49, as fms-acceleration puts it
    "fused-4.45",  # the same up to 4.45
    "fused-shifted",  # the same of logits in their own dtype
    "liger",  # Liger's fused linear cross entropy
    "liger-fms",  # the same of 2024, as fms-acceleration carries it
    "cut",  # Apple's cut cross entropy
    "torchtune",  # logits in 8 chunks, cast to fp32 chunk by chunk
    "litgpt",  # 128 tokens at a time, in the logits' own dtype
]
ZeroGrad = Literal["after-step", "before-forward", "before-backward"]
Method = Literal[
    "full",
    "lora",
    "qlora",  # lora on an nf4 base with double quantisation, prepared as PEFT does, all linear maps
    "bitfit",  # biases alone
    "ln-tuning",  # copies of norms
]
AdapterDtype = Literal["fp32", "base"]
Quantization = Literal["none", "nf4", "nf4-dq", "fp4", "fp4-dq"]  # of a frozen base; the names of formats
RANKED = frozenset({"lora", "qlora"})  # methods that have a rank
# What a method stands for, where the field has its default.
PRESETS: dict[str, dict[str, Any]] = {
    "qlora": {"quantization": "nf4-dq", "kbit_preparation": True, "targets": "all-linear"},
}


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
    `optimizer` is a name of oomph.optimizer_names; `implementation` is torch.optim's way through the parameters, others
    have one way of their own. `embedding_32bit`: 8-bit optimizers of bitsandbytes keep fp32 states for embeddings, as
    the HF Trainer asks them to.
    `optimizer_in_backward`: each parameter has its own optimizer, which steps and frees the gradient as soon as it is
    there (a post-accumulate-grad hook). `optim_rank`: of the projections of GaLore, which a step computes anew if it is
    the first, or with `update_projection` (one in 200 by default).
    `kernels`: whose fused kernels are put into the model, of norms, rotary embeddings and activations; `loss` is apart.
    `autocast`: 16-bit weights under autocast too, as accelerate's mixed precision over them: adapters in fp32 are cast,
    losses upcast. `loss`: what follows the last hidden state.
    `zero_grad`: where gradients are zeroed, or freed with `set_to_none`; of several micro-batches in the first one.

    `method` is how PEFT wraps the model, and what trains. `rank` is the adapters'; `targets` the maps that get one:
    names with commas between them, "all-linear", or "default", which is PEFT's choice for the model. `adapter_dropout`
    is the rate on an adapter's input; `adapter_dtype` fp32 is what PEFT's autocast_adapter_dtype does. `quantization`
    is bitsandbytes' of a frozen base; `kbit_preparation` PEFT's prepare_model_for_kbit_training, which keeps all else
    in fp32; with `narrow_tables` embedding and head are cast back, as TRL does; qlora sets the first three as its paper
    does, lora with them spelled out is free to differ. `keeps_4bit_inputs`: bitsandbytes up to 0.42, which kept what
    goes into a quantised map as long as the graph. `modules_to_save` are modules of which a copy trains.
    `freeze_embeddings` and `freeze_layers` freeze parts in full fine-tuning: the tables of tokens and positions, the
    first so many layers.
    """

    batch: int = 1
    seq_len: int = 2048
    precision: Precision = "bf16"
    attention: Kernel = "flash"
    kernels: Kernels = "torch"
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
    autocast: bool = False
    loss: Loss = "hf"
    experts: Experts = "grouped_mm"
    routing: Routing = "balanced"
    embedding_32bit: bool = True
    optimizer_in_backward: bool = False
    optim_rank: int = 128
    update_projection: bool = False
    method: Method = "full"
    rank: int = 8
    targets: str = "default"
    adapter_dropout: float = 0.0
    adapter_dtype: AdapterDtype = "fp32"
    quantization: Quantization = "none"
    kbit_preparation: bool = False
    modules_to_save: str = ""
    freeze_embeddings: bool = False
    freeze_layers: int = 0
    narrow_tables: bool = False
    keeps_4bit_inputs: bool = False

    def __post_init__(self) -> None:
        check(self)
        for name, value in PRESETS.get(self.method, {}).items():
            if name == "kbit_preparation" and self.kernels == "unsloth":
                continue  # it prepares a base itself and keeps norms as they are
            if getattr(self, name) == DEFAULTS[name]:
                object.__setattr__(self, name, value)
        if self.optimizer in KINDS and KINDS[self.optimizer].in_backward:
            object.__setattr__(self, "optimizer_in_backward", True)
        _check_in_backward(self)
        object.__setattr__(self, "implementation", _implementation(self.optimizer, self.implementation))

    @property
    def weight_dtype(self) -> str:
        """The dtype that weights are kept in unless a method says otherwise: fp32 under autocast."""
        return "fp32" if self.precision.startswith("amp-") else self.precision

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the fields that are sizes."""
        return ("batch", "seq_len", "rank") if self.method in RANKED else ("batch", "seq_len")

    @property
    def leaves_gradients(self) -> bool:
        """Say whether gradients of one step are still there when the next begins."""
        return not self.set_to_none or (self.zero_grad != "after-step" and not self.optimizer_in_backward)


DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(TrainJob)}


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
    padding: bool = False
    cache: Literal["none", "dynamic", "static"] = "dynamic"
    max_cache_len: int = 0
    logits_to_keep: int = 1
    experts: Experts = "grouped_mm"
    routing: Routing = "balanced"

    def __post_init__(self) -> None:
        check(self)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the fields that are sizes."""
        return ("batch", "seq_len", "max_cache_len")


REPEATED = 3  # micro-batches from which on each does what the one before did


def shortened(job: TrainJob | InferJob) -> TrainJob | InferJob:
    """Return a job with no more micro-batches than tell what all of them do: heights repeat from the second on.

    >>> shortened(TrainJob(accumulation=64)).accumulation
    3
    """
    if isinstance(job, TrainJob) and job.accumulation > REPEATED:
        return replace(job, accumulation=REPEATED)
    return job


SIXTEEN_BIT_LOSSES = frozenset({"cut", "liger-fms"})  # whose products fail with, or whose kernels refuse, fp32 weights
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
        low = 0 if field.name in ("decode", "max_cache_len", "logits_to_keep", "freeze_layers") else 1
        if hints[field.name] is int and not low <= value <= MOST:
            raise UsageError(f"{field.name} cannot be {value}.", f"Give a whole number of at least {low}.")
        if hints[field.name] is float and not 0 <= value < 1:
            raise UsageError(f"{field.name} cannot be {value}.", "A rate is at least 0 and less than 1.")
    if isinstance(job, TrainJob):
        _check_training(job)


def _check_training(job: TrainJob) -> None:
    """Refuse what does not go together."""
    if not any(word.strip() for word in job.targets.split(",")):
        raise UsageError("targets names no module.", "Say q_proj,v_proj, all-linear or default.")
    if job.quantization != "none" and job.method == "full":
        raise UsageError("Quantised weights do not train.", "Add --method lora, or leave --quantization out.")
    if job.method != "full" and (job.freeze_embeddings or job.freeze_layers):
        raise UsageError(
            f"{job.method} freezes what it does not train.", "Leave --freeze-... out, or take method full."
        )
    if job.modules_to_save and job.method in ("full", "bitfit"):
        raise UsageError("Copies of modules train beside adapters only.", "Add --method lora.")
    if job.padding and job.packing:
        fix = "Leave one out: transformers looks for packed sequences only where there is no mask."
        raise UsageError("A batch has a padding mask or packed sequences, not both.", fix)
    if job.kernels != "torch" and job.method == "ln-tuning":
        raise UsageError("Fused norms know nothing of PEFT's copies of norms.", "Leave one of the two out.")
    if job.kernels == "unsloth":
        _check_unsloth(job)
    if job.kernels == "foak" and job.packing and job.batch > 1:
        fix = "Take batch 1, as padding-free collators do, or other kernels."
        raise UsageError("fms-acceleration's rotary embedding takes one row of positions for all.", fix)
    if isinstance(job, TrainJob) and job.loss in SIXTEEN_BIT_LOSSES and job.precision not in ("bf16", "fp16"):
        raise UsageError(
            f"The loss {job.loss} wants weights in 16 bit.", "Take precision bf16 or fp16, or the loss liger."
        )
    if isinstance(job, TrainJob) and job.autocast and job.precision == "fp32":
        raise UsageError("fp32 weights under autocast are a precision of their own.", "Take amp-bf16 or amp-fp16.")


def _check_unsloth(job: TrainJob) -> None:
    """Refuse what Unsloth's operations leave to others or do otherwise."""
    if job.method not in RANKED:
        raise UsageError(
            "Unsloth's kernels are for adapters; it trains whole models another way.", "Add --method lora."
        )
    if job.precision not in ("bf16", "fp16") or job.kbit_preparation:
        raise UsageError(
            "Unsloth keeps all but adapters in 16 bit.", "Take precision bf16, without --kbit-preparation."
        )
    if job.adapter_dropout or job.modules_to_save or job.packing or job.padding:
        what = "dropout on adapters, copies of modules, packed rows or padding masks"
        raise UsageError(f"oomph cannot play {what} with Unsloth's kernels yet.", "Leave them out.")


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


ADAPTERS = (
    "rank", "targets", "adapter_dropout", "adapter_dtype", "quantization", "kbit_preparation", "modules_to_save",
    "narrow_tables", "keeps_4bit_inputs",
)  # fmt: skip


def idle_inputs(job: TrainJob | InferJob) -> tuple[str, ...]:
    """Return the inputs that change nothing in a job of this method and optimizer.

    >>> "rank" in idle_inputs(TrainJob()), "rank" in idle_inputs(TrainJob(method="lora"))
    (True, False)
    """
    if not isinstance(job, TrainJob):
        return ()
    adapters = () if job.method in RANKED else ADAPTERS
    projections = () if job.optimizer.startswith("galore") else ("optim_rank", "update_projection")
    embeddings = () if "8bit" in job.optimizer else ("embedding_32bit",)
    frozen = () if job.method == "full" else ("freeze_embeddings", "freeze_layers")
    return (*adapters, *projections, *embeddings, *frozen)
