"""What no job can be: values beyond sense, words that are misspelt, inputs that do not go together."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from oomph import kernel_checks
from oomph.errors import UsageError, close_matches
from oomph.job_words import FLASH_ATTN, FOUR_BIT, INTEGER_CACHES, OF_PROMPTS, PROMPTED
from oomph.lengths import Lengths
from oomph.objectives import KINDS as OBJECTIVES
from oomph.optimizer_names import KINDS, REFUSED
from oomph.tape.selective import SELECTED, words_of

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

TWO_OPTIMIZERS = ("muon", "torchao-cpu-offload")
ALL_AT_ONCE = (
    *TWO_OPTIMIZERS,
    "muon-llama-factory",
    "adamw-master",
    "q_galore_adamw8bit",
)  # that do not step in a backward pass
SIXTEEN_BIT_LOSSES = frozenset(
    {"cut", "liger-fms", "unsloth"}
)  # whose products fail with, or whose kernels refuse, fp32 weights
CODE_BITS = {"quanto": (2, 4), "hqq": (1, 2, 3, 4, 8)}  # of caches that are quantised to integers
THREE_BITS = 3
PLAYED_STAGES = 2  # of DeepSpeed's ZeRO
SMALL_GRADIENTS = ("galore_adamw_8bit", "q_galore_adamw8bit")
PLAIN_ADAMW = ("adamw", "adamw_torch", "adamw_torch_fused")  # names of the AdamW that it is played around
MAY_BE_ZERO = frozenset(
    {
        "decode", "max_cache_len", "logits_to_keep", "freeze_layers", "labels", "target_len", "zero_stage",
        "zero_bucket", "prompt_len", "block_size", "images", "audio", "cache_axis", "candidates", "negatives",
        "anchor_len",
    }
)  # fmt: skip
MOST_PIXELS, DIGITS = 2**14, 5  # of a side of an image, and how many digits such a number has
ROLLOUT_BATCH = 64  # local_rollout_forward_batch_size of TRL's PPOConfig
MOST = 2**31  # tokens, sequences or micro-batches beyond which a number is a slip of the keyboard


def check_values(job: TrainJob | InferJob) -> None:
    """Refuse values that no job could have, with close matches for misspelt ones."""
    kind: Any = type(job)
    hints = field_types(kind)
    for field in fields(job):
        value, choices = getattr(job, field.name), get_args(hints[field.name])
        if field.name == "optimizer" and value in REFUSED:
            raise UsageError(f"The optimizer {value} is not modelled: {REFUSED[value]}.", "Choose another one.")
        if choices and value not in choices:
            hint = close_matches(str(value), choices) or f"Choose one of {', '.join(map(str, choices))}."
            raise UsageError(f"{field.name} cannot be {value!r}.", hint)
        _check_kind(field.name, value, hints[field.name])
        low = 0 if field.name in MAY_BE_ZERO else 1
        if hints[field.name] is int and not low <= value <= MOST:
            raise UsageError(f"{field.name} cannot be {value}.", f"Give a whole number from {low} to {MOST}.")
        if hints[field.name] is float and not 0 <= value < 1:
            raise UsageError(f"{field.name} cannot be {value}.", "A rate is at least 0 and less than 1.")


# What a Python program may pass where a number, a switch or a word belongs. Sizes of jobs that are played with their
# numbers left open are none of these.
NO_NUMBERS = (str, bool, list, tuple, dict, type(None))
NEEDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


def _check_kind(name: str, value: Any, kind: Any) -> None:
    """Refuse a value of another kind than its field's; raises UsageError."""
    wrong = {
        int: isinstance(value, (*NO_NUMBERS, float)),
        float: isinstance(value, NO_NUMBERS),
        bool: not isinstance(value, bool),
        str: not isinstance(value, str),
    }
    if wrong.get(kind, False):
        raise UsageError(f"{name} cannot be {value!r:.60}.", f"Give {NEEDS[kind]}.")


def check_training(job: TrainJob) -> None:
    """Refuse what does not go together."""
    if job.mixed:
        Lengths.parse(job.lengths)
        if job.packs:
            fix = "Leave --packing and --padding-free out, or --lengths."
            raise UsageError("Packed batches are all of one length.", fix)
    if job.labels and job.task != "sequence-classification":
        raise UsageError("labels are of a classifier.", "Add --task sequence-classification, or leave --labels out.")
    if job.objective == "sft" and job.loss == "logits":
        raise UsageError("Fine-tuning on labels needs a loss.", "Take another --loss, or an --objective.")
    _check_method(job)
    if job.prompt_len >= job.seq_len:
        raise UsageError(f"A prompt of {job.prompt_len} tokens leaves none to score.", "Give a longer --seq.")
    if job.packs:
        _check_packed(job)
    if job.padding and job.packs:
        fix = "Leave one out: transformers looks for packed sequences only where there is no mask."
        raise UsageError("A batch has a padding mask or packed sequences, not both.", fix)
    loads = job.objective_code == "llama-factory" and job.compares_with == "loaded" and not job.teacher
    if (job.teacher or job.teacher_dtype != "student") and not OBJECTIVES[job.objective].teacher and not loads:
        raise UsageError("Only distillation has a teacher.", "Add --objective gkd, or leave it out.")
    if (job.mini_batches > 1 or job.rollout_batch != ROLLOUT_BATCH or job.reward_model) and not OBJECTIVES[
        job.objective
    ].judged:
        raise UsageError(
            "Only PPO has rollouts, mini-batches and a reward model.", "Add --objective ppo, or leave it out."
        )
    if job.images or job.image_size or job.audio:
        _check_images(job)
    if job.checkpoint_saves:
        _check_selection(job)
    if job.compile:
        _check_compiled(job)
    if job.activation_offload != "none":
        _check_offload(job)
    if job.wide_tables:
        _check_wide_tables(job)
    if job.kernel_parts:
        kernel_checks.check_parts(job)
    if job.kernels == "unsloth":
        kernel_checks.check_unsloth(job)
    if job.kernels == "axolotl":
        kernel_checks.check_axolotl(job)
    if job.attention in FLASH_ATTN:
        kernel_checks.check_flash_attn(job)
    elif job.repeats_keys:
        raise UsageError("repeats_keys is of flash-attn.", "Add --attention flash_attention_2.")
    if job.kernels == "foak" and job.packing and job.shape[0] > 1:
        fix = "Add --padding-free, as its collators do, or take other kernels."
        raise UsageError("fms-acceleration's rotary embedding takes one row of positions for all.", fix)
    if job.loss in SIXTEEN_BIT_LOSSES and job.precision not in ("bf16", "fp16"):
        raise UsageError(
            f"The loss {job.loss} wants weights in 16 bit.", "Take precision bf16 or fp16, or the loss liger."
        )
    if job.autocast and job.precision == "fp32":
        raise UsageError("fp32 weights under autocast are a precision of their own.", "Take amp-bf16 or amp-fp16.")


def _check_method(job: TrainJob) -> None:
    """Refuse what does not go with a method, or the other way round."""
    if not any(word.strip() for word in job.targets.split(",")):
        raise UsageError("targets names no module.", "Say q_proj,v_proj, all-linear or default.")
    if job.rank_pattern:
        _check_ranks(job)
    if job.quantised_experts and job.experts == "modules":
        raise UsageError("Experts that are modules are quantised as all linear maps are.", "Leave one of both out.")
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
    if job.zero_stage:
        _check_deepspeed(job)
    if job.weight_quant:
        _check_int8_weights(job)
    elif job.optimizer == "q_galore_adamw8bit_per_layer":
        fix = "Add --weight-quant, or take q_galore_adamw8bit."
        raise UsageError("Q-GaLore's hooks of single layers are called by its int8 maps alone.", fix)
    if job.qat != "none" and (
        job.method not in ("full", "lisa") or job.kernels != "torch" or job.model_code != "transformers"
    ):
        raise UsageError("Fake quantisers are played in full fine-tuning alone.", "Leave --qat out.")
    if job.qat != "none" and (job.loss != "hf" or job.objective != "sft"):
        raise UsageError("Fake quantisers are played with transformers' own loss.", "Take --loss hf and sft.")
    if job.method == "lisa" and (job.zero_stage or job.optimizer == "adamw-master"):
        raise UsageError("LISA is played with optimizers that have states for each parameter.", "Take another one.")
    if job.optimizer in SMALL_GRADIENTS and not job.set_to_none:
        what = f"{job.optimizer} puts small gradients in the place of a matrix's own, to which none can be added."
        raise UsageError(what, "Leave out what keeps gradients.")
    if job.optimizer == "torchao-cpu-offload" and not job.set_to_none:
        raise UsageError("torchao's offloaded optimizer frees gradients.", "Leave out what keeps them.")
    if job.kernels != "torch" and job.method == "ln-tuning":
        raise UsageError("Fused norms know nothing of PEFT's copies of norms.", "Leave one of the two out.")


def _check_deepspeed(job: TrainJob) -> None:
    """Refuse what DeepSpeed does not do, or does in a way that is not played."""
    if job.zero_stage > PLAYED_STAGES:
        raise UsageError("ZeRO's stage 3, which gathers parameters for each module, is not played.", "Take 1 or 2.")
    if job.optimizer not in PLAIN_ADAMW or job.optimizer_in_backward:
        raise UsageError("DeepSpeed is played around AdamW alone.", "Take optimizer adamw, or leave --zero-stage out.")
    if job.precision.startswith("amp"):
        raise UsageError("DeepSpeed casts the whole model to 16 bits.", f"Take precision {job.precision[4:]}.")
    if job.precision != "fp32" and job.method in PROMPTED:
        raise UsageError("Virtual tokens that DeepSpeed casts to 16 bits are not played.", "Take another method.")
    if job.method == "adalora":
        raise UsageError("AdaLoRA's own loss of its maps is not played with DeepSpeed.", "Take --method lora.")


def _check_ranks(job: TrainJob) -> None:
    """Refuse ranks of single maps where they mean nothing, or were not held against the real code."""
    if job.method not in ("lora", "qlora", "dora", "lora-fa"):
        raise UsageError("rank_pattern is of LoRA and its kin.", "Add --method lora, or leave it out.")
    if job.kernels == "unsloth" or job.model_code != "transformers":
        raise UsageError("rank_pattern is played as PEFT has it alone.", "Leave --rank-pattern out.")


def _check_int8_weights(job: TrainJob) -> None:
    """Refuse what Q-GaLore's int8 maps do not go with: they keep scales as attributes, which other code drops."""
    for wrong, what in (
        (job.method != "full" or job.qat != "none", "adapters or other quantisers"),
        (job.freeze_embeddings or job.freeze_layers > 0 or job.freeze_vision, "frozen parts"),
        (job.precision.startswith("amp-") or job.autocast, "autocast"),
        (job.checkpointing not in ("none", "reentrant"), f"checkpointing {job.checkpointing}, which detaches weights"),
        (job.activation_offload != "none", "activation offloading, which moves weights"),
        (job.kernels != "torch" or job.model_code != "transformers", "other code than transformers'"),
        (job.objective != "sft", f"the objective {job.objective}"),
        (job.compile, "torch.compile"),
        (job.zero_grad != "after-step", "gradients that are kept into the next step"),
    ):
        if wrong:
            raise UsageError(f"Q-GaLore's int8 weights are not played with {what}.", "Leave one of the two out.")
    if not job.optimizer.startswith("q_galore"):
        fix = "Add --optim q_galore_adamw8bit."
        raise UsageError("weight_quant means int8 weights that Q-GaLore's optimizer alone updates.", fix)


def check_serving(job: InferJob) -> None:
    """Refuse what does not go together in a job without gradients."""
    if job.gptq_kernel == "exllama" and job.quantization.startswith("gptq") and "-4bit-" not in job.quantization:
        raise UsageError("exllama computes with 4 bits.", "Take --gptq-kernel cuda-old, or another --quantization.")
    if job.compute_fp32 and not job.quantization.startswith(FOUR_BIT):
        raise UsageError("compute_fp32 is of bitsandbytes' 4-bit maps.", "Add --quantization nf4, or leave it out.")
    if job.cache in INTEGER_CACHES:
        _check_codes(job)
    if job.attention in FLASH_ATTN:
        kernel_checks.check_flash_attn_served(job)
    if job.max_memory and job.device_map == "none":
        raise UsageError("max_memory is of a device map.", "Add --device-map auto, or leave it out.")
    if job.device_map != "none" and job.offload != "none":
        raise UsageError("A device map says itself which modules wait.", "Leave out --offload, or --device-map.")
    if job.candidates:
        _check_candidates(job)
    if job.images or job.image_size or job.audio:
        given = _given(job)
        for wrong, what, fix in (
            (job.padding, "a padding mask", "Leave --padding out: sequences of equal lengths need none."),
            (job.beams > 1 or job.candidates, "beams or candidates", "Leave them out."),
            (job.cache == "none" and job.decode, "decoding without a cache", "Leave --cache out."),
        ):
            if wrong:
                raise UsageError(f"oomph cannot play {given} with {what} yet.", fix)
    plain = job.cache == "dynamic" and job.attention == "flash" and not job.padding and job.beams == 1
    if job.release == "4.38" and not plain:
        fix = "Leave out --cache, --attention, --padding and --beams."
        raise UsageError("oomph knows the growing cache and flash attention of transformers 4.38 alone.", fix)


def _check_candidates(job: InferJob) -> None:
    """Refuse what prompt lookup does not go with: transformers refuses it too, or takes tokens back that it cannot."""
    for wrong, what, fix in (
        (job.batch > 1, "several sequences", "Say --concurrency 1."),
        (job.beams > 1, "beams", "Leave out --beams."),
        (job.cache not in ("dynamic", "offloaded"), f"the cache {job.cache}", "Say --cache dynamic or offloaded."),
        (job.padding, "a padding mask", "Leave out --padding."),
        (job.release != "5", f"transformers {job.release}", "Leave out --release."),
        (
            job.candidates >= job.seq_len and not job.assistant,
            "a prompt that is no longer than what is found in it",
            "Give more --context.",
        ),
    ):
        if wrong:
            way = "An assistant" if job.assistant else "Prompt lookup"
            raise UsageError(f"{way} does not go with {what}.", fix)


def _check_codes(job: InferJob) -> None:
    """Refuse codes that the backend of a quantised cache has not, or fails on."""
    known = CODE_BITS[job.cache]
    if job.cache_bits not in known:
        fix = f"Take one of {', '.join(map(str, known))}."
        raise UsageError(f"A cache of {job.cache} has no codes of {job.cache_bits} bits.", fix)
    if job.cache_axis > 1:
        raise UsageError("Groups of a quantised cache lie along axis 0 or 1.", "Leave --cache-axis out.")
    if job.cache == "hqq" and job.cache_bits == THREE_BITS and job.cache_axis:
        fix = "Leave --cache-axis out, or take other --cache-bits."
        raise UsageError("HQQ cannot read 3-bit codes back along axis 1: it takes keys for a matrix.", fix)


def _given(job: TrainJob | InferJob) -> str:
    """Return what a job has beside text, images or a recording; refuse a size without images, and one that is none."""
    if job.audio and (job.images or job.image_size):
        raise UsageError("oomph plays images or a recording, not both.", "Leave --images or --audio out.")
    if job.audio and job.attention in FLASH_ATTN:
        raise UsageError("oomph cannot play a recording with the package flash-attn yet.", "Leave --attention out.")
    if job.audio:
        return "a recording"
    if not job.images:
        raise UsageError("image_size is of images.", "Say how many each sequence has: --images 1.")
    if job.image_size:
        pixels(job.image_size)
    return "images"


def _check_images(job: TrainJob) -> None:
    """Refuse what is not played with images or a recording yet, and a size that is none."""
    given = _given(job)
    for wrong, what, fix in (
        (job.objective != "sft", f"the objective {job.objective}", "Take the objective sft."),
        (job.padding, "a padding mask", "Leave --padding out: batches of equal lengths need none."),
        (job.packs, "packed sequences", "Leave --packing and --padding-free out."),
        (job.use_cache, "a cache", "Leave --use-cache out."),
        (job.method in PROMPTED, job.method, "Take --method lora."),
    ):
        if wrong:
            raise UsageError(f"oomph cannot play {given} with {what} yet.", fix)


def pixels(size: str) -> tuple[int, int]:
    """Return height and width in pixels of a size.

    >>> pixels("768x1024")
    (768, 1024)
    """
    height, _, width = size.partition("x")
    if not all(len(side) <= DIGITS and side.isdecimal() and 0 < int(side) <= MOST_PIXELS for side in (height, width)):
        raise UsageError(f"image_size cannot be {size[:80]!r}.", "Say height and width in pixels: 768x1024.")
    return int(height), int(width)


def _check_packed(job: TrainJob) -> None:
    """Refuse what a batch does not go with whose rows hold several sequences, or one row all of them."""
    rows, tokens = job.shape
    for wrong, what, fix in (
        (job.padding_free and job.target_len, "what an encoder-decoder writes", "Leave --target-len out."),
        (
            job.padding_free and job.task == "sequence-classification",
            "a classifier, which has a label for each row",
            "Leave --padding-free out.",
        ),
        (
            job.packed_by == "lengths" and rows > 1,
            "cu_seq_lens in batches of several rows",
            "Add --padding-free, as collators that tell them do.",
        ),
        (
            job.packed_by == "mask" and job.attention in FLASH_ATTN,
            f"a mask of the collator's own for {job.attention}",
            "Leave --packed-by out.",
        ),
    ):
        if wrong:
            raise UsageError(f"Packed sequences do not go with {what}.", fix)
    if job.loss in OF_PROMPTS and job.sequences_in_row * max(1, job.prompt_len) >= tokens:
        raise UsageError(
            f"A row of {tokens} tokens holds no {job.sequences_in_row} sequences that are scored.",
            "Give a longer --seq.",
        )


def _check_selection(job: TrainJob) -> None:
    """Refuse words that name no operation, and ways of checkpointing that keep nothing."""
    for word in words_of(job.checkpoint_saves):
        if word not in SELECTED:
            hint = close_matches(word[:40], SELECTED) or f"Choose of {', '.join(SELECTED)}."
            raise UsageError(f"checkpoint_saves knows no operation {word[:40]!r}.", hint)
    if job.checkpointing != "non-reentrant":
        raise UsageError("Operations are chosen in non-reentrant checkpoints.", "Say --checkpointing non-reentrant.")


def _check_compiled(job: TrainJob) -> None:
    """Refuse what the estimate of torch.compile says nothing about."""
    for wrong, what in (
        (job.checkpointing != "none", "checkpointing, whose second runs it cuts too"),
        (job.activation_offload != "none", "activation offloading"),
        (job.objective != "sft", f"the objective {job.objective}"),
        (job.model_code != "transformers", f"the code of {job.model_code}"),
        (job.method == "qlora" or job.quantization != "none", "a quantised base, whose kernels break its graphs"),
    ):
        if wrong:
            raise UsageError(f"The estimate of torch.compile does not go with {what}.", "Leave one of both out.")


def _check_wide_tables(job: TrainJob) -> None:
    """Refuse what axolotl does not leave norms, embedding and head in fp32 with, or what is not held against it."""
    for wrong, what, fix in (
        (job.method != "full", f"the method {job.method}", "They are of full fine-tuning: leave --method out."),
        (job.precision not in ("bf16", "fp16"), f"precision {job.precision}", "Take bf16, or leave it out."),
        (not job.autocast, "products that nothing casts", "Add --autocast."),
        (job.objective != "sft", f"the objective {job.objective}", "Leave it out."),
        (job.qat != "none" or job.zero_stage > 0, "fake quantisers or DeepSpeed", "Leave them out."),
        (job.model_code != "transformers", "other code than transformers'", "Leave it out."),
    ):
        if wrong:
            raise UsageError(f"wide_tables do not go with {what}.", fix)


def _check_offload(job: TrainJob) -> None:
    """Refuse what moves activations itself, and code that was not run under such hooks."""
    for wrong, what, fix in (
        (
            job.checkpointing == "unsloth",
            "Unsloth's checkpointing, which moves inputs itself",
            "Leave one of both out.",
        ),
        (job.kernels == "unsloth", "Unsloth's kernels", "Take other --kernels."),
        (job.kernels == "axolotl", "axolotl's kernels", "Take other --kernels."),
        (job.model_code != "transformers", f"the code of {job.model_code}", "Leave --activation-offload out."),
    ):
        if wrong:
            raise UsageError(f"Activation offloading does not go with {what}.", fix)


def implementation(optimizer: str, asked: str, default: str) -> str:
    """Return the way an optimizer goes through the parameters; refuses one that it does not have."""
    kind = KINDS.get(optimizer)
    ways = kind.implementations if kind is not None else ()
    if asked in ways or ((kind is None or asked == default) and len(ways) != 1):
        return asked
    if asked == default:
        return ways[0]
    fix = f"It has {' and '.join(ways)}." if ways else "Leave it out: this optimizer has one way of its own."
    raise UsageError(f"{optimizer} has no implementation {asked!r}.", fix)


@cache
def field_types(kind: Any) -> dict[str, Any]:
    """Return the types of a job's fields; Python evaluates every one of them anew each time it is asked."""
    return get_type_hints(kind)


def check_in_backward(job: TrainJob) -> None:
    """Refuse what needs all gradients at once where each is gone before the next is there."""
    if not job.optimizer_in_backward:
        return
    frozen = job.method != "full" or job.freeze_embeddings or job.freeze_layers > 0
    for wrong, what in (
        (job.optimizer == "adalomo" and frozen, "weights that are frozen: AdaLomo keeps states of those too"),
        (job.optimizer == "none", "no optimizer"),
        (job.optimizer == "adamw-master", "copies of all weights, which are made before"),
        (job.optimizer == "q_galore_adamw8bit", "this name: q_galore_adamw8bit_per_layer is how Q-GaLore does it"),
        (job.optimizer in TWO_OPTIMIZERS, f"{job.optimizer}, which leaves other parameters to a second optimizer"),
        (job.accumulation > 1, "gradient accumulation"),
        (job.clip_gradients, "clipping"),
        (not job.set_to_none, "gradients that are kept"),
    ):
        if wrong:
            raise UsageError(f"An optimizer in backward does not go with {what}.", "Leave one of the two out.")
