"""Published rows of training runs, translated into jobs. What a row does not say is its program's default, from
oomph.runtimes; what cannot be told from either is a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from oomph.job import TrainJob
from oomph.job_words import FLASH_ATTN
from oomph.model import Model
from oomph.objectives import KINDS as OBJECTIVES
from oomph.programs.attention_kernels import calls_flash_attn
from oomph.runtimes import runtime
from oomph.runtimes.base import Runtime, Versions
from oomph.runtimes.trainer import mixed, use_cache
from oomph.score.asking import Case, device
from oomph.score.readers import unsloth
from oomph.score.readers.training_words import (
    ADAPTERS,
    ATTENTION,
    BESIDE,
    CHECKPOINTING,
    CLASSIFIER,
    EAGER_TABLES,
    FRAMEWORKS,
    FULL,
    GPTQ,
    IMPLEMENTATIONS,
    LAZY_SINCE,
    LORA,
    LOSSES,
    NARROW,
    OPTIMIZERS,
    QLORA,
    SMI_TABLES,
    TARGETS,
    UNSTATED_LENGTHS,
    UNSTATED_METRIC,
    default_targets,
    described,
    lengths,
    named,
    packed,
    positions,
    quantisation,
    there,
    versions_of,
)
from oomph.score.reading import MUST_NOT_FIT, Answer, Ask, Question, Schema, notes, one_of, refuse, shown, whole, words
from oomph.units import GIB, MIB

SIXTEEN = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "float16": "fp16"}
ONE_GPU_ZERO = "ZeRO-2 config (single GPU)"
QWEN_BUCKET = 200_000_000  # reduce_bucket_size of finetune/ds_config_zero2.json
# Types whose classes repeated key heads for flash-attn, and transformers that has one way to it for all classes.
REPEATING = frozenset({"mistral", "mixtral", "phi3", "qwen2", "qwen2_moe", "starcoder2"})
ATTENTION_IN_ONE_SINCE = (4, 48)
CACHE_OFF_SINCE = (4, 50)  # transformers in whose GPTBigCode checkpointing switches the cache off
SAME_DTYPE = (None, "same as trainable param dtype")
NOTEBOOK = "HF transformers (notebook"  # AnswerDotAI/fsdp_qlora, nbs/00-profile_lora_qlora.ipynb: lora_dropout=0.1
ADAPTERS_FP32_SINCE = (0, 11)  # PEFT that makes adapters fp32 on 16-bit weights: autocast_adapter_dtype


def _group(row: Mapping[str, Any]) -> str:
    return shown(row.get("framework"))


def _question(row: Mapping[str, Any]) -> Question:
    if unsloth.is_unsloth(row):
        return unsloth.question(row)
    job, assumed = job_of(row)
    subject = described(words(row, "model")) or named(words(row, "model"), str(row.get("quote")))
    most = positions(subject)
    if most and job.seq_len > most:  # learned positions: a longer sequence would not run
        job = replace(job, seq_len=most)
        assumed = (*assumed, f"seq_len {most}: the model has no more positions")
    if job.model_code == "transformers":
        job = replace(job, targets=there(subject, job.targets))
    if job.attention in FLASH_ATTN:
        job, taken = as_called(job, subject.model, _versions(row))
        assumed = (*assumed, *taken)
    gpu = device(row.get("gpu"))
    if gpu and _loads_all_kernels(row):
        gpu = replace(gpu, kernel_loading="eager")
    return Question(_asks(row, Case(subject, job, gpu)), assumed)


def as_called(job: TrainJob, model: Model, versions: Versions) -> tuple[TrainJob, tuple[str, ...]]:
    """Return a job with a package's attention as a model's class of some version calls it, and what was assumed:
    torch's flash attention stands for calls that are not known.
    """
    if not calls_flash_attn(model, job):
        why = "torch's flash attention for a package's, which takes padding out: of the same tensors"
        return replace(job, attention="flash", padding=False), (why,)
    repeats = model.model_type in REPEATING and not versions.at_least("transformers", *ATTENTION_IN_ONE_SINCE)
    return replace(job, repeats_keys=repeats), ()


def _asks(row: Mapping[str, Any], case: Case) -> dict[str, Ask]:
    unstated, per_g = UNSTATED_METRIC in words(row, "metric"), 1000 * MIB if _of_smi_table(row) else GIB
    return {
        "peak_allocated_gib": lambda: case.figure("allocated"),
        "peak_reserved_gib": lambda: _in(per_g, case.figure("device" if unstated else "reserved")),
        "nvidia_smi_gib": lambda: case.figure("device"),
        "resident_alloc_gib": case.resident,
        "weights_gib": case.weights,
        "allocated_after_forward_gib": case.after_forward,
        "allocated_after_backward_gib": case.after_backward,
        MUST_NOT_FIT: case.must_not_fit,
    }


def _loads_all_kernels(row: Mapping[str, Any]) -> bool:
    """Tell whether CUDA loaded all kernels of a row's process at once."""
    old = not _versions(row).at_least("torch", *LAZY_SINCE)
    return old or _of_smi_table(row) or str(row.get("source_url")).endswith(EAGER_TABLES)


def _of_smi_table(row: Mapping[str, Any]) -> bool:
    return UNSTATED_METRIC in words(row, "metric") and words(row, "framework").startswith(SMI_TABLES)


def _in(per_g: int, found: Answer) -> Answer:
    """Return an answer for a row that printed G of so many bytes where its name says GiB."""
    return replace(found, n_bytes=found.n_bytes * GIB / per_g, safe_bytes=found.safe_bytes * GIB / per_g)


def job_of(row: Mapping[str, Any]) -> tuple[TrainJob, tuple[str, ...]]:
    """Return the job a row describes and what had to be assumed; raises UnsupportedError for what is no job of ours."""
    program = _program(row)
    _refuse_kind(row)
    versions = _versions(row)
    given = {
        **_precision(row),
        **_loss(row, versions),
        **_kernels(row),
        **_shape(row),
        "checkpointing": _checkpointing(row, program, versions),
        **_optimizer(row),
        **_method(row, versions),
    }
    if CLASSIFIER.fullmatch(words(row, "model")):
        given["task"] = "sequence-classification"
    if given.get("quantization", "none") != "none":  # what a program does with such a base goes before a row's words
        given = {name: value for name, value in given.items() if name not in program.quantised(versions)}
    fields = program.with_defaults(versions, given)
    fields["use_cache"] = fields.get("use_cache", False) and use_cache(fields["checkpointing"])
    if "bigcode" in words(row, "model") and not versions.at_least("transformers", *CACHE_OFF_SINCE):
        fields |= {"use_cache": True, "keeps_cache": fields["checkpointing"] != "none"}
    of_smi_table = _of_smi_table(row)
    assumed = {
        f"{words(row, 'framework_version')}, estimated by the layers of the versions oomph follows": (
            fields.get("model_code", "transformers") == "transformers"
        ),
        "autocast over 16-bit weights; accelerate copies logits to fp32": bool(fields.get("autocast")),
        "reentrant checkpointing: the default of transformers 4": fields["checkpointing"] == "reentrant",
        "which attention is not stated: SDPA, the class's default": "not stated" in words(row, "attention_impl"),
        "its G are thousands of nvidia-smi's MiB, all kernels loaded: concluded from its rows": of_smi_table,
        "which memory is not stated: what nvidia-smi shows": UNSTATED_METRIC in words(row, "metric")
        and not of_smi_table,
        "whether its GB are GiB is not known: taken as GiB": row.get("unit_ambiguous") is not False
        and not of_smi_table,
    }
    taken = program.taken(versions, given)
    return TrainJob(**fields), (*(text for text, so in assumed.items() if so), *taken)


def _versions(row: Mapping[str, Any]) -> Versions:
    return versions_of(words(row, "framework_version"), words(row, "framework"))


def _program(row: Mapping[str, Any]) -> Runtime:
    framework = words(row, "framework")
    found = next((name for start, name in FRAMEWORKS if framework.startswith(start)), None)
    if found is None or "FSDP" in framework:
        raise refuse(f"framework {shown(framework)}", "its model code or its engine is not modelled yet")
    return runtime(found)


def _refuse_kind(row: Mapping[str, Any]) -> None:
    """Refuse what no job of ours is, the most telling reason first."""
    method, gpus = _parted(row)[0], row.get("n_gpus")
    if method not in (*FULL, *LORA, *QLORA, *GPTQ, *ADAPTERS):
        raise refuse(f"method {shown(method)}", "not modelled yet")
    if gpus != 1 or isinstance(gpus, bool):
        raise refuse(f"n_gpus={shown(gpus)}", "one GPU only")
    if row.get("compile") not in (None, False):
        raise refuse("compile", "compiled code is not modelled")
    if row.get("cpu_offload") not in (None, False):
        raise refuse("cpu_offload", "not modelled yet")
    spread = row.get("parallel")
    for name, value in spread.items() if isinstance(spread, Mapping) else ():
        if value not in (None, 1, "none") and not (value == ONE_GPU_ZERO and method in GPTQ):
            raise refuse(f"parallel {shown(name)}={shown(value)}", "not modelled yet")
    for text in UNSTATED_LENGTHS:
        if text in notes(row):
            raise refuse("seq_len", "a limit; the lengths of the real batches are not recorded")
    objective = _parted(row)[1]
    if objective != "sft" and (objective not in OBJECTIVES or _program(row).of_objective is None):
        raise refuse(f"objective {shown(objective)}", "not modelled as this framework runs it yet")


def _parted(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return a row's method and objective, which stand in one word: "lora + dpo"."""
    method, _, objective = words(row, "method").partition(BESIDE)
    return method, objective or "sft"


def _shape(row: Mapping[str, Any]) -> dict[str, Any]:
    batch, packed, attention = whole(row, "micro_batch"), row.get("packing"), words(row, "attention_impl")
    if not isinstance(packed, (bool, str)):
        raise refuse("packing", "not said, so whether there is a mask")
    kernel = one_of(row, "attention_impl", ATTENTION)
    return {
        "batch": batch,
        "seq_len": whole(row, "seq_len"),
        **lengths(notes(row)),
        "accumulation": whole(row, "grad_accum"),
        "attention": kernel,
        # flash_attn itself takes padding out; LitGPT has no mask at all.
        "padding": packed is False and batch > 1 and kernel != "flash" and "LitGPT" not in attention,
    }


def _checkpointing(row: Mapping[str, Any], program: Runtime, versions: Versions) -> str:
    """Return how layers are checkpointed: as a row says or, if it says no more than that, as its program does it."""
    said: str | bool = one_of(row, "checkpointing", CHECKPOINTING)
    if isinstance(said, str):
        return said
    way = program.defaults(versions).get("checkpointing")
    return way.value if way and way.value != "none" else "reentrant"  # the default of transformers 4


def _precision(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields for a precision, and whether accelerate wraps 16-bit weights in autocast."""
    mode, dtype = words(row, "precision_mode"), words(row, "weight_dtype")
    weights = SIXTEEN.get(dtype) or NARROW.get(dtype)
    if weights and mode.startswith(f"pure {weights}"):
        return {"precision": weights, "autocast": False, "fp32_outputs": False}
    if mode.startswith("fp32") and dtype == "fp32":
        return {"precision": "fp32", "autocast": False, "fp32_outputs": False}
    if mode.startswith("amp") and dtype.startswith("gptq"):
        if "DeepSpeed" in mode:  # which casts the model, clips by itself, and runs without autocast
            return {
                "precision": "fp16", "autocast": False, "fp32_outputs": False, "clip_gradients": False,
                "zero_stage": 2, "zero_bucket": QWEN_BUCKET, "zero_overlap": True,
            }  # fmt: skip
        return {"precision": "fp16", "autocast": True, "fp32_outputs": True}
    low = next((low for low in ("bf16", "fp16") if mode.startswith(f"amp {low}")), None)
    if low and (weights == low or dtype == "fp32"):
        return {"autocast": False, **mixed(low, dtype if dtype == "fp32" else low)}
    raise refuse(f"precision {shown(mode)} over {shown(dtype)}", "not modelled yet")


def _loss(row: Mapping[str, Any], versions: Versions) -> dict[str, Any]:
    """Return the loss a row names; {} where it is the program's own."""
    said = words(row, "loss_impl")
    if said not in LOSSES:
        raise refuse(f"loss {shown(said)}", "not modelled yet")
    name = LOSSES[said]
    if name in ("", "fused") and "bigcode" in words(row, "model") and not versions.at_least("transformers", 4, 50):
        name = "fused-shifted" if name else "shifted"  # its class computes its loss itself, of logits as they are
    if name == "fused" and not versions.at_least("transformers", 4, 46):
        name = "fused-4.45"
    return {"loss": name} if name else {}


def _kernels(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return whose fused kernels a row's program puts into the model: fms-acceleration's plugin is in its name."""
    return {"kernels": "foak"} if "foak" in words(row, "framework") else {}


def _method(row: Mapping[str, Any], versions: Versions) -> dict[str, Any]:
    (method, objective), framework = _parted(row), words(row, "framework")
    wanted = {} if objective == "sft" else {"objective": objective}
    if method in FULL:
        return {"method": "full", **wanted}
    if method in ADAPTERS:
        return {"method": method, **_quantised(row, versions)}
    lora = row.get("lora")
    if not isinstance(lora, Mapping):
        raise refuse("lora", "not said")
    targets, dtype = lora.get("targets"), lora.get("adapter_dtype")
    if isinstance(targets, list) and all(isinstance(one, str) for one in targets):
        known = {} if framework.startswith("litgpt") else TARGETS
        names = ",".join(dict.fromkeys(str(known.get(one, one)) for one in targets))
    else:
        names = default_targets(words(row, "model"), targets)
    given: dict[str, Any] = {"method": "lora", "rank": whole(lora, "rank"), "targets": names, **wanted}
    if str(dtype).startswith("bf16"):
        given["adapter_dtype"] = "base"
    elif "peft" in dict(versions.known):
        given["adapter_dtype"] = "fp32" if versions.at_least("peft", *ADAPTERS_FP32_SINCE) else "base"
    if framework.startswith(NOTEBOOK):
        given["adapter_dropout"] = 0.1
    if kept := lora.get("modules_to_save"):
        given["modules_to_save"] = ",".join(map(str, kept))
    if method in GPTQ:
        given |= packed(words(row, "weight_dtype"), words(row, "model"), framework)
        if "DeepSpeed" in words(row, "precision_mode"):
            given["adapter_dtype"] = "base"
        return given
    return given | _quantised(row, versions)


def _quantised(row: Mapping[str, Any], versions: Versions) -> dict[str, Any]:
    """Return how bitsandbytes quantised a row's base, if it did."""
    dtype, framework = words(row, "weight_dtype"), words(row, "framework")
    if words(row, "method") not in QLORA and dtype not in NARROW:
        return {}
    given = quantisation(dtype, framework)
    old = framework.startswith(NOTEBOOK) or not versions.at_least("bnb", 0, 43)
    return given | {"keeps_4bit_inputs": old}


def _optimizer(row: Mapping[str, Any]) -> dict[str, Any]:
    states, said = row.get("optimizer_dtype"), words(row, "optimizer")
    if said.startswith("none"):
        return {"optimizer": "none", "clip_gradients": False, "steady": False}
    if said in OPTIMIZERS:
        return OPTIMIZERS[said]
    if states not in SAME_DTYPE and states not in ("bf16", "fp32"):
        raise refuse(f"optimizer_dtype {shown(states)}", "torch keeps states like the weights")
    if said not in IMPLEMENTATIONS:
        raise refuse(f"optimizer {shown(said)}", "not modelled yet")
    return {"optimizer": "adamw", "implementation": IMPLEMENTATIONS[said]}


SCHEMA = Schema("training", ("framework", "method", "measured"), _group, _question)
