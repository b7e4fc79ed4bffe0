"""What is done with a model: one training step or one inference pass, every input that moves gigabytes spelled out.

A job is the same for the estimate (symbolic tape), the trace (real code without memory) and the measurement (a real
GPU), so that the three can be held against each other. Defaults are printed with every answer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from oomph.job_checks import (
    ROLLOUT_BATCH,
    check_in_backward,
    check_serving,
    check_training,
    check_values,
    implementation,
)
from oomph.job_words import (
    OF_PROMPTS,
    OWN_PRESETS,
    PARTS,
    PRESETS,
    PROMPTED,
    RANKED,
    ActivationOffload,
    AdapterDtype,
    CacheKind,
    Checkpointing,
    EmbeddingRelease,
    Experts,
    GptqKernel,
    Implementation,
    Kernel,
    Kernels,
    Loss,
    Method,
    Mixers,
    ModelCode,
    Objective,
    ObjectiveCode,
    OptimizerName,
    PackedBy,
    Pooling,
    Precision,
    Qat,
    Quantization,
    Reference,
    Release,
    Routing,
    ServedGptqKernel,
    ServedQuantization,
    Task,
    TeacherDtype,
    ZeroGrad,
    ZeroOffload,
)
from oomph.objective_checks import MINI_BATCH_SIZE, check_columns, check_objective
from oomph.objectives import KINDS as OBJECTIVES
from oomph.objectives import kind_of
from oomph.optimizer_names import KINDS


@dataclass(frozen=True)
class TrainJob:
    """One optimizer step of training on one GPU.

    The batch. `batch` and `seq_len` are of one micro-batch, in sequences and tokens; `target_len` are the tokens of
    what an encoder-decoder writes, 0 as many. `padding`: there is a padding mask, which disables flash. `packing`:
    each row holds several sequences one behind the other, told apart by position ids that the caller passes instead
    of a mask; transformers then builds a mask itself, unless there is a cache. `attention` is torch's kernel,
    transformers' own, or a package's: flash_attention_2 and 3 take padding out of a batch, and attend to each of the
    `sequences` of a packed row on its own where the batch is that row. `padding_free`: all rows of a batch, packed or
    one sequence each, lie behind each other in one, as collators that flatten batches have it. `packed_by` is how a
    batch tells its sequences apart. `lengths` says how long the samples of the data are where they are not packed:
    fixed, all as long as `seq_len`, or their mean and deviation, as 500±300; a batch is as long as its longest sample,
    so a run reserves more than its longest step (oomph.runs).
    `long_samples`: those above `seq_len` are cut, as in most programs, or dropped.

    Images. `images` of each sequence lie among its `seq_len` tokens, as many tokens each as the model's processor makes
    of them; `image_size` is their height and width in pixels, as 768x1024, which processors of towers for one size
    change to that. `audio` are seconds of a recording in each sequence, whose tokens lie among its own too.

    The model. `task`: what its head is for, whatever its config names; `labels` of a classifier, 0: as its config
    says, or 2; one label is a regression, as a reward model's, whose labels are numbers. `experts`: in which form a
    mixture computes its experts; `routing`: how tokens are spread over them, evenly or all to the same ones, which
    changes bytes in the eager form only. `kernels`: whose fused kernels are put into it, of norms, rotary
    embeddings and activations; `kernel_parts`: which of them, "" all, with Liger's some of axolotl's. `mixers`: which
    packages its classes find for layers that keep a state, none unless said: flash-linear-attention for delta rules,
    mamba-ssm for Mamba's scans, causal-conv1d for convolutions over time. `model_code`: whose classes and loop run,
    transformers' or those of a release of LitGPT, which has maps, adapters and names of targets of its own
    (docs/frameworks.md). `autocast`: 16-bit weights under autocast too, as accelerate's mixed precision over them:
    adapters in fp32 are cast, losses upcast.

    The objective is what is minimised, as trainers of TRL or sentence-transformers do it; one beyond sft asks for what
    is missing: its loss, and a `reference` that goes with the method. `batch` then counts samples: a pair of answers is
    one, of two sequences. Distillation's reference is a `teacher`: the name of another model, none for one like the
    student, its weights in `teacher_dtype`. `loss`: what follows the last hidden state. `prompt_len` are the tokens at
    the start of every sequence that are not scored, 0 or 1 if all are but the first; only some losses leave them out.
    PPO's `reward_model`, none for one like the policy, is what its models of value and reward are made of. It generates
    and scores answers of all its micro-batches `rollout_batch` at a time, and keeps the variables of one micro-batch
    until the next one's, or until one of `mini_batches` is over. An embedding model gets an anchor, a positive and
    `negatives` of each sample, the anchors `anchor_len` tokens long, 0 as long as the others; `pooling` makes one
    vector of a text's tokens, brought to length one by `normalize`; GradCache takes `mini_batch_size` texts at a time.
    `sentence_transformers` is the release whose code runs. `objective_code` says whose trainer it is beside that:
    LLaMA-Factory has its own of most that TRL has, and losses of its own for answers; a reference that it loads is in
    `teacher_dtype`.

    The loop. `steady` asks for a later step, when optimizer states exist; otherwise the first. `hold_logits`: the
    caller keeps the model's output through the backward pass, as `outputs = model(...); outputs.loss.backward()`
    does. `keep_outputs`: that variable outlives the step, as in a loop written out in one function, until the next
    forward pass gives it another value. `fp32_outputs`: accelerate's wrapper, which returns logits as fp32 copies.
    `zero_grad`: where gradients are zeroed, or freed with `set_to_none`; of several micro-batches in the first one.

    Memory of activations. `checkpointing` lets layers run again, each or every n-th (`checkpoint_every`), all of it
    but operations whose results are kept: `checkpoint_saves` are words of oomph.tape.selective with commas between
    them. `activation_offload` moves what is saved for the backward pass to host memory, inputs of checkpoints too.
    `compile`: torch.compile, which is bounded, not played: what is played is the eager step (oomph.min_cut).

    The optimizer is a name of oomph.optimizer_names; `implementation` is torch.optim's way through the parameters,
    others have one way of their own. `embedding_32bit`: 8-bit optimizers of bitsandbytes keep fp32 states for
    embeddings, as the HF Trainer asks them to. `optimizer_in_backward`: each parameter has its own optimizer, which
    steps and frees the gradient as soon as it is there (a post-accumulate-grad hook). `optim_rank`: of low-rank
    projections, which a step computes anew if it is the first, or with `update_projection` (one in 200 by default).
    `zero_stage`: DeepSpeed's ZeRO around AdamW on one GPU, 0 is no DeepSpeed; gradients go to buckets of `zero_bucket`
    elements (0: the hidden size squared, the HF Trainer's "auto"), two of them with `zero_overlap` (overlap_comm), and
    `zero_offload` keeps the optimizer on the host. It casts all of a model to one dtype, adapters too.

    The method is how PEFT wraps the model, and what trains. `rank` is the adapters', but of maps that
    `rank_pattern` names, as q_proj=16; `targets` the maps that get
    one: names with commas between them, "all-linear", or "default", which is PEFT's choice for the model.
    `adapter_dropout` is the rate on an adapter's input; `adapter_dtype` fp32 is what PEFT's autocast_adapter_dtype
    does. `modules_to_save` are modules of which a copy trains. `freeze_embeddings` and `freeze_layers` freeze parts
    in full fine-tuning: the tables of tokens and positions, the first so many layers. `freeze_vision` freezes
    towers and projectors, which then get no adapters either: what LLaMA-Factory does unless told otherwise.
    `virtual_tokens` are those that prompt tuning and its like put before each sequence; `block_size` is how wide
    OFT's blocks are, 0 as PEFT has it. `active_layers` are those that train, at a time with LISA, the
    last ones with freeze.
    `qat`: maps compute with weights and inputs as they are when they are quantised, as torchao has it.
    `weight_quant`: Q-GaLore's int8 weights, which train. `wide_tables`: norms, embedding and head are fp32 around
    16-bit weights that all train, as axolotl leaves them.

    The base. `quantization` is how a frozen one is stored, by bitsandbytes, GPTQ or HQQ, and `gptq_kernel` what
    computes with GPTQ's. bitsandbytes passes by experts that are stacked in one parameter unless `quantised_experts`
    (its replace_parameter_4bit, axolotl's quantize_moe_experts). `kbit_preparation` is PEFT's
    prepare_model_for_kbit_training, which keeps all else in fp32, but for GPTQ and HQQ; with `narrow_tables` embedding
    and head are cast back, as TRL does. qlora sets quantization, preparation and targets as its paper does, lora with
    them spelled out is free to differ.

    What older versions kept. `keeps_4bit_inputs`: bitsandbytes up to 0.42, what goes into a quantised map, as long
    as the graph. `keeps_softmax_inputs`: torch up to 1.10, scores beside their softmax. `keeps_cache`: GPTBigCode
    of transformers 4, the cache under checkpointing, views of what each fused map of queries, keys and values
    returned. `denominators_apart`: foreach Adam and AdamW of torch 2.0, which add epsilon to the roots of all second
    moments out of place, so that a copy of all that trains stands beside them. `heads_of_4_51`: transformers 4.51, in
    the cache keys and values as they came, where transformers 5 joins them into tensors of its own; and copies of
    queries, keys and values where those do not lie in the order in which torch's attention takes them. `repeats_keys`:
    transformers 4 up to 4.47, whose Mistral, Mixtral, Qwen2, Phi-3 and StarCoder2 copy key heads for flash-attn.
    """

    batch: int = 1
    seq_len: int = 2048
    precision: Precision = "bf16"
    attention: Kernel = "flash"
    kernels: Kernels = "torch"
    kernel_parts: str = ""
    mixers: Mixers = "torch"
    padding: bool = False
    packing: bool = False
    sequences: int = 2
    padding_free: bool = False
    packed_by: PackedBy = "positions"
    target_len: int = 0
    lengths: str = "fixed"
    long_samples: Literal["cut", "drop"] = "cut"
    dropout: bool = True  # as the config says; False sets every rate to 0
    checkpointing: Checkpointing = "none"
    checkpoint_every: int = 1
    checkpoint_saves: str = ""
    activation_offload: ActivationOffload = "none"
    compile: bool = False
    use_cache: bool = False
    keeps_cache: bool = False
    heads_of_4_51: bool = False
    repeats_keys: bool = False
    denominators_apart: bool = False
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
    zero_stage: int = 0
    zero_bucket: int = 500_000_000
    zero_overlap: bool = False
    zero_offload: ZeroOffload = "none"
    method: Method = "full"
    rank: int = 8
    rank_pattern: str = ""
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
    wide_tables: bool = False
    keeps_4bit_inputs: bool = False
    model_code: ModelCode = "transformers"
    gptq_kernel: GptqKernel = "gptqmodel"
    keeps_softmax_inputs: bool = False
    objective: Objective = "sft"
    objective_code: ObjectiveCode = "trl"
    reference: Reference = "default"
    teacher: str = ""
    teacher_dtype: TeacherDtype = "student"
    prompt_len: int = 0
    reward_model: str = ""
    rollout_batch: int = ROLLOUT_BATCH
    mini_batches: int = 1
    negatives: int = 0
    anchor_len: int = 0
    pooling: Pooling = "default"
    normalize: bool = True
    mini_batch_size: int = MINI_BATCH_SIZE
    sentence_transformers: EmbeddingRelease = "6"
    virtual_tokens: int = 20
    block_size: int = 0
    images: int = 0
    image_size: str = ""
    audio: int = 0
    freeze_vision: bool = False
    active_layers: int = 2
    qat: Qat = "none"
    weight_quant: bool = False

    def __post_init__(self) -> None:
        check_values(self)
        check_training(self)
        for name, value in PRESETS.get(self.method, {}).items():
            if name == "kbit_preparation" and ("unsloth" in (self.kernels, self.loss) or self.kernels == "axolotl"):
                continue  # they prepare a base themselves and keep norms as they are
            if getattr(self, name) == DEFAULTS[name] and (self.model_code == "transformers" or name in OWN_PRESETS):
                object.__setattr__(self, name, value)
        if self.zero_stage and self.precision != "fp32":  # DeepSpeed casts adapters, and undoes PEFT's preparation
            object.__setattr__(self, "adapter_dtype", "base")
            object.__setattr__(self, "kbit_preparation", False)
        check_columns(self)
        if self.objective != "sft":
            self._of_objective()
        if self.optimizer in KINDS and KINDS[self.optimizer].in_backward:
            object.__setattr__(self, "optimizer_in_backward", True)
        check_in_backward(self)
        way = implementation(self.optimizer, self.implementation, DEFAULTS["implementation"])
        object.__setattr__(self, "implementation", way)

    def _of_objective(self) -> None:
        """Take what goes with an objective where nothing else is said, and refuse what does not."""
        kind = kind_of(self)
        if self.loss == DEFAULTS["loss"]:
            object.__setattr__(self, "loss", kind.loss)
        if self.task == DEFAULTS["task"] and kind.task != "causal-lm":
            object.__setattr__(self, "task", kind.task)
            object.__setattr__(self, "labels", kind.labels)
        object.__setattr__(self, "hold_logits", False)  # trainers return the loss alone
        check_objective(self)

    @property
    def head(self) -> tuple[str, int, bool]:
        """What the model's head is for, of how many labels, and whether it gets a padding token where it has none."""
        return self.task, self.labels, kind_of(self).pads

    @property
    def weight_dtype(self) -> str:
        """The dtype that weights are kept in unless a method says otherwise: fp32 under autocast."""
        return "fp32" if self.precision.startswith("amp-") else self.precision

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the fields that are sizes."""
        second = ("target_len",) if self.target_len else ("anchor_len",) if self.anchor_len else ()
        rank = ("rank",) if self.method in RANKED else ()
        virtual = ("virtual_tokens",) if self.method in PROMPTED else ()
        return ("batch", "seq_len", *second, *rank, *(("prompt_len",) if self.loss in OF_PROMPTS else ()), *virtual)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and tokens in each: one row of all tokens where a batch is padding-free.

        >>> TrainJob(batch=4, seq_len=512).shape, TrainJob(batch=4, seq_len=512, padding_free=True).shape
        ((4, 512), (1, 2048))
        """
        return (1, self.batch * self.seq_len) if self.padding_free else (self.batch, self.seq_len)

    @property
    def packs(self) -> bool:
        """Say whether position ids come with the batch and may begin anew within a row."""
        return self.packing or self.padding_free

    @property
    def sequences_in_row(self) -> int:
        """How many sequences lie behind each other in a row.

        >>> TrainJob(batch=4, padding_free=True).sequences_in_row, TrainJob(batch=4, packing=True).sequences_in_row
        (4, 2)
        """
        return (self.sequences if self.packing else 1) * (self.batch if self.padding_free else 1)

    @property
    def mixed(self) -> bool:
        """Say whether batches are of many lengths."""
        return self.lengths != "fixed"

    @property
    def compares_with(self) -> Reference | None:
        """Where the reference comes from; None for an objective without one."""
        if not OBJECTIVES[self.objective].reference:
            return None
        if OBJECTIVES[self.objective].teacher:
            return "loaded"
        if self.reference == "default":
            return "loaded" if self.method in PARTS else "adapters-off"
        return self.reference

    @property
    def leaves_gradients(self) -> bool:
        """Say whether gradients of one step are still there when the next begins."""
        if self.optimizer == "adamw-master":  # which takes them away
            return False
        return not self.set_to_none or (self.zero_grad != "after-step" and not self.optimizer_in_backward)


DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(TrainJob)}


DRAFTED = 20  # candidates of an assistant: num_assistant_tokens of transformers' GenerationConfig


@dataclass(frozen=True)
class InferJob:
    """One forward pass without gradients: a prefill of `seq_len` tokens, or `decode` single tokens after it.

    `cache`: none, dynamic (grows by concatenation), static (`max_cache_len` tokens allocated at once; 0 means
    seq_len + decode), quantised (it grows; fp8, quanto and hqq are QuantizedCache's backends) or offloaded (dynamic or
    static, in the machine's memory but for two layers). quanto and hqq keep codes of `cache_bits` in groups of
    `cache_group` along `cache_axis`, and up to `cache_residual` tokens as they are; all are made wide in every pass.

    `experts` and `routing` as in TrainJob; generate() decodes with batched_mm where grouped_mm is asked for.
    `logits_to_keep` 0 keeps the logits of every token, 1 only the last one's. With `beams` a prompt is read once for
    each, and their cache is put in order after every token; how many of them are returned changes nothing. With
    `candidates` (prompt lookup) so many tokens of the prompt are read with it, and with every token after it; with an
    `assistant`, a model that oomph knows by name, it writes them (20 unless said otherwise).

    `mixers` as in TrainJob. `quantization` is how the weights are stored, `gptq_kernel` what computes with GPTQ's, as
    in TrainJob.
    `compute_fp32`: bitsandbytes brings 4-bit maps' inputs and weights to fp32 first, which it does unless a
    BitsAndBytesConfig says otherwise.

    `images` of each sequence, `image_size` pixels high and wide, or a recording of `audio` seconds lie among the tokens
    that are read at once, as in TrainJob.

    `device_map` asks for a map of modules as transformers makes it for one GPU: auto, which leaves a tenth of it free,
    or sequential; with `max_memory` for modules, as 20GiB, where that is said. `offload` names modules that wait in the
    machine's memory, as model.layers.24-31,lm_head, each tensor of which is on the GPU while its module runs
    (accelerate's hooks); a device map is made into one (oomph.device_map).

    `release` is whose generate() runs. That of transformers 4.38 makes logits of every token and fp32 copies of them,
    keeps tables of sines and cosines in each layer, repeats key heads before it attends, and holds the cache as it was
    before a token beside the one with it. 4.51 repeats key heads for torch's own attention. Around flash-attn 4.46 and
    4.51 do what 5 does.
    """

    batch: int = 1
    seq_len: int = 2048
    decode: int = 0
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    attention: Kernel = "flash"
    mixers: Mixers = "torch"
    padding: bool = False
    cache: CacheKind = "dynamic"
    max_cache_len: int = 0
    cache_bits: int = 4
    cache_group: int = 64
    cache_residual: int = 128
    cache_axis: int = 0
    beams: int = 1
    candidates: int = 0
    assistant: str = ""
    logits_to_keep: int = 1
    experts: Experts = "grouped_mm"
    routing: Routing = "balanced"
    quantization: ServedQuantization = "none"
    gptq_kernel: ServedGptqKernel = "gptqmodel"
    compute_fp32: bool = False
    device_map: Literal["none", "auto", "sequential"] = "none"
    max_memory: str = ""
    offload: str = "none"
    images: int = 0
    image_size: str = ""
    audio: int = 0
    release: Release = "5"

    def __post_init__(self) -> None:
        if self.assistant and not self.candidates:
            object.__setattr__(self, "candidates", DRAFTED)
        check_values(self)
        check_serving(self)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the fields that are sizes."""
        return ("batch", "seq_len", "max_cache_len")


REPEATED = 3  # micro-batches from which on each does what the one before did


def shortened(job: TrainJob | InferJob) -> TrainJob | InferJob:
    """Return a job with no more micro-batches than tell what all of them do: heights repeat from the second on.

    PPO's rollout is of all of them; what it plays of its steps it shortens itself.

    >>> shortened(TrainJob(accumulation=64)).accumulation
    3
    """
    if isinstance(job, TrainJob) and job.accumulation > REPEATED and not OBJECTIVES[job.objective].judged:
        return replace(job, accumulation=REPEATED)
    return job


# Inputs that say how steps follow each other, or what is said beside a step, not what it is.
BETWEEN_STEPS = frozenset({"lengths", "long_samples", "compile"})


def describe(job: TrainJob | InferJob) -> dict[str, Any]:
    """Return every input with its value, in the order of the fields."""
    return {field.name: getattr(job, field.name) for field in fields(job)}
