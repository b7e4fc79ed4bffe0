"""The real model of a job: the transformers class of a config with random weights, on fake tensors or real ones."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from oomph.assistant import assistant_config
from oomph.errors import UnsupportedError
from oomph.families.heads import HEADLESS, headed
from oomph.job import InferJob, TrainJob
from oomph.job_words import FLASH_ATTN
from oomph.objectives import KINDS as OBJECTIVES
from oomph.objectives import kind_of
from oomph.programs import SAME_CLASS
from oomph.referee.meta import clean

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
AUTOCAST = "amp-"  # precisions that keep fp32 weights


def build(raw: Mapping[str, Any], job: TrainJob | InferJob, device: str = "cpu") -> Any:
    """Return the class of a config, with the head its architectures name, on a device, in train or eval mode.

    Raises UnsupportedError when transformers has no such class. Code that comes with a model is never run.
    """
    import transformers

    if isinstance(job, TrainJob):
        raw = headed(raw, *job.head)
    model_type = str(raw.get("model_type", ""))
    if model_type in SEQ2SEQ:  # configs name the token to begin with, their classes have none; no byte depends on it
        raw = {"decoder_start_token_id": 0, **raw}
    if model_type in SAME_CLASS:
        model_type = SAME_CLASS[model_type]
        raw = {**raw, "model_type": model_type}
    if model_type not in transformers.CONFIG_MAPPING:
        raise UnsupportedError(f"transformers {transformers.__version__} has no architecture {model_type[:80]!r}.")
    config = transformers.CONFIG_MAPPING[model_type](**clean(dict(raw)))
    asked, multimodal = getattr(transformers, auto_class(raw)), transformers.AutoModelForImageTextToText
    # A config with a tower may also have a class for its text alone, which its architectures would name.
    order: tuple[Any, ...] = (asked, multimodal) if raw.get("architectures") else (multimodal, asked)
    order = (*order, transformers.AutoModelForMultimodalLM)  # of sound and text
    auto: Any = next((each for each in order if type(config) in each._model_mapping), None)
    if auto is None:
        raise UnsupportedError(f"transformers has no {asked.__name__} for {model_type[:80]!r}.")
    if isinstance(job, TrainJob) and not job.dropout:
        _without_dropout(config)
    dtype = DTYPES["fp32" if job.precision.startswith(AUTOCAST) else job.precision]
    int8 = isinstance(job, TrainJob) and job.weight_quant
    # None lets a class without SDPA fall back to eager, as from_pretrained does.
    attention = job.attention if job.attention in ("eager", *FLASH_ATTN) else None
    # Left out, grouped_mm is taken by classes that have it.
    if job.experts == "modules":
        raise UnsupportedError("transformers 5 keeps a layer's experts in one tensor.", "Say --experts eager.")
    experts = {} if job.experts == "grouped_mm" else {"experts_implementation": job.experts}
    with torch.device(device), _sparing(job, device):
        model = auto.from_config(
            config,
            dtype=torch.float32 if int8 else dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            **experts,
        )
        _keep_in_fp32(model, dtype)
    if job.quantization != "none" and job.attention in FLASH_ATTN:
        model.config._is_quantized = True  # as transformers' quantizers say before the way to flash-attn asks
    if not isinstance(job, TrainJob):
        from oomph.referee.served import served

        model = served(model, job, device).eval()
        if job.device_map != "none" or job.offload != "none":
            from oomph.referee.device_map import dispatch

            dispatch(model, raw, job)
        return model
    if int8:
        from oomph.referee import q_galore

        model = q_galore.with_int8_weights(model, dtype)
    if job.qat != "none":
        from oomph.referee import qat

        model = qat.prepare(model)
    if job.wide_tables:
        from oomph.referee.adapters import widen

        widen(model)
    if job.method != "full" or job.freeze_embeddings or job.freeze_layers or job.freeze_vision:
        from oomph.referee.adapters import adapt

        model = adapt(model, job, device)
    if isinstance(job, TrainJob) and kind_of(job).valued:
        from oomph.referee.llama_factory import with_value_head

        model = with_value_head(model)
    return model.train()


def build_reference(raw: Mapping[str, Any], job: TrainJob | InferJob, device: str = "cpu") -> Any:
    """Return the second model that an objective compares with, in eval mode as it was loaded, or that drafts for the
    first one; None without one.
    """
    if not isinstance(job, TrainJob):
        if not job.assistant:
            return None
        plain = InferJob(precision=job.precision, attention=job.attention)
        return build(assistant_config(job.assistant), plain, device)
    if job.compares_with != "loaded":
        return None
    return build(raw, replace(job, **PLAIN, **_untaught(job)), device).eval()


def _untaught(job: TrainJob) -> dict[str, Any]:
    """Return what a second model is built without: a teacher has no adapters, nor what goes with them."""
    dtype = job.precision if job.teacher_dtype == "student" else job.teacher_dtype
    if not OBJECTIVES[job.objective].teacher:
        whole = {"method": "full"} if job.method == "freeze" else {}
        return whole if job.teacher_dtype == "student" else {"precision": dtype, "teacher_dtype": "student", **whole}
    method = {"method": "full", "quantization": "none", "kbit_preparation": False}
    return {"objective": "sft", "loss": "hf", "teacher_dtype": "student", "precision": dtype, **method}


def _keep_in_fp32(model: Any, dtype: torch.dtype) -> None:
    """Bring into fp32 what from_pretrained loads so whatever a job's 16 bits are, which from_config does not."""
    from transformers.core_model_loading import build_glob_alternation

    names = list(model._keep_in_fp32_modules_strict or ())
    if not names or dtype == torch.float32:
        return
    pattern = build_glob_alternation(names)[0]
    for name, each in (*model.named_parameters(), *model.named_buffers()):
        if pattern.search(name) and each.is_floating_point():
            each.data = each.data.to(torch.float32)


PLAIN: dict[str, Any] = {
    "freeze_embeddings": False,
    "freeze_layers": 0,
    "freeze_vision": False,
}  # what is said of the model that trains


def _sparing(job: TrainJob | InferJob, device: str) -> Any:
    """Return a context in which what will be quantised takes no memory on a GPU."""
    if job.quantization == "none" or device == "cpu":
        return contextlib.nullcontext()
    from oomph.referee.quantised import linear_maps_without_memory

    return linear_maps_without_memory()


HEADS = {"ForSequenceClassification": "ForSequenceClassification", "ForMaskedLM": "ForMaskedLM"} | dict.fromkeys(
    ("ForConditionalGeneration", "MTModel", "WithLMHeadModel", "Seq2SeqLM"), "ForSeq2SeqLM"
)
# Types whose class writes what another part has read, where the config names none.
SEQ2SEQ = ("bart", "blenderbot", "m2m_100", "marian", "mbart", "mt5", "pegasus", "plbart", "t5", "umt5", "whisper")
# Types whose class fills in masks where the config names none.
ENCODERS = (
    "albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "ernie", "modernbert", "mpnet",
    "nomic_bert", "roberta", "xlm-roberta",
)  # fmt: skip


def auto_class(raw: Mapping[str, Any]) -> str:
    """Return which of transformers' auto classes has the head that a config's `architectures` names.

    >>> auto_class({"architectures": ["BertForSequenceClassification"]}), auto_class({"model_type": "llama"})
    ('AutoModelForSequenceClassification', 'AutoModelForCausalLM')
    """
    named = str(next(iter(raw.get("architectures") or []), ""))
    if named == HEADLESS:
        return "AutoModel"
    found = next((auto for head, auto in HEADS.items() if named.endswith(head)), "ForCausalLM")
    if not named and raw.get("model_type") in ENCODERS:
        found = "ForMaskedLM"
    if not named and raw.get("model_type") in SEQ2SEQ:
        found = "ForSeq2SeqLM"
    if found == "ForSeq2SeqLM" and raw.get("model_type") == "whisper":
        found = "ForSpeechSeq2Seq"
    return f"AutoModel{found}"


def _without_dropout(config: Any) -> None:
    """Set every dropout rate of a config to 0, and of those inside it."""
    for name in config.sub_configs:
        if getattr(config, name) is not None:
            _without_dropout(getattr(config, name))
    for name, value in config.to_dict().items():
        if ("dropout" in name or "pdrop" in name) and isinstance(value, float):
            setattr(config, name, 0.0)


LANGUAGE_MODEL = ("language_model", "text_model")  # what the decoder inside a multimodal model is called


def decoder_layers(model: Any) -> list[Any]:
    """Return the model's decoder layers: its longest list of layers that can be checkpointed, else of any modules."""
    return max(layer_lists(model), key=len, default=[])


def layer_lists(model: Any) -> list[list[Any]]:
    """Return the model's lists of layers that can be checkpointed, else of any modules."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    inside = [each for name, each in model.named_modules() if name.endswith(LANGUAGE_MODEL)]
    model = inside[0] if inside else model
    lists = [list(module) for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    return [each for each in lists if isinstance(each[0], GradientCheckpointingLayer)] or lists


def packed_and_buffers(model: Any) -> tuple[list[Any], list[Any]]:
    """Return a model's named buffers apart: the weights of maps that keep codes in buffers, and all others."""
    maps = tuple(f"{name}." for name, module in model.named_modules() if "qweight" in module._buffers)
    packed = [(name, each) for name, each in model.named_buffers() if name.startswith(maps)]
    names = {name for name, _ in packed}
    return packed, [(name, each) for name, each in model.named_buffers() if name not in names]
