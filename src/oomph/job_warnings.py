"""What an answer warns of: memory that is not counted, and what runs otherwise than somebody may have meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oomph import formats
from oomph.answer import Subject
from oomph.blocks.base import descend
from oomph.blocks.basic import UnfusedLinear
from oomph.device_map import NONE, waiting_bytes
from oomph.errors import OomphError
from oomph.job import DEFAULTS, InferJob, TrainJob
from oomph.job_words import COMPLETING, OFFLOADED_CACHES, QUANTIZATIONS
from oomph.methods.targets import has_own_loop, has_stacks, target_note
from oomph.objectives import KINDS as OBJECTIVES
from oomph.optimizer_names import KINDS
from oomph.programs.attention_kernels import flash_note, kernel_note
from oomph.programs.mixer_packages import mixer_note, packed_note
from oomph.runtimes.base import Versions
from oomph.runtimes.peft import prepared
from oomph.steps import Step
from oomph.structure import Job
from oomph.units import human

if TYPE_CHECKING:
    from oomph.devices import Device
    from oomph.model import Model

SCORES = "_safe_softmax"  # of the math kernel alone: ATen/native/transformers/attention.cpp
PLAYED_VENDORS = ("nvidia", "amd")  # whose GPUs torch calls cuda
# Compute capability from which a kernel is there: ATen/native/transformers/cuda/sdp_utils.cpp, check_flash_attention_
# hardware_support, and check_tensor_dtype of the memory-efficient one; flash-attn's README, for both packages.
NEEDS = {"flash": (8.0, "Ampere"), "flash_attention_2": (8.0, "Ampere"), "flash_attention_3": (9.0, "Hopper")}
BITSANDBYTES = ("nf4", "fp4", "int8")  # what its formats begin with


def job_warnings(found: Subject, job: Job, asked: Job, played: Step) -> tuple[str, ...]:
    """Return every warning of a job as it was played; `asked` is the job before a device map was made into a list."""
    return (
        *found.warnings,
        *found.model.notes,
        *_beyond(found.model, job),
        *_unseen(job),
        *_map(found.model, asked, job),
        *_compiled(found.model, job),
        *_stored_otherwise(found, job),
        *kernel_note(found.model, job.attention),
        *mixer_note(found.model, job.mixers),
        *packed_note(found.model, job),
        *flash_note(found.model, job),
        *target_note(found.model, job),
        *_unfused(played, job),
        *_wide_experts(found.model, job),
        *_passed_by(found.model, job),
        *_without_peft_s(job),
        *_recordings(found.model, job),
    )


def of_device(device: Device, job: Job) -> tuple[str, ...]:
    """Return sentences where a device runs another backend of torch than the one that is played, or other kernels."""
    if device.vendor and device.vendor not in PLAYED_VENDORS:
        return (
            f"What is played is torch on a CUDA GPU: on {device.name} tensors are the same, but kernels, what the"
            " allocator keeps and what its runtime takes are others.",
        )
    least = NEEDS.get(job.attention)
    if least is None or device.vendor != "nvidia" or not device.compute_capability:
        return ()
    own = isinstance(job, TrainJob) and job.kernels == "unsloth"  # which takes xformers there
    if float(device.compute_capability) >= least[0] or own or job.precision == "fp32":
        return ()
    instead = "efficient" if "fp16" in job.precision else "math"
    why = " bf16 goes to torch's math kernel there, fp16 to its memory-efficient one." if instead == "math" else ""
    return (
        f"{job.attention} attention needs {least[1]} or newer, which {device.name} is not: what runs there is"
        f" --attention {instead}.{why}",
    )


def _beyond(model: Model, job: Job) -> tuple[str, ...]:
    """Say so where sequences are longer than a model is made for, which positions that are computed do not prevent."""
    tokens = job.seq_len + (job.decode if isinstance(job, InferJob) else 0)
    if not model.context_length or tokens <= model.context_length:
        return ()
    return (f"The model is made for {model.context_length:,} tokens, fewer than the {tokens:,} asked for.",)


def _unseen(job: Job) -> tuple[str, ...]:
    """Return sentences on what of a job takes memory that is not counted here."""
    if not isinstance(job, TrainJob):
        return _of_caches(job)
    found = []
    if OBJECTIVES[job.objective].judged:
        like = job.reward_model or "the policy"
        found.append(
            f"PPO's models of value and reward are taken to be like {like}, with a head of one number. A rollout"
            " is played and the first optimizer step after it; of the generation its beginning and its last token."
        )
    elif job.objective in COMPLETING:
        found.append(
            f"{job.objective} is played from completions that are there: what makes them is not in the step. On the"
            " same GPU generation takes a key-value cache at another time: see `oomph serve`; no number adds the two."
        )
    if job.activation_offload in ("trl", "torchtune"):
        found.append(
            f"{job.activation_offload} brings activations back on a stream of its own, whose cached blocks torch keeps"
            " apart: more may be reserved than is said here. What goes to host memory is not counted."
        )
    if job.kernels == "unsloth" and not job.packs:
        found.append(
            "Unsloth runs layers on padded batches under torch.compile where torch is 2.11 or newer: what is played is"
            " its eager code. Padding-free batches, which its trainer makes where it can, run that:"
            " --padding-free."
        )
    elif job.loss == "unsloth":
        found.append("Unsloth compiles transformers' classes: what is played is the same code, uncompiled.")
    if job.method == "lisa" and job.steady:
        found.append(
            "The optimizer keeps states of every layer that has had its turn with lisa: these are the states of all, as"
            " they are after many turns. --first-step shows those of the first layers alone."
        )
    kind = KINDS.get(job.optimizer)
    if kind is not None and kind.paged:
        found.append(
            f"{job.optimizer} keeps its states in unified memory: they are not counted here, and the driver moves them"
            " to the GPU as far as there is room."
        )
    if kind is not None and kind.rule == "q_galore":
        found += _of_q_galore(job)
    if kind is not None and kind.on_host:
        found.append(f"{job.optimizer} keeps its states in host memory: they are not counted here.")
    if kind is not None and kind.rule == "torchao":
        found.append(
            f"{job.optimizer} makes its step by torch.compile: what compiled kernels pass each other is not counted, at"
            " most a few fp32 copies of the largest parameter at a time."
        )
    return tuple(found)


def _of_q_galore(job: TrainJob) -> list[str]:
    """Return sentences on what Q-GaLore's own program does otherwise than its name promises."""
    if job.optimizer_in_backward:
        return [
            "Q-GaLore's loop layer by layer calls no hook of embeddings, norms and head: their gradients stay and are"
            " added to, they have no states, and are never updated."
        ]
    if not job.weight_quant:
        return [
            "Weights stay in their own dtype, as in axolotl: --weight-quant makes them int8, as Q-GaLore's runs do."
        ]
    return []


def _unfused(played: Step, job: Job) -> tuple[str, ...]:
    """Say so where torch's own attention writes out all scores, though a fused kernel was asked for."""
    if job.attention in ("math", "eager") or not any(one.op == SCORES for one in played.sums.recipe.classes):
        return ()
    words = (
        f"No fused kernel of torch takes these queries, keys and values: not {job.attention} but its math kernel is"
        " played, whose scores grow with the square of the length."
    )
    wide = isinstance(job, TrainJob) and not job.autocast and (job.kbit_preparation or job.precision == "fp32")
    fix = "--precision amp-bf16" if job.precision == "fp32" else "--autocast"
    why = (
        f" fp32 with fewer key heads than heads has none: {fix} makes them 16 bits wide, as trainers do."
        if wide
        else ""
    )
    return (words + why,)


def _wide_experts(model: Model, job: Job) -> tuple[str, ...]:
    """Say so where a base is quantised by bitsandbytes, which passes by experts that a class keeps in one tensor."""
    if not isinstance(job, TrainJob) or job.quantised_experts or job.experts == "modules":
        return ()
    if not job.quantization.startswith(BITSANDBYTES) or not (has_stacks(model) or has_own_loop(model)):
        return ()
    state = "fp32, as prepare_model_for_kbit_training leaves them" if job.kbit_preparation else "their own dtype"
    words = f"bitsandbytes does not quantise experts that are stacked in one tensor: they are in {state}."
    if has_own_loop(model):
        return (words,)
    return (
        f"{words} --quantised-experts quantises them too (its replace_parameter_4bit), --experts modules has them as"
        " in transformers 4.",
    )


def _passed_by(model: Model, job: Job) -> tuple[str, ...]:
    """Say so where transformers 5 leaves linear maps of a class of their own as they are: bitsandbytes.py asks for
    nn.Linear itself, where transformers 4 took what inherits from it too.
    """
    if not isinstance(job, TrainJob) or not job.quantization.startswith(BITSANDBYTES):
        return ()
    if job.model_code != "transformers":  # whose maps are bitsandbytes' own, of every family
        return ()
    if not any(isinstance(part, UnfusedLinear) for block in descend(model.parts) for part in block.parts.values()):
        return ()
    state = "fp32, as prepare_model_for_kbit_training leaves them" if job.kbit_preparation else "their own dtype"
    return (
        f"transformers 5 does not let bitsandbytes quantise the linear maps of {model.model_type}, which are a class"
        f" of its own: they are in {state}. transformers 4 quantised them.",
    )


def _without_peft_s(job: Job) -> tuple[str, ...]:
    """Say so where QLoRA goes without what PEFT's guides, and so a bare --method qlora, have beside it."""
    if not isinstance(job, TrainJob) or job.method != "qlora" or not job.kbit_preparation:
        return ()
    beside = prepared(Versions(), job.precision)
    left = [f"{name}={each.value}" for name, each in beside.items() if getattr(job, name) == DEFAULTS[name]]
    if not left:
        return ()
    return (
        f"PEFT's guides, and a bare --method qlora on the command line, have {' and '.join(left)} beside QLoRA: what is"
        " played goes without.",
    )


def _recordings(model: Model, job: Job) -> tuple[str, ...]:
    """Say what the length of a model that reads recordings is."""
    if model.model_type != "whisper" or not isinstance(job, TrainJob):
        return ()
    frames = "Whisper reads recordings of 30 seconds, whatever is said"
    written = "--target-len" if job.target_len else "--seq"
    return (f"{frames}: {written} is how many tokens it writes.",)


def _map(model: Model, asked: Job, job: Job) -> tuple[str, ...]:
    """Return a sentence on where a device map puts what."""
    if not isinstance(job, InferJob) or not isinstance(asked, InferJob):
        return ()
    if job.offload != NONE:
        words = ", ".join(job.offload.split(","))
        return (
            f"In the machine's memory wait {human(waiting_bytes(model, job))}: {words}. Every tensor of them comes to"
            " the GPU when its module runs, in every pass.",
        )
    return ("The device map puts the whole model on the GPU.",) if asked.device_map != NONE else ()


def _of_caches(job: InferJob) -> tuple[str, ...]:
    """Return sentences on what of a cache the figures do not show."""
    if job.cache in OFFLOADED_CACHES:
        return (
            "An offloaded cache comes back on a stream of its own, whose blocks the allocator keeps apart: up to two"
            " layers of it may be reserved beside what stands here. The machine's memory holds the rest.",
        )
    if job.cache == "hqq":
        return (
            "HQQ empties torch's cache with each layer that it quantises, so less may be reserved than stands here.",
        )
    return ()


def _compiled(model: Model, job: Job) -> tuple[str, ...]:
    """Return a sentence on what torch.compile may save, where a job asks for it."""
    if not isinstance(job, TrainJob) or not job.compile:
        return ()
    from oomph.min_cut import MOST_MORE, min_cut

    cut = min_cut(model, job)
    high = min(round(cut.saved_bytes * (1 + MOST_MORE)), cut.eager_bytes)
    return (
        "torch.compile is bounded, not played: the figures are those of the eager step, which is taken as the most."
        f" Estimate: of {human(cut.eager_bytes)} that eager torch saves for backward its min-cut partitioner saves at"
        f" least {human(cut.saved_bytes)}, and no more than {human(high)} with the margin that was measured."
        " A peak in the forward or backward pass is lower by up to the rest. CUDA graphs (mode reduce-overhead) and"
        " autotuning hold more, which is not counted.",
    )


def _stored_otherwise(found: Subject, job: Job) -> tuple[str, ...]:
    """Say so where a model was published quantised, and the job does not say how."""
    asked = formats.asked_for(found.source.config or {})
    if job.quantization != "none" or asked is None:
        return ()
    try:
        name = formats.from_config(asked, job.precision).name
    except OomphError:
        name = "a format of its own"
    if isinstance(job, TrainJob):
        return (f"This model is published in {name}; it trains on weights in {job.precision}, unpacked as they load.",)
    fix = f"say --quantization {name}" if name in QUANTIZATIONS else f"oomph cannot play {name} yet"
    return (f"This model is published in {name}; what is played are weights in {job.precision}: {fix}.",)
