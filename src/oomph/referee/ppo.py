"""TRL's PPOTrainer in a trace: its own train(), without a Trainer behind it, up to the first optimizer step.

What is stood in for: the loader, accelerate on one process, callbacks, and the generation, which a trace begins after:
its answers and their logits are there, as batch_generation leaves them. The first iteration is run before where a later
one is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.referee import models
from oomph.referee.jobs import in_autocast
from oomph.referee.optimizers import make_optimizer
from oomph.referee.watcher import Watcher

MODULE = "trl.experimental.ppo.ppo_trainer"
INSTALL = 'pip install "trl>=1.0,<1.13"'
PADDING = 0  # the token; no byte depends on it
# PPOConfig's numbers, of which no byte depends but on estimator and whitening.
NUMBERS: dict[str, Any] = {
    "temperature": 0.7, "kl_coef": 0.05, "kl_estimator": "k1", "cliprange": 0.2, "cliprange_value": 0.2,
    "vf_coef": 0.1, "gamma": 1.0, "lam": 0.95, "whiten_rewards": False, "missing_eos_penalty": None,
    "num_ppo_epochs": 1, "total_episodes": 1, "num_sample_generations": 0, "ds3_gather_for_generation": True,
    "logging_steps": None, "eval_steps": None, "save_steps": None,
}  # fmt: skip


class Over(Exception):  # noqa: N818  the first optimizer step is made and its variables are gone
    """The step that counts is over."""


def train(raw: Any, model: Any, reference: Any, job: TrainJob, watcher: Watcher) -> None:
    """Run PPOTrainer.train to the end of its first optimizer step, of a second iteration if the job is steady."""
    if not find_spec("trl") or not find_spec("trl.experimental.ppo"):
        raise UnsupportedError("A trace of PPO needs TRL up to 1.12.", f"Do: {INSTALL}")
    module: Any = import_module(MODULE)
    value, reward = (models.build(raw, judging(job)) for _ in ("value", "reward"))
    reward.eval()
    wrapper = module.PolicyAndValueWrapper(model, value).train()
    wrapper.forward = _as_prepared(wrapper.forward, job, model.device.type)
    made = object.__new__(module.PPOTrainer)
    optimizer = make_optimizer(job, wrapper)
    accelerator = _Accelerator(job, model.device, watcher)
    stepping = _Optimizer(optimizer, wrapper, accelerator, watcher)
    beside = torch.nn.ModuleDict({"reward": reward} | ({} if reference is None else {"policy": reference}))
    vars(made).update(
        args=_arguments(job),
        accelerator=accelerator,
        optimizer=stepping,
        lr_scheduler=MagicMock(),
        model=wrapper,
        ref_model=reference,
        reward_model=reward,
        is_peft_model=reference is None,
        ref_adapter_name=None,
        model_adapter_name=None,
        processing_class=SimpleNamespace(pad_token_id=PADDING, eos_token_id=PADDING),
        stop_token_id=None,
        is_deepspeed_enabled=False,
        train_dataset_len=1,
        sample_generations_freq=1,
        state=SimpleNamespace(),
        control=SimpleNamespace(should_save=False),
        callback_handler=MagicMock(),
        log=lambda metrics: None,
    )
    made.callback_handler.on_train_begin.return_value = made.control
    made.callback_handler.on_step_end.return_value = made.control
    iterations = [0]

    def generated(policy: Any, queries: Any, *others: Any) -> tuple[Any, Any]:
        iterations[0] += 1
        stepping.made = False
        rows = queries.shape[0]
        query_responses, logits = (each[:rows] for each in _padded(job, model, rows))
        if iterations[0] == made.args.num_total_batches:
            watcher.ready(wrapper, optimizer, beside)
            watcher.mark("rollout")
        return query_responses, logits

    def emptied() -> None:
        if stepping.made and iterations[0] == made.args.num_total_batches:
            watcher.mark("end")
            raise Over

    made.dataloader = _Batches(job, model.device)
    stands = {
        "batch_generation": generated,
        "masked_whiten": _of_some(module.masked_whiten),
        "empty_cache": emptied,
        "unwrap_model_for_generation": lambda model, *others, **options: nullcontext(model),
    }
    with patch.dict(vars(module), stands), suppress(Over):
        made.train()


def _padded(job: TrainJob, model: Any, rows: int) -> tuple[Any, Any]:
    """Return tokens and logits of what was generated, for as many rows as the batches it went by have."""
    at_a_time = min(rows, job.rollout_batch)
    rows, vocabulary = -(-rows // at_a_time) * at_a_time, model.config.get_text_config().vocab_size
    tokens = torch.zeros((rows, job.seq_len), dtype=torch.long, device=model.device)
    return tokens, torch.zeros((rows, job.seq_len - job.prompt_len, vocabulary), device=model.device)


def _of_some(whiten: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that asks whether a mask is empty and hears no."""

    def whitened(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for mode in _get_current_dispatch_mode_stack():
                if hasattr(mode, "plain"):
                    stack.enter_context(patch.object(mode, "plain", False))
            return whiten(*args, **kwargs)

    return whitened


def judging(job: TrainJob) -> TrainJob:
    """Return the job whose model is a classifier of one label, as value and reward models are."""
    return TrainJob(
        precision=job.precision, attention=job.attention, dropout=False, task="sequence-classification", labels=1
    )


def _arguments(job: TrainJob) -> SimpleNamespace:
    """Return what train() reads of PPOConfig."""
    local = job.batch * job.accumulation
    return SimpleNamespace(
        **NUMBERS,
        response_length=job.seq_len - job.prompt_len,
        num_mini_batches=job.mini_batches,
        gradient_accumulation_steps=job.accumulation,
        num_total_batches=2 if job.steady else 1,
        batch_size=local,
        local_batch_size=local,
        local_mini_batch_size=local // job.mini_batches,
        per_device_train_batch_size=job.batch,
        local_rollout_forward_batch_size=job.rollout_batch,
    )


def _as_prepared(forward: Callable[..., Any], job: TrainJob, device_type: str) -> Callable[..., Any]:
    """Return a forward as accelerate's prepare_model wraps it under mixed precision."""

    def in_low_precision(*args: Any, **kwargs: Any) -> Any:
        with in_autocast(job, device_type):
            return forward(*args, **kwargs)

    if not job.fp32_outputs:
        return forward
    converted: Callable[..., Any] = import_module("accelerate.utils.operations").convert_outputs_to_fp32(
        in_low_precision
    )
    return converted


class _Batches:
    """Prompts, one batch after the other."""

    def __init__(self, job: TrainJob, device: Any) -> None:
        self.job, self.device = job, device

    def __iter__(self) -> Iterator[dict[str, Any]]:
        shape = (self.job.batch * self.job.accumulation, self.job.prompt_len)
        while True:
            yield {"input_ids": torch.zeros(shape, dtype=torch.long, device=self.device)}


class _Accelerator:
    """What train() asks of accelerate on one GPU."""

    def __init__(self, job: TrainJob, device: Any, watcher: Watcher) -> None:
        self.device, self.steps, self.watcher = device, job.accumulation, watcher
        self.done = 0
        self.print = lambda *words: None
        self.unwrap_model = self.gather_for_metrics = lambda given: given

    @property
    def sync_gradients(self) -> bool:
        """Say whether the micro-batch at work is the last of a step."""
        return self.done % self.steps == 0

    @contextmanager
    def accumulate(self, model: Any) -> Iterator[None]:
        """Count a micro-batch."""
        self.watcher.mark("forward")
        self.done += 1
        yield

    def backward(self, loss: Any) -> None:
        """Run the backward pass of a loss, divided as accelerate divides it."""
        loss = loss / self.steps
        self.watcher.mark("backward")
        loss.backward()
        self.watcher.mark("after backward")


class _Optimizer:
    """An optimizer that steps with the last micro-batch of a step, as accelerate's."""

    def __init__(self, optimizer: Any, model: Any, accelerator: _Accelerator, watcher: Watcher) -> None:
        self.optimizer, self.model, self.accelerator, self.watcher = optimizer, model, accelerator, watcher
        self.made = False

    def step(self) -> None:
        """Make a step if it is time."""
        if self.accelerator.sync_gradients:
            self.watcher.backward_done(self.model)
            if self.optimizer is not None:
                self.watcher.mark("optimizer step")
                self.optimizer.step()
                self.watcher.updated(self.optimizer)

    def zero_grad(self) -> None:
        """Free the gradients if it is time."""
        if self.accelerator.sync_gradients:
            self.watcher.mark("zero_grad")
            (self.optimizer or self.model).zero_grad(set_to_none=True)
            self.watcher.mark("metrics")
            self.made = True
