"""LLaMA-Factory's own trainers in a trace: what computes their losses, without a Trainer behind it.

Its packages are imported without what they import by themselves: a file at a time, with stand-ins for what loads data
and models. The TRL that it asks for (up to 0.24) takes the pairs that newer versions of transformers answer, when asked
whether a package is there, for yes: while it is imported they answer as before.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec
from types import MethodType, ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.referee.losses import IGNORED
from oomph.referee.trl import _Accelerator

INSTALL = 'pip install --no-deps llamafactory==0.9.5 "trl==0.24.0"'
PACKAGE = "llamafactory"
BETWEEN = ("train", "train.dpo", "train.kto", "train.rm", "extras")
STOOD_FOR = ("hparams", "model", "train.callbacks")
LOSS_TYPES = {"dpo": "sigmoid", "ipo": "ipo", "orpo": "orpo", "simpo": "simpo"}
WEIGHED = ("dft", "eaft", "asft")


class _StandIn(ModuleType):
    """Stands for a module: whatever is asked of it is there."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


def imported(name: str) -> Any:
    """Return a file of LLaMA-Factory; refused where it is not installed."""
    found = PathFinder.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations or not find_spec("trl"):
        raise UnsupportedError("A trace of LLaMA-Factory's trainers needs it, and its TRL.", f"Do: {INSTALL}")
    if PACKAGE not in sys.modules:
        _import_trl()
        root, *_ = found.submodule_search_locations
        for dotted in ("", *BETWEEN):
            between = ModuleType(f"{PACKAGE}.{dotted}".rstrip("."))
            between.__path__ = [f"{root}/{dotted.replace('.', '/')}".rstrip("/")]
            sys.modules[between.__name__] = between
        for dotted in STOOD_FOR:
            stand_in = _StandIn(f"{PACKAGE}.{dotted}")
            stand_in.__path__ = [f"{root}/{dotted.replace('.', '/')}"]
            sys.modules[stand_in.__name__] = stand_in
    return import_module(f"{PACKAGE}.{name}")


def _import_trl() -> None:
    where: Any = import_module("transformers.utils.import_utils")

    def is_there(name: str, return_version: bool = False) -> Any:
        there = find_spec(name) is not None
        return (there, "N/A") if return_version else there

    with patch.object(where, "_is_package_available", is_there):
        import_module("trl.import_utils")
    for name in ("dpo", "kto"):
        import_module(f"trl.trainer.{name}_trainer")


def with_value_head(model: Any) -> Any:
    """Return a model with TRL's head of values on it, which stands for it in every way that a step asks for."""
    imported("train.rm.trainer")
    kind: Any = import_module("trl.models.modeling_value_head").AutoModelForCausalLMWithValueHead
    made = kind.from_pretrained(model)
    made.device = model.device
    return made


def freeze_tuned(model: Any, job: TrainJob) -> Any:
    """Return a model as LLaMA-Factory's freeze tuning leaves it: with adapter_dtype base as pure_bf16 has it."""
    arguments = SimpleNamespace(
        use_llama_pro=False,
        freeze_trainable_layers=job.active_layers,
        freeze_trainable_modules=["all"],
        freeze_extra_modules=None,
        freeze_multi_modal_projector=True,
        freeze_vision_tower=True,
        freeze_language_model=False,
    )
    imported("model.adapter")._setup_freeze_tuning(model, arguments, True, job.adapter_dtype == "fp32")
    return model


def checkpoint_what_trains(model: Any, options: dict[str, Any]) -> None:
    """Switch checkpointing on as LLaMA-Factory does: of layers in which something trains.

    It looks for the layer in a method, as transformers up to 5.8 handed one to checkpoint; 5.23 hands on a function.
    """
    imported("model.model_utils.checkpointing")._gradient_checkpointing_enable(model, options)
    for module in model.modules():
        if hasattr(module, "_gradient_checkpointing_func"):
            module._gradient_checkpointing_func = partial(_as_method, module._gradient_checkpointing_func)


def _as_method(checkpoint: Any, function: Any, *inputs: Any) -> Any:
    method = MethodType(function.func, function.args[0])
    return checkpoint(partial(method, **function.keywords), *inputs)


def trainer(job: TrainJob, model: Any, reference: Any) -> Any:
    """Return LLaMA-Factory's trainer of an objective with what its compute_loss reads."""
    if job.objective == "reward":
        return object.__new__(imported("train.rm.trainer").PairwiseTrainer)
    if job.objective in WEIGHED:
        model.config.use_cache = False  # model/model_utils/kv_cache.py
        return _Weighed(job, reference)
    accelerator = _Accelerator(model.device)
    arguments: dict[str, Any] = {
        "model": model,
        "ref_model": reference,
        "args": SimpleNamespace(device=model.device),
        "accelerator": accelerator,
        "beta": 0.1,
        "ftx_gamma": 0.0,
        "_peft_has_been_casted_to_bf16": False,
        "_stored_metrics": defaultdict(lambda: defaultdict(list)),
    }
    if job.objective == "kto":
        made = object.__new__(imported("train.kto.trainer").CustomKTOTrainer)
        arguments |= {"loss_type": "kto", "calculate_KL": True, "desirable_weight": 1.0, "undesirable_weight": 1.0}
    else:
        made = object.__new__(imported("train.dpo.trainer").CustomDPOTrainer)
        arguments |= {
            "finetuning_args": SimpleNamespace(use_ref_model=job.compares_with is not None),
            "loss_type": LOSS_TYPES[job.objective],
            "f_divergence_type": "reverse_kl",
            "reference_free": False,
            "bco_gemma": 0.0,
            "label_smoothing": 0.0,
            "simpo_gamma": 0.5,
            "ld_alpha": None,
        }
    vars(made).update(arguments)
    if job.objective != "kto":
        _with_one_loss_type(made)
    return made


def _with_one_loss_type(made: Any) -> None:
    """Let dpo_loss of TRL 0.24 hear of the type that LLaMA-Factory's own has set, which is not handed on."""
    theirs: Any = vars(type(made).__mro__[1])["dpo_loss"]
    made.dpo_loss = lambda *given: theirs(made, *given, loss_type=made.loss_type)


class _Weighed:
    """The Trainer's compute_loss with a loss of LLaMA-Factory's own, as CustomSeq2SeqTrainer sets it."""

    def __init__(self, job: TrainJob, reference: Any) -> None:
        self.objective, self.reference = job.objective, reference
        self.found = job.batch * (job.seq_len - max(1, job.prompt_len))
        self.of = imported("train.trainer_utils")

    def compute_loss(self, model: Any, inputs: Any) -> Any:
        """Return the loss of what is scored, which is something."""
        with ExitStack() as stack:
            stack.enter_context(patch.object(torch.Tensor, "any", _some))
            if hasattr(inputs["labels"], "fake_mode"):
                stack.enter_context(patch.object(inputs["labels"].fake_mode, "found", self.found))
            return self._compute_loss(model, inputs)

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        if self.objective == "asft":
            return self._asft(model, inputs)
        num_items_in_batch = inputs["num_items_in_batch"]
        labels = inputs.pop("labels")
        outputs = model(**{name: each for name, each in inputs.items() if name != "num_items_in_batch"})
        if self.objective == "dft":
            return self.of.dft_loss_func(outputs, labels, num_items_in_batch=num_items_in_batch)
        return self.of.eaft_loss_func(outputs, labels, num_items_in_batch, 1.0)

    def _asft(self, model: Any, inputs: Any) -> Any:
        """Do what CustomSeq2SeqTrainer.compute_loss does with use_asft_loss."""
        with torch.no_grad():
            ref_outputs = self.reference(
                input_ids=inputs["input_ids"], attention_mask=inputs.get("attention_mask", None)
            )
            ref_logits = ref_outputs.logits
        outputs = model(**inputs)
        return self.of.asft_loss_func(outputs, inputs["labels"], ref_logits, asft_alpha=0.1)


def _some(mask: Any, real: Any = torch.Tensor.any) -> bool:
    real(mask)
    return True


def inputs(job: TrainJob, model: Any) -> dict[str, Any]:
    """Return a batch as LLaMA-Factory's collators make it."""
    rows = job.batch * (2 if job.objective in (*LOSS_TYPES, "reward") else 1)
    names = ["input_ids", "attention_mask", "labels"]
    if job.objective == "reward":
        names.remove("labels")
    if job.objective in WEIGHED and not job.padding:
        names.remove("attention_mask")
    made: dict[str, Any] = {}
    for prefix in ("", "kl_") if job.objective == "kto" else ("",):
        for name in names:
            made[f"{prefix}{name}"] = torch.ones(rows, job.seq_len, dtype=torch.long, device=model.device)
        if job.padding:
            made[f"{prefix}attention_mask"][:, :1].zero_()
        if "labels" in names:
            made[f"{prefix}labels"][:, : job.prompt_len].fill_(IGNORED)
    if job.objective == "kto":
        made["kto_tags"] = torch.ones(rows, dtype=torch.bool, device=model.device)
    if job.objective in ("dft", "eaft"):
        made["num_items_in_batch"] = torch.ones((), dtype=torch.long, device=model.device)
    return made
