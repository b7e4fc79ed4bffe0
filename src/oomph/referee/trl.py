"""TRL's own code in a trace: its fused language head without Triton, its trainers' losses without a Trainer.

Its kernels write into tensors that are there; where TRL would fold tiles in torch (a device without Triton), it is told
that Triton is there and launches do nothing. What CUDA adds to an fp32 tensor in one product is added so here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.job_words import COMPLETING
from oomph.referee.losses import Kernel, unwrapped, without_triton

INSTALL = 'pip install "trl>=1.15"'
OF_SFT = ("log_probs", "entropy", "is_top1")  # what SFTTrainer asks the fused head for
OF_DPO = ("log_probs", "entropy", "mean_logits", "is_top1")
LOSS_TYPES = {"dpo": "sigmoid", "ipo": "ipo", "cpo": "sigmoid", "simpo": "simpo", "kto": "kto"}


def utils() -> Any:
    """Return trl.trainer.utils of a version with the fused head; refused where there is none."""
    found = import_module("trl.trainer.utils") if find_spec("trl") else None
    if not hasattr(found, "add_fused_lm_head"):
        raise UnsupportedError("A trace of TRL's fused head needs TRL.", f"Do: {INSTALL}")
    return found


def fused_head(model: Any) -> None:
    """Give a model, or the one that PEFT wrapped, TRL's fused language head, and ask for it, as SFTTrainer does."""
    model = unwrapped(model)
    utils().add_fused_lm_head(model, outputs=OF_SFT)
    model.forward = partial(model.forward, fused_lm_head=True)


CHUNK = 256  # tokens of chunked_nll


def chunked_nll(model: Any) -> None:
    """Give a model TRL's chunked_nll, as SFTTrainer did from 1.7 to 1.14."""
    found: Any = import_module("trl.trainer.sft_trainer") if find_spec("trl") else None
    if not hasattr(found, "_patch_chunked_ce_lm_head"):
        raise UnsupportedError("A trace of chunked_nll needs TRL up to 1.14.", 'Do: pip install "trl==1.14.2"')
    found._patch_chunked_ce_lm_head(model, chunk_size=CHUNK)


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Run TRL's chunked log-probabilities as with Triton on a GPU."""
    where = utils()
    kernels = import_module("trl.kernels.chunked_logprob")
    stands: dict[str, Any] = {name: Kernel() for name in ("_forward_kernel", "_backward_kernel")}
    stands |= {"_addmm_fp32": _added, "_use_triton": _yes}
    stands["triton"] = SimpleNamespace(cdiv=lambda a, b: -(-a // b))
    with patch.dict(vars(kernels), stands), patch.object(where, "_use_triton", _yes):
        yield


def _yes(device: Any) -> bool:
    return True


def _added(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Stand for a product added to an fp32 tensor in place."""


@contextmanager
def with_kernel_for_logits() -> Iterator[None]:
    """Run TRL's log-probabilities of logits as with Triton on a GPU."""
    where = utils()
    with without_triton():
        found = import_module("trl.kernels.logprob_entropy").selective_log_softmax_and_entropy
    stands = {
        "is_triton_available": lambda: True,
        "_supports_trl_loss_kernel": _always,
        "_fused_logprob_entropy": found,
    }
    with patch.dict(vars(where), stands):
        yield


def _always(*asked: Any) -> bool:
    return True


def trainer(job: TrainJob, model: Any, reference: Any) -> Any:
    """Return TRL's trainer of an objective with what its compute_loss reads, and no Trainer behind it.

    Both models get their fused heads, as its constructor gives them.
    """
    if job.objective == "ppo":
        raise UnsupportedError("Measurements run no loop of PPO yet.", "Estimate it: oomph train.")
    if job.objective in ("cpo", "simpo"):
        return _cpo_trainer(job, model)
    if job.objective == "orpo":
        return _orpo_trainer(model)
    if job.objective == "rloo":
        return _rloo_trainer(job, model)
    if job.objective.startswith("grpo"):
        return _grpo_trainer(job, model)
    if job.objective == "reward":
        return _reward_trainer(model)
    if job.objective.startswith("gkd"):
        return _gkd_trainer(job, model, reference)
    if job.objective == "distill":
        return _distillation_trainer(model, reference)
    name = "kto" if job.objective == "kto" else "dpo"
    kind = getattr(import_module(f"trl.trainer.{name}_trainer"), f"{name.upper()}Trainer")
    utils().add_fused_lm_head(unwrapped(model), outputs=OF_DPO)
    if reference is not None:
        utils().add_fused_lm_head(reference)
    made = object.__new__(kind)
    options = {"use_reentrant": job.checkpointing == "reentrant"}
    vars(made).update(
        model=model,
        ref_model=reference,
        args=SimpleNamespace(gradient_checkpointing_kwargs=options, max_length=None),
        accelerator=_Accelerator(model.device),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=job.compares_with == "precomputed",
        f_divergence_type="reverse_kl",
        loss_types=[LOSS_TYPES[job.objective]],
        loss_weights=[1.0],
        beta=0.1,
        use_weighting=False,
        loss_type="kto",
        calculate_KL=True,
        desirable_weight=1.0,
        undesirable_weight=1.0,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    return made


def _cpo_trainer(job: TrainJob, model: Any) -> Any:
    """Return TRL's CPOTrainer with what its compute_loss reads."""
    made = object.__new__(import_module("trl.experimental.cpo.cpo_trainer").CPOTrainer)
    vars(made).update(
        accelerator=_Accelerator(model.device),
        aux_loss_enabled=False,
        is_encoder_decoder=False,
        pad_token_id=0,
        cpo_alpha=0.0 if job.objective == "simpo" else 1.0,
        loss_type=LOSS_TYPES[job.objective],
        alpha=0.0,
        beta=0.1,
        simpo_gamma=0.5,
        label_smoothing=0.0,
        _peft_has_been_casted_to_bf16=False,
        _stored_metrics=defaultdict(lambda: defaultdict(list)),
    )
    return made


def _orpo_trainer(model: Any) -> Any:
    """Return TRL's ORPOTrainer with what its compute_loss reads."""
    made = object.__new__(import_module("trl.experimental.orpo.orpo_trainer").ORPOTrainer)
    vars(made).update(
        args=SimpleNamespace(device=model.device),
        accelerator=_Accelerator(model.device),
        aux_loss_enabled=False,
        is_encoder_decoder=False,
        padding_value=0,
        beta=0.1,
        _peft_has_been_casted_to_bf16=False,
        _stored_metrics=defaultdict(lambda: defaultdict(list)),
    )
    return made


def _grpo_trainer(job: TrainJob, model: Any) -> Any:
    """Return TRL's GRPOTrainer with what its loss reads: the defaults of GRPOConfig."""
    utils().add_fused_lm_head(unwrapped(model), outputs=("log_probs", "entropy"))
    made = object.__new__(import_module("trl.trainer.grpo_trainer").GRPOTrainer)
    vars(made).update(
        model=model,
        args=SimpleNamespace(delta=None, steps_per_generation=job.accumulation, use_bias_correction_kl=False),
        accelerator=_Accelerator(model.device, job),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=0.04 if job.objective == "grpo-kl" else 0.0,
        loss_type="dapo",
        epsilon_low=0.2,
        epsilon_high=0.2,
        use_vllm=False,
        current_gradient_accumulation_steps=job.accumulation,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    made.compute_loss = made._compute_loss  # without what measures its time
    return made


def _rloo_trainer(job: TrainJob, model: Any) -> Any:
    """Return TRL's RLOOTrainer with what its loss reads: the defaults of RLOOConfig."""
    utils().add_fused_lm_head(unwrapped(model), outputs=("log_probs", "entropy"))
    made = object.__new__(import_module("trl.trainer.rloo_trainer").RLOOTrainer)
    vars(made).update(
        model=model,
        accelerator=_Accelerator(model.device, job),
        aux_loss_enabled=False,
        epsilon_low=0.2,
        epsilon_high=0.2,
        _metrics={"train": defaultdict(list)},
    )
    made.compute_loss = made._compute_loss  # without what measures its time
    return made


def _reward_trainer(model: Any) -> Any:
    """Return TRL's RewardTrainer with what its compute_loss reads: the defaults of RewardConfig."""
    made = object.__new__(import_module("trl.trainer.reward_trainer").RewardTrainer)
    vars(made).update(
        model=model,
        args=SimpleNamespace(center_rewards_coefficient=None),
        accelerator=_Accelerator(model.device),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    return made


def _gkd_trainer(job: TrainJob, model: Any, teacher: Any) -> Any:
    """Return TRL's GKDTrainer with what its compute_loss reads: the defaults of GKDConfig, or a beta of 0."""
    module: Any = import_module("trl.experimental.gkd.gkd_trainer")
    module.empty_cache = lambda: None
    made = object.__new__(module.GKDTrainer)
    vars(made).update(model=model, teacher_model=teacher, beta=0.0 if job.objective == "gkd-kl" else 0.5)
    compute_loss = made.compute_loss
    made.compute_loss = lambda model, inputs: compute_loss(
        model, inputs, num_items_in_batch=inputs["num_items_in_batch"]
    )
    return made


def _distillation_trainer(model: Any, teacher: Any) -> Any:
    """Return TRL's DistillationTrainer with what its compute_loss reads: the defaults of DistillationConfig."""
    made = object.__new__(import_module("trl.trainer.distillation_trainer").DistillationTrainer)
    vars(made).update(
        model=model,
        teacher_model=teacher,
        accelerator=_Accelerator(model.device),
        beta=1.0,
        temperature=1.0,
        model_kwarg_keys=("logits_to_keep",),
        _is_vlm=False,
        _forward_redirection=import_module("trl.models.utils")._ForwardRedirection(),
        _metrics={"train": defaultdict(list)},
    )
    return made


@contextmanager
def divergences_as_on_cuda() -> Iterator[None]:
    """Run TRL's divergence of tiles as with Triton on a GPU, whose products write into the tiles."""
    where = import_module("trl.kernels.chunked_divergence")
    stands: dict[str, Any] = {name: Kernel() for name in ("_stats_kernel", "_jsd_kernel", "_backward_kernel")}
    stands |= {"_addmm_fp32": _added, "_use_triton": _yes, "_project": _projected}
    stands["triton"] = SimpleNamespace(cdiv=lambda a, b: -(-a // b))
    trainer = import_module("trl.trainer.distillation_trainer")
    with patch.dict(vars(where), stands), patch.object(trainer, "_use_triton", _yes):
        yield


def _projected(tile: Any, hidden: Any, weight: Any, bias: Any, start: int, end: int, dtype: Any) -> None:
    """Stand for a product of 16-bit numbers that CUDA writes into an fp32 tile."""
    weight[start:end].to(dtype)


class _Accelerator:
    """What a trainer asks of accelerate on one GPU."""

    num_processes = 1
    is_main_process = False  # it would log how long things take

    def __init__(self, device: Any, job: TrainJob | None = None) -> None:
        self.device, self.job = device, job
        self.gather = self.gather_for_metrics = self.unwrap_model = lambda given: given

    @staticmethod
    def reduce(given: Any, reduction: str) -> Any:
        """Return what there is on one GPU."""
        return given

    def autocast(self) -> Any:
        """Return the autocast of a job."""
        from oomph.referee.jobs import in_autocast

        assert self.job is not None
        return in_autocast(self.job, self.device.type)


def inputs(job: TrainJob, model: Any) -> dict[str, Any]:
    """Return a batch as DataCollatorForPreference makes it: of chosen, then of rejected answers."""
    if job.objective in ("cpo", "simpo", "orpo"):
        return _apart(job, model)
    if job.objective in COMPLETING:
        return _completed(job, model)
    if job.objective == "kto":
        return _unpaired(job, model)
    if job.objective.startswith("gkd"):
        return _taught(job, model)
    device, shape = model.device, (2 * job.batch, job.seq_len)
    made = {"input_ids": torch.randint(model.config.get_text_config().vocab_size, shape, device=device)}
    masks = ("attention_mask",) if job.objective == "reward" else ("attention_mask", "completion_mask")
    for name in masks:
        made[name] = torch.ones(shape, dtype=torch.long, device=device)
    if job.padding:
        made["attention_mask"][:, :1].zero_()
    if "completion_mask" in made:
        made["completion_mask"][:, : job.prompt_len].zero_()
    if job.compares_with == "precomputed":
        made |= {name: torch.zeros(job.batch, device=device) for name in ("ref_chosen_logps", "ref_rejected_logps")}
    return made


def _apart(job: TrainJob, model: Any) -> dict[str, Any]:
    """Return a batch as DPODataCollatorWithPadding makes it: chosen and rejected answers in tensors of their own."""
    device, made = model.device, {}
    for answer in ("chosen", "rejected"):
        for name in ("input_ids", "attention_mask", "labels"):
            made[f"{answer}_{name}"] = torch.ones(job.batch, job.seq_len, dtype=torch.long, device=device)
        if job.padding:
            made[f"{answer}_attention_mask"][:, :1].zero_()
    if job.prompt_len:
        shape = (job.batch, job.prompt_len)
        made |= {
            f"prompt_{name}": torch.ones(shape, dtype=torch.long, device=device)
            for name in ("input_ids", "attention_mask")
        }
    return made


def _completed(job: TrainJob, model: Any) -> dict[str, Any]:
    """Return a micro-batch as GRPOTrainer cuts it from what was generated."""
    device, made = model.device, {}
    for name, length in (("prompt", job.prompt_len), ("completion", job.seq_len - job.prompt_len)):
        for what in ("ids", "mask"):
            made[f"{name}_{what}"] = torch.ones(job.batch, length, dtype=torch.long, device=device)
    if job.padding:
        made["prompt_mask"][:, :1].zero_()
    if job.objective == "rloo":
        made["old_logps"] = torch.zeros(job.batch, device=device)
    if job.objective != "distill":
        made["advantages"] = torch.zeros(job.batch, device=device)
    if job.objective.startswith("grpo"):
        made["num_items_in_batch"] = torch.ones((), dtype=torch.long, device=device)
    if job.objective == "distill":
        made["num_items_in_batch"] = torch.ones((), dtype=torch.long, device=device)
        return made
    if job.objective == "grpo-kl":
        made["ref_per_token_logps"] = torch.zeros(job.batch, job.seq_len - job.prompt_len, device=device)
    return made


def _taught(job: TrainJob, model: Any) -> dict[str, Any]:
    """Return a batch as DataCollatorForChatML makes it, and the number of tokens that count."""
    device, shape = model.device, (job.batch, job.seq_len)
    made = {
        name: torch.ones(shape, dtype=torch.long, device=device) for name in ("input_ids", "attention_mask", "labels")
    }
    if job.padding:
        made["attention_mask"][:, :1].zero_()
    made["labels"][:, : job.prompt_len].fill_(-100)
    made["num_items_in_batch"] = torch.ones((), dtype=torch.long, device=device)
    return made


def _unpaired(job: TrainJob, model: Any) -> dict[str, Any]:
    """Return a batch as DataCollatorForUnpairedPreference makes it."""
    device, made = model.device, {}
    for prefix in ("", "KL_"):
        for name in ("input_ids", "attention_mask", "completion_mask"):
            made[f"{prefix}{name}"] = torch.ones(job.batch, job.seq_len, dtype=torch.long, device=device)
        if job.padding:
            made[f"{prefix}attention_mask"][:, :1].zero_()
        made[f"{prefix}completion_mask"][:, : job.prompt_len].zero_()
    if job.compares_with == "precomputed":
        made |= {name: torch.zeros(job.batch, device=device) for name in ("ref_logps", "ref_KL_logps")}
    made["label"] = torch.ones(job.batch, dtype=torch.bool, device=device)
    return made
