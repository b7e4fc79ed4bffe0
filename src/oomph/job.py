"""What is done with a model: one training step or one inference pass, every input that moves gigabytes spelled out.

A job is the same for the estimate (symbolic tape), the trace (real code without memory) and the measurement (a real
GPU), so that the three can be held against each other. Defaults are printed with every answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Literal, get_args, get_type_hints

from oomph.errors import UsageError, close_matches
from oomph.lengths import Lengths
from oomph.objectives import KINDS as KINDS_OF_OBJECTIVE
from oomph.optimizer_names import KINDS, REFUSED, Kind

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
]
Experts = Literal[
    "grouped_mm",  # one product for all experts; what transformers takes unless told otherwise
    "eager",  # a loop over the experts that were hit
    "batched_mm",  # a copy of its expert's weights for every token
]
Routing = Literal["balanced", "worst"]
Checkpointing = Literal["none", "reentrant", "non-reentrant"]
OptimizerName = Literal[
    "adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw-amsgrad", "adam", "nadam", "radam", "adamax",
    "adadelta", "sgd", "sgd-momentum", "rmsprop", "adagrad", "adafactor-torch", "adafactor-torch-foreach", "adafactor",
    "adamw_torch_8bit", "adamw_torch_4bit", "torchao-adamw-4bit", "torchao-adamw-fp8", "adamw_8bit", "adamw_bnb_8bit",
    "adamw_bnb_32bit", "paged_adamw_8bit", "paged_adamw_32bit", "lion_8bit", "lion_32bit", "paged_lion_8bit",
    "paged_lion_32bit", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit", "galore_adamw", "galore_adafactor",
    "galore_adamw_8bit", "galore_adamw_8bit_layerwise", "galore_adamw_layerwise", "apollo_adamw",
    "apollo_adamw_layerwise", "apollo-mini", "torchao-cpu-offload", "adam-mini", "lion", "came", "lomo", "adalomo",
    "schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd", "stable_adamw", "grokadamw", "muon", "ademamix",
    "ademamix_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit", "none",
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
    "logits",  # none: an objective that takes log-probabilities of all logits itself
    "chunked-nll",  # TRL's, 1.13 and 1.14: 256 tokens at a time, each under a checkpoint
    "fused-head",  # TRL's, from 1.15: tiles of logits, their log-probabilities alone
]
Objective = Literal[
    "sft",
    "dpo",  # pairs of answers against a reference
    "ipo",  # the same with lengths divided out and a square
    "kto",  # answers one by one, mismatched ones beside them
    "cpo",  # pairs without a reference, and the cross entropy of the chosen ones
    "simpo",  # pairs without a reference, lengths divided out
    "grpo",  # the update on completions that are there, without a KL term
    "rloo",  # the same with a number per completion, and a reference in memory
]
Reference = Literal[
    "default",  # adapters switched off where there are any, else a second model
    "loaded",
    "adapters-off",
    "precomputed",  # log-probabilities come with the batch
]
ModelCode = Literal[
    "transformers",
    "litgpt",  # since 0.5.4
    "litgpt-0.4",  # 0.4.6 to 0.5.0
    "litgpt-0.3",  # of March to May 2024
    "lit-gpt",  # of October 2023
]
Task = Literal[
    "config",  # what the head that a config's architectures name is for
    "causal-lm",
    "masked-lm",
    "sequence-classification",
]
ZeroGrad = Literal["after-step", "before-forward", "before-backward"]
Method = Literal[
    "full",
    "lora",
    "qlora",  # lora on an nf4 base with double quantisation, prepared as PEFT does, all linear maps
    "dora",  # lora with a magnitude for each output, the direction divided by its norm
    "lora-fa",  # lora whose A is frozen
    "vera",  # lora whose A and B are the same frozen ones for all maps; vectors between them train
    "loha",  # a weight that is the elementwise product of two low-rank ones
    "lokr",  # a weight that is a Kronecker product
    "ia3",  # vectors that scale keys, values and what is inside the feed-forward part
    "prompt-tuning",  # vectors before the embedded tokens
    "p-tuning",  # the same, made by three linear maps
    "prefix-tuning",  # keys and values before those of every layer
    "bitfit",  # biases alone
    "ln-tuning",  # copies of norms
    "adapter",  # LitGPT's LLaMA-Adapter
    "adapter_v2",
]
AdapterDtype = Literal["fp32", "base"]
Quantization = Literal[  # of a frozen base; the names of formats
    "none", "nf4", "nf4-dq", "fp4", "fp4-dq", "int8",
    "gptq-4bit-g128", "gptq-4bit-g64", "gptq-4bit-g32", "gptq-4bit-column",
    "gptq-8bit-g128", "gptq-8bit-g64", "gptq-8bit-g32", "gptq-8bit-column",
]  # fmt: skip
GptqKernel = Literal[
    "gptqmodel",  # GPTQModel, today's; a layer's unpacked weights live through its backward pass
    "triton",  # auto_gptq's second Triton kernel and fms-acceleration: unpacked anew in backward
    "cuda-old",  # auto_gptq as transformers 4 loads it with exllama off: unpacked by torch's operations
]
COMPLETING = frozenset({"grpo", "rloo"})  # objectives whose answers were made from a prompt by the model itself
OF_PROMPTS = frozenset({"fused-head", "chunked-nll", "logits"})  # losses that leave out what is not scored
RANKED = frozenset({"lora", "qlora", "dora", "lora-fa", "vera", "loha", "lokr"})  # methods that have a rank
PROMPTED = frozenset(
    {"prompt-tuning", "p-tuning", "prefix-tuning"}
)  # methods that put virtual tokens before those of a batch
# What a method stands for, where the field has its default.
PRESETS: dict[str, dict[str, Any]] = {
    "qlora": {"quantization": "nf4-dq", "kbit_preparation": True, "targets": "all-linear"},
}


@dataclass(frozen=True)
class TrainJob:
    """One optimizer step of causal language-model training on one GPU.

    `batch` and `seq_len` are of one micro-batch, in sequences and tokens; `target_len` are the tokens of what an
    encoder-decoder writes, 0 as many. `steady` asks for a later step, when optimizer states exist; otherwise the first.
    `lengths` says how long the samples of the data are where they are not packed: fixed, all as long as `seq_len`, or
    their mean and deviation, as 500±300; a batch is as long as its longest sample, so a run reserves more than its
    longest step (oomph.runs). `long_samples`: those above `seq_len` are cut, as in most programs, or dropped.
    `hold_logits`: the caller keeps the model's output through the
    backward pass, as `outputs = model(...); outputs.loss.backward()` does. `keep_outputs`: that variable outlives the
    step, as in a loop written out in one function, until the next forward pass gives it another value.
    `keeps_cache`: checkpointing does not switch the cache off, as in GPTBigCode of transformers 4, whose cache is views
    of what each layer's fused map of queries, keys and values returned.
    `fp32_outputs`: accelerate's wrapper, which returns logits as fp32 copies. `padding`: the batch carries a padding
    mask, which disables flash. `packing`: each row holds several sequences one behind the other, told apart by position
    ids that the caller passes instead of a mask; transformers then builds a mask itself, unless there is a cache.
    `experts`: in which form a mixture computes its experts; `routing`: how tokens are spread over them, evenly or all
    to the same ones, which changes bytes in the eager form only.
    `task`: what the model's head is for, whatever its config names; `labels` of a classifier, 0: as its config says, or
    2. One label is a regression, as a reward model's, whose labels are numbers.
    `optimizer` is a name of oomph.optimizer_names; `implementation` is torch.optim's way through the parameters, others
    have one way of their own. `embedding_32bit`: 8-bit optimizers of bitsandbytes keep fp32 states for embeddings, as
    the HF Trainer asks them to.
    `optimizer_in_backward`: each parameter has its own optimizer, which steps and frees the gradient as soon as it is
    there (a post-accumulate-grad hook). `optim_rank`: of the projections of GaLore, which a step computes anew if it is
    the first, or with `update_projection` (one in 200 by default).
    `zero_bucket`: DeepSpeed's ZeRO-2 around AdamW on one GPU, with buckets of so many elements; 0 is no DeepSpeed.
    `kernels`: whose fused kernels are put into the model, of norms, rotary embeddings and activations; `loss` is apart.
    `autocast`: 16-bit weights under autocast too, as accelerate's mixed precision over them: adapters in fp32 are cast,
    losses upcast. `loss`: what follows the last hidden state.
    `zero_grad`: where gradients are zeroed, or freed with `set_to_none`; of several micro-batches in the first one.

    `objective` is what is minimised, as TRL's trainers do it; one beyond sft asks for what is missing: the loss
    fused-head, and a `reference` that goes with the method. `batch` then counts samples: a pair of answers is one, of
    two sequences. `prompt_len` are the tokens at the start of every sequence that are not scored, 0 or 1 if all are
    but the first; only some losses leave them out.

    `method` is how PEFT wraps the model, and what trains. `rank` is the adapters'; `targets` the maps that get one:
    names with commas between them, "all-linear", or "default", which is PEFT's choice for the model. `adapter_dropout`
    is the rate on an adapter's input; `adapter_dtype` fp32 is what PEFT's autocast_adapter_dtype does. `quantization`
    is how a frozen base is stored, by bitsandbytes or GPTQ, and `gptq_kernel` what computes with GPTQ's. bitsandbytes
    passes by experts that are stacked in one parameter unless `quantised_experts` (its replace_parameter_4bit,
    axolotl's quantize_moe_experts). `kbit_preparation` is PEFT's prepare_model_for_kbit_training, which keeps all else
    in fp32, but for GPTQ; with `narrow_tables` embedding and head are cast back, as TRL does; qlora sets quantization,
    preparation and targets as its paper does, lora with them spelled out is free to differ. `keeps_4bit_inputs`:
    bitsandbytes up to 0.42, which kept what goes into a quantised map as long as the graph; `keeps_softmax_inputs`:
    torch up to 1.10, which kept scores beside softmax. `modules_to_save` are modules of which a copy trains.
    `model_code`: whose classes and loop run, transformers' or those of a release of LitGPT, which has maps, adapters
    and names of targets of its own (docs/frameworks.md).
    `freeze_embeddings` and `freeze_layers` freeze parts in full fine-tuning: the tables of tokens and positions, the
    first so many layers. `virtual_tokens` are those that prompt tuning and its like put before each sequence.
    """

    batch: int = 1
    seq_len: int = 2048
    precision: Precision = "bf16"
    attention: Kernel = "flash"
    kernels: Kernels = "torch"
    padding: bool = False
    packing: bool = False
    target_len: int = 0
    lengths: str = "fixed"
    long_samples: Literal["cut", "drop"] = "cut"
    dropout: bool = True  # as the config says; False sets every rate to 0
    checkpointing: Checkpointing = "none"
    checkpoint_every: int = 1
    use_cache: bool = False
    keeps_cache: bool = False
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
    task: Task = "config"
    labels: int = 0
    loss: Loss = "hf"
    experts: Experts = "grouped_mm"
    routing: Routing = "balanced"
    embedding_32bit: bool = True
    optimizer_in_backward: bool = False
    optim_rank: int = 128
    update_projection: bool = False
    zero_bucket: int = 0
    method: Method = "full"
    rank: int = 8
    targets: str = "default"
    adapter_dropout: float = 0.0
    adapter_dtype: AdapterDtype = "fp32"
    quantization: Quantization = "none"
    kbit_preparation: bool = False
    quantised_experts: bool = False
    modules_to_save: str = ""
    freeze_embeddings: bool = False
    freeze_layers: int = 0
    narrow_tables: bool = False
    keeps_4bit_inputs: bool = False
    model_code: ModelCode = "transformers"
    gptq_kernel: GptqKernel = "gptqmodel"
    keeps_softmax_inputs: bool = False
    objective: Objective = "sft"
    reference: Reference = "default"
    prompt_len: int = 0
    virtual_tokens: int = 20

    def __post_init__(self) -> None:
        check(self)
        for name, value in PRESETS.get(self.method, {}).items():
            if getattr(self, name) == DEFAULTS[name] and (self.model_code == "transformers" or name in OWN_PRESETS):
                object.__setattr__(self, name, value)
        if self.objective != "sft":
            self._of_objective()
        if self.optimizer in KINDS and KINDS[self.optimizer].in_backward:
            object.__setattr__(self, "optimizer_in_backward", True)
        _check_in_backward(self)
        object.__setattr__(self, "implementation", _implementation(self.optimizer, self.implementation))

    def _of_objective(self) -> None:
        """Take what goes with an objective where nothing else is said, and refuse what does not."""
        if self.loss == DEFAULTS["loss"]:
            object.__setattr__(self, "loss", KINDS_OF_OBJECTIVE[self.objective].loss)
        object.__setattr__(self, "hold_logits", False)  # trainers return the loss alone
        _check_objective(self)

    @property
    def weight_dtype(self) -> str:
        """The dtype that weights are kept in unless a method says otherwise: fp32 under autocast."""
        return "fp32" if self.precision.startswith("amp-") else self.precision

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the fields that are sizes."""
        second = ("target_len",) if self.target_len else ()
        rank = ("rank",) if self.method in RANKED else ()
        virtual = ("virtual_tokens",) if self.method in PROMPTED else ()
        return ("batch", "seq_len", *second, *rank, *(("prompt_len",) if self.loss in OF_PROMPTS else ()), *virtual)

    @property
    def mixed(self) -> bool:
        """Say whether batches are of many lengths."""
        return self.lengths != "fixed"

    @property
    def compares_with(self) -> Reference | None:
        """Where the reference comes from; None for an objective without one."""
        if not KINDS_OF_OBJECTIVE[self.objective].reference:
            return None
        if self.reference == "default":
            return "loaded" if self.method == "full" else "adapters-off"
        return self.reference

    @property
    def leaves_gradients(self) -> bool:
        """Say whether gradients of one step are still there when the next begins."""
        return not self.set_to_none or (self.zero_grad != "after-step" and not self.optimizer_in_backward)


OWN_PRESETS = frozenset({"quantization"})  # those of a method that are not PEFT's

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


TWO_OPTIMIZERS = ("muon", "torchao-cpu-offload")
NO_KIND = Kind("none", "none", has_state=False)
EIGHT = 8  # bits of a state whose embeddings may be fp32
SIXTEEN_BIT_LOSSES = frozenset({"cut", "liger-fms"})  # whose products fail with, or whose kernels refuse, fp32 weights
FOUR_BIT = ("nf4", "fp4")  # what bitsandbytes quantises stacked experts to
MAY_BE_ZERO = frozenset(
    {"decode", "max_cache_len", "logits_to_keep", "freeze_layers", "labels", "target_len", "zero_bucket", "prompt_len"}
)
MOST = 2**31  # tokens, sequences or micro-batches beyond which a number is a slip of the keyboard


def check(job: TrainJob | InferJob) -> None:
    """Refuse values that no job could have, with close matches for misspelt ones."""
    kind: Any = type(job)
    hints = _hints(kind)
    for field in fields(job):
        value, choices = getattr(job, field.name), get_args(hints[field.name])
        if field.name == "optimizer" and value in REFUSED:
            raise UsageError(f"The optimizer {value} is not modelled: {REFUSED[value]}.", "Choose another one.")
        if choices and value not in choices:
            hint = close_matches(str(value), choices) or f"Choose one of {', '.join(map(str, choices))}."
            raise UsageError(f"{field.name} cannot be {value!r}.", hint)
        low = 0 if field.name in MAY_BE_ZERO else 1
        if hints[field.name] is int and not low <= value <= MOST:
            raise UsageError(f"{field.name} cannot be {value}.", f"Give a whole number of at least {low}.")
        if hints[field.name] is float and not 0 <= value < 1:
            raise UsageError(f"{field.name} cannot be {value}.", "A rate is at least 0 and less than 1.")
    if isinstance(job, TrainJob):
        _check_training(job)


def _check_training(job: TrainJob) -> None:
    """Refuse what does not go together."""
    if job.mixed:
        Lengths.parse(job.lengths)
        if job.packing:
            raise UsageError("Packed batches are all of one length.", "Leave --packing or --lengths out.")
    if job.labels and job.task != "sequence-classification":
        raise UsageError("labels are of a classifier.", "Add --task sequence-classification, or leave --labels out.")
    if job.objective == "sft" and job.loss == "logits":
        raise UsageError("Fine-tuning on labels needs a loss.", "Take another --loss, or an --objective.")
    if not any(word.strip() for word in job.targets.split(",")):
        raise UsageError("targets names no module.", "Say q_proj,v_proj, all-linear or default.")
    if job.quantised_experts and job.method != "qlora" and not job.quantization.startswith(FOUR_BIT):
        raise UsageError("quantised_experts says that experts are quantised too.", "Add --quantization nf4.")
    if job.quantization != "none" and job.method == "full":
        raise UsageError("Quantised weights do not train.", "Add --method lora, or leave --quantization out.")
    if job.quantization.startswith("gptq") and job.gptq_kernel != "gptqmodel" and job.precision != "fp16":
        raise UsageError(f"The kernel {job.gptq_kernel} computes in fp16.", "Take precision fp16, or gptqmodel.")
    if job.method != "full" and (job.freeze_embeddings or job.freeze_layers):
        raise UsageError(
            f"{job.method} freezes what it does not train.", "Leave --freeze-... out, or take method full."
        )
    if job.modules_to_save and job.method in ("full", "bitfit"):
        raise UsageError("Copies of modules train beside adapters only.", "Add --method lora.")
    if job.zero_bucket and (not job.optimizer.startswith("adamw") or job.optimizer_in_backward):
        raise UsageError("DeepSpeed is played around AdamW alone.", "Take optimizer adamw, or leave the bucket out.")
    if job.prompt_len >= job.seq_len:
        raise UsageError(f"A prompt of {job.prompt_len} tokens leaves none to score.", "Give a longer --seq.")
    if job.padding and job.packing:
        fix = "Leave one out: transformers looks for packed sequences only where there is no mask."
        raise UsageError("A batch has a padding mask or packed sequences, not both.", fix)
    if job.optimizer == "torchao-cpu-offload" and not job.set_to_none:
        raise UsageError("torchao's offloaded optimizer frees gradients.", "Leave out what keeps them.")
    if job.kernels != "torch" and job.method == "ln-tuning":
        raise UsageError("Fused norms know nothing of PEFT's copies of norms.", "Leave one of the two out.")
    if job.kernels == "foak" and job.packing and job.batch > 1:
        fix = "Take batch 1, as padding-free collators do, or other kernels."
        raise UsageError("fms-acceleration's rotary embedding takes one row of positions for all.", fix)
    if isinstance(job, TrainJob) and job.loss in SIXTEEN_BIT_LOSSES and job.precision not in ("bf16", "fp16"):
        raise UsageError(
            f"The loss {job.loss} wants weights in 16 bit.", "Take precision bf16 or fp16, or the loss liger."
        )
    if isinstance(job, TrainJob) and job.autocast and job.precision == "fp32":
        raise UsageError("fp32 weights under autocast are a precision of their own.", "Take amp-bf16 or amp-fp16.")


def _check_objective(job: TrainJob) -> None:
    """Refuse what an objective beyond sft does not go with, or what is not played with one yet."""
    if job.objective == "kto" and job.batch == 1:
        raise UsageError("KTO mismatches the answers of a batch.", "Say --batch 2 or more.")
    if job.objective in COMPLETING and not job.prompt_len:
        raise UsageError(f"{job.objective} completes a prompt.", "Say how long it is: --prompt-len.")
    name, loss = job.objective, KINDS_OF_OBJECTIVE[job.objective].loss
    if job.loss != loss:
        fix = f"Take {loss}, or leave --loss out."
        raise UsageError(f"The loss {job.loss} says nothing about {name}.", fix)
    for wrong, what, fix in (
        (job.packing, "packed sequences", "Leave out --packing: TRL pads here."),
        (job.method in ("bitfit", "ln-tuning"), job.method, "Take method full or lora."),
        (bool(job.modules_to_save), "copies of modules", "Leave out --modules-to-save."),
        (job.keep_outputs, "outputs that are kept", "Leave out --keep-outputs: TRL's trainers drop them."),
        (job.use_cache, "a cache", "Leave out --use-cache: TRL's trainers switch it off."),
        (job.checkpoint_every > 1, "every n-th layer checkpointed", "TRL's trainers switch all layers on and off."),
    ):
        if wrong:
            raise UsageError(f"The objective {name} does not go with {what}.", fix)
    if job.compares_with == "adapters-off" and job.method == "full":
        raise UsageError("Full fine-tuning has no adapters to switch off.", "Say --reference loaded or precomputed.")
    if job.compares_with == "loaded" and job.method != "full":
        fix = "Say --reference adapters-off or precomputed."
        raise UsageError("A reference beside adapters is not played: TRL switches the adapters off.", fix)


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
    frozen = job.method != "full" or job.freeze_embeddings or job.freeze_layers > 0
    for wrong, what in (
        (job.optimizer == "adalomo" and frozen, "weights that are frozen: AdaLomo keeps states of those too"),
        (job.optimizer == "none", "no optimizer"),
        (job.optimizer in TWO_OPTIMIZERS, f"{job.optimizer}, which leaves other parameters to a second optimizer"),
        (job.accumulation > 1, "gradient accumulation"),
        (job.clip_gradients, "clipping"),
        (not job.set_to_none, "gradients that are kept"),
    ):
        if wrong:
            raise UsageError(f"An optimizer in backward does not go with {what}.", "Leave one of the two out.")


# Inputs that say how steps follow each other, not what a step is.
BETWEEN_STEPS = frozenset({"lengths", "long_samples"})


def describe(job: TrainJob | InferJob) -> dict[str, Any]:
    """Return every input with its value, in the order of the fields."""
    return {field.name: getattr(job, field.name) for field in fields(job)}


def _adapted(job: TrainJob) -> bool:
    return job.method in RANKED or job.method in ("ia3", "adapter", "adapter_v2")


def _kind(job: TrainJob) -> Kind:
    return KINDS.get(job.optimizer, NO_KIND)


# When an input tells anything; those that are not here always do.
TELLS: dict[str, Callable[[TrainJob], bool]] = {
    "rank": lambda job: job.method in RANKED,
    "targets": lambda job: job.method in RANKED or job.method == "ia3",
    "adapter_dropout": lambda job: job.method in RANKED,
    "adapter_dtype": lambda job: job.method in RANKED or job.method == "ia3",
    "quantization": _adapted,
    "kbit_preparation": lambda job: job.method in RANKED or job.method == "ia3",
    "modules_to_save": lambda job: job.method in RANKED or job.method == "ia3",
    "quantised_experts": lambda job: job.method in RANKED,
    "narrow_tables": lambda job: job.method in RANKED or job.method == "ia3",
    "keeps_4bit_inputs": _adapted,
    "gptq_kernel": lambda job: _adapted(job) and job.quantization.startswith("gptq"),
    "model_code": lambda job: job.model_code != "transformers",
    "optim_rank": lambda job: _kind(job).targets == "linear",
    "update_projection": lambda job: _kind(job).targets == "linear",
    "embedding_32bit": lambda job: _kind(job).rule == "bnb" and _kind(job).bits == EIGHT,
    "freeze_embeddings": lambda job: job.method == "full",
    "freeze_layers": lambda job: job.method == "full",
    "zero_bucket": lambda job: job.zero_bucket > 0,
    "keeps_cache": lambda job: job.keeps_cache,
    "long_samples": lambda job: job.mixed,
    "kernels": lambda job: job.kernels != "torch",
    "task": lambda job: job.task != "config",
    "labels": lambda job: job.task != "config",
    "target_len": lambda job: job.target_len > 0,
    "keeps_softmax_inputs": lambda job: job.keeps_softmax_inputs,
    "reference": lambda job: KINDS_OF_OBJECTIVE[job.objective].reference,
    "prompt_len": lambda job: job.loss in OF_PROMPTS,
    "virtual_tokens": lambda job: job.method in PROMPTED,
}


def idle_inputs(job: TrainJob | InferJob) -> tuple[str, ...]:
    """Return the inputs that change nothing in a job of this method and optimizer.

    >>> "rank" in idle_inputs(TrainJob()), "rank" in idle_inputs(TrainJob(method="lora"))
    (True, False)
    """
    if not isinstance(job, TrainJob):
        return ()
    return tuple(name for name, tells in TELLS.items() if not tells(job))
