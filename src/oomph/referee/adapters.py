"""The real PEFT around the real model: what a job's method does to it, on fake tensors as on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch

from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.job_words import BLOCKED, PROMPTED, RANKED
from oomph.methods import boft
from oomph.methods.oft import BLOCK_SIZE
from oomph.methods.ranks import parsed
from oomph.methods.targets import ALL_LINEAR, DEFAULT, has_default, is_pattern, split
from oomph.methods.wide_tables import TABLES
from oomph.referee.meta import INSTALL

TOTAL_STEP = 1000  # of AdaLoRA's schedule; no byte depends on it
COMPUTE = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def widen(model: Any) -> None:
    """Mirror axolotl 0.19, loaders/model.py, _convert_embedding_modules_dtype, before fine-tuning, for fp32."""
    for name, module in model.named_modules():
        if "norm" in name or name.endswith(".gate"):
            module.to(torch.float32)
        if any(table in name for table in TABLES) and hasattr(module, "weight"):
            module.to(torch.float32)
    model.tie_weights()  # a cast of parameters without memory makes new ones


def adapt(model: Any, job: TrainJob, device: str) -> Any:
    """Return a model as PEFT wraps it for a job: its base quantised, prepared, with adapters."""
    if job.method in ("full", "bitfit", "badam", "freeze", "lisa"):
        return freeze(model, job)
    try:
        import peft
    except ImportError:
        raise UnsupportedError("This method needs peft.", f"Do: {INSTALL}") from None
    packed: list[str] = []
    if job.quantization.startswith("gptq"):
        from oomph.referee.gptq import pack

        packed = pack(model, job, device)
    elif job.quantization.startswith("awq"):
        raise UnsupportedError("AutoAWQ does not run with the transformers of the trace.", "Ask oomph train alone.")
    elif job.quantization.startswith("aqlm"):
        raise UnsupportedError("AQLM's kernels do not run in a trace.", "Ask oomph train alone.")
    elif job.quantization.startswith("hqq"):
        from oomph.referee import hqq

        packed = hqq.pack(model, job, device)
    elif job.quantization.startswith("torchao"):
        from oomph.referee import torchao

        torchao.pack(model, job)
    elif job.quantization != "none":
        from oomph.referee.quantised import quantise

        compute = getattr(torch, COMPUTE[job.precision.removeprefix("amp-")])
        model = quantise(model, job, compute if job.kbit_preparation else model.dtype, compute, device)
    if job.kbit_preparation:
        # Checkpointing is turned on where it is for all jobs, with the kind that the job asks for.
        prepare: Any = peft.prepare_model_for_kbit_training
        model = prepare(model, use_gradient_checkpointing=False)
    config = _config(peft, job, _task(model), _targets(model, job))
    if packed and config.target_modules == ALL_LINEAR:
        config.target_modules = packed  # PEFT knows no all-linear of packed maps
    if job.freeze_vision:
        config.exclude_modules = rf"(.*\.)?({'|'.join(VISION)})(\..*)?"
    if job.method == "dora" and job.quantization != "none":
        from oomph.referee.quantised import teach_dora

        teach_dora()
    if job.quantization.startswith("gptq"):
        _for_gptq(config)
    with _without_extension():
        model = peft.get_peft_model(model, config, autocast_adapter_dtype=job.adapter_dtype == "fp32")
    if job.method in ("loha", "lokr"):
        _never_dropped(model)
    if job.method == "adalora" and job.quantization != "none":
        _moved_ranks(model)
    if job.method == "oft":
        _with_places_of_their_own(model)
    if job.method == "lora-fa":  # what PEFT's create_lorafa_optimizer does
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and "lora_A" not in name)
    if job.adapter_dtype == "base" and job.quantization != "none":
        # PEFT cannot tell a quantised base's dtype and leaves adapters in fp32; TRL casts them as here.
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(getattr(torch, COMPUTE[job.weight_dtype]))
    return model


@contextmanager
def _without_extension() -> Iterator[None]:
    """Let BOFT do without the CUDA extension that it would compile, and without writing its permutations one by one."""
    layer: Any = import_module("peft.tuners.boft.layer")
    with (
        patch.object(layer, "get_fbd_cuda", lambda: None),
        patch.object(layer.BOFTLayer, "perm2mat", lambda self, indices: torch.eye(len(indices))),
    ):
        yield


def _never_dropped(model: Any) -> None:
    """Spare LyCORIS's adapters the number that they draw on the host, to drop themselves at a rate of 0."""
    from peft.tuners.lycoris_utils import LycorisLayer

    for module in model.modules():
        if isinstance(module, LycorisLayer):
            layer: Any = module
            layer.eval()
            layer.train = partial(_unchanged, layer)


def _with_places_of_their_own(model: Any) -> None:
    """Tell rows from columns of a rotation's numbers, as moving them to a GPU does: they are made as one tensor."""
    from peft.tuners.oft.layer import OFTRotationModule

    for module in model.modules():
        if isinstance(module, OFTRotationModule):
            rotation: Any = module
            rotation.rows, rotation.cols = rotation.rows.clone(), rotation.cols.clone()


def _moved_ranks(model: Any) -> None:
    """Let AdaLoRA's ranks train, as they do where PEFT moves them to a quantised base's device."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or ".ranknum." in name)


def _unchanged(module: Any, mode: bool = True) -> Any:
    return module


def _for_gptq(config: Any) -> None:
    """Tell PEFT which adapter is for GPTQ's maps; it knows only GPTQModel's own classes."""
    from peft.tuners.lora.gptq import GPTQLoraLinear

    from oomph.referee.gptq import TorchLinear

    config._register_custom_module({TorchLinear: GPTQLoraLinear})


def switch_layers(model: Any, job: TrainJob) -> None:
    """Let the first so many layers train and no other, as LISA does before a step: nothing else is touched."""
    from oomph.referee.models import decoder_layers

    for index, layer in enumerate(decoder_layers(model)):
        layer.requires_grad_(index < job.active_layers)


# Towers and projectors.
VISION = ("vision_tower", "visual", "vision_model", "audio_tower", "multi_modal_projector", "connector")


def freeze(model: Any, job: TrainJob) -> Any:
    """Return a model with what the job freezes frozen: no PEFT in it.

    LISA's layers are switched off later (switch_layers): the optimizer has all of them.
    """
    from oomph.referee.models import decoder_layers

    if job.method == "bitfit":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith(".bias"))
        return model
    if job.method == "badam":
        model.requires_grad_(False)
        decoder_layers(model)[0].requires_grad_(True)
        return model
    if job.method == "freeze":
        from oomph.referee.llama_factory import freeze_tuned

        return freeze_tuned(model, job)
    parts = [module for module in model.modules() if isinstance(module, torch.nn.Embedding) and job.freeze_embeddings]
    parts += [part for name, part in model.named_modules() if job.freeze_vision and name.endswith(VISION)]
    for part in [*parts, *decoder_layers(model)[: job.freeze_layers]]:
        part.requires_grad_(False)
    return model


def _task(model: Any) -> str | None:
    """Return what PEFT calls a model's task: one that generates nothing, or reads no ids, is trained as a PeftModel."""
    generates = hasattr(model, "prepare_inputs_for_generation") and model.main_input_name == "input_ids"
    return "CAUSAL_LM" if generates else None


def _targets(model: Any, job: TrainJob) -> str | list[str] | None:
    """Return PEFT's target_modules: None is its own choice; all linear maps stand in for one where it has none."""
    if job.targets == DEFAULT:
        chooses = job.method not in RANKED | BLOCKED or has_default(model.config.model_type, job.method)
        return None if chooses else ALL_LINEAR
    if job.targets == ALL_LINEAR or is_pattern(job.targets):
        return job.targets
    return list(split(job.targets))


def _config(peft: Any, job: TrainJob, task: str | None, targets: str | list[str] | None) -> Any:
    """Return PEFT's config of a method."""
    saved = list(split(job.modules_to_save)) or None
    if job.method == "ln-tuning":
        return peft.LNTuningConfig(task_type=task, target_modules=targets, modules_to_save=saved)
    if job.method == "ia3":
        return peft.IA3Config(task_type=task, target_modules=targets, modules_to_save=saved)
    rate = job.adapter_dropout if job.dropout else 0.0
    if job.method in PROMPTED:
        kinds = {
            "prompt-tuning": peft.PromptTuningConfig,
            "p-tuning": peft.PromptEncoderConfig,
            "prefix-tuning": peft.PrefixTuningConfig,
        }
        return kinds[job.method](task_type=task, num_virtual_tokens=job.virtual_tokens)
    if job.method in ("loha", "lokr"):
        kind = peft.LoHaConfig if job.method == "loha" else peft.LoKrConfig
        return kind(task_type=task, r=job.rank, target_modules=targets, modules_to_save=saved)
    if job.method == "adalora":
        return peft.AdaLoraConfig(
            task_type=task, init_r=job.rank, total_step=TOTAL_STEP, target_modules=targets, lora_dropout=rate,
            modules_to_save=saved,
        )  # fmt: skip
    if job.method == "boft":
        size = job.block_size or boft.BLOCK_SIZE
        return peft.BOFTConfig(
            task_type="CAUSAL_LM", boft_block_size=size, target_modules=targets, modules_to_save=saved
        )  # fmt: skip
    if job.method == "oft":
        size = job.block_size or BLOCK_SIZE
        return peft.OFTConfig(
            task_type=task, oft_block_size=size, target_modules=targets, modules_to_save=saved
        )  # fmt: skip
    if job.method == "vera":
        return peft.VeraConfig(
            task_type=task, r=job.rank, target_modules=targets, vera_dropout=rate, modules_to_save=saved
        )
    return peft.LoraConfig(
        task_type=task,
        r=job.rank,
        rank_pattern=parsed(job.rank_pattern),
        lora_alpha=2 * job.rank,
        target_modules=targets,
        lora_dropout=rate,
        use_dora=job.method == "dora",
        modules_to_save=saved,
    )
