"""What a training step minimises: which forward passes happen, of which models, and what of them lives how long.

A file holds `inputs(job)`, the batch as names with shapes and dtypes in the order of the collator, and
`compute_loss(passes, inputs)`, which plays the trainer's method of that name and returns the loss and what the trainer
holds beside it through the backward pass. Where a trainer has a loop of its own (PPO) it holds `iterate(passes,
run_backward, update)` instead. `KINDS` says of each name what a job must know of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from oomph.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model


@dataclass(frozen=True)
class Kind:
    """An objective: its file, and whether it compares with a reference model.

    `teacher` says that the other model is a second one in any case, and may be of another size. `loss` is how the end
    of the model is computed, `judged` that models of value and reward are beside it, in a loop of its own; `task` what
    its head is for, of how many `labels`; `pads` says that its trainer gives a model without a padding token the
    tokenizer's, `valued` that a head of values stands on the decoder.
    """

    file: str
    loss: str
    reference: bool = False
    task: str = "causal-lm"
    labels: int = 0
    pads: bool = False
    teacher: bool = False
    judged: bool = False
    valued: bool = False


KINDS: dict[str, Kind] = {
    "sft": Kind("sft", "hf"),
    "dpo": Kind("dpo", "fused-head", reference=True),
    "ipo": Kind("dpo", "fused-head", reference=True),
    "kto": Kind("kto", "fused-head", reference=True),
    "cpo": Kind("cpo", "logits"),
    "simpo": Kind("cpo", "logits"),
    "grpo": Kind("grpo", "fused-head"),
    "grpo-kl": Kind("grpo", "fused-head", reference=True),
    "rloo": Kind("rloo", "fused-head", reference=True),
    "orpo": Kind("orpo", "logits"),
    "gkd": Kind("gkd", "logits", reference=True, teacher=True),
    "gkd-kl": Kind("gkd", "logits", reference=True, teacher=True),
    "distill": Kind("distill", "logits", reference=True, teacher=True),
    "ppo": Kind("ppo", "logits", reference=True, judged=True),
    "reward": Kind("reward", "hf", task="sequence-classification", labels=1, pads=True),
    "contrastive": Kind("contrastive", "hf", task="embedding"),
    "contrastive-cached": Kind("gradcache", "hf", task="embedding"),
}
# As LLaMA-Factory's trainers have them, which TRL has none of for the last three.
OF_FACTORY: dict[str, Kind] = {
    **dict.fromkeys(("dpo", "ipo"), Kind("factory_pairs", "logits", reference=True)),
    **dict.fromkeys(("simpo", "orpo"), Kind("factory_pairs", "logits")),
    "kto": Kind("factory_kto", "logits", reference=True),
    "reward": Kind("factory_reward", "logits", valued=True),
    **dict.fromkeys(("dft", "eaft"), Kind("factory_sft", "logits")),
    "asft": Kind("factory_asft", "hf", reference=True),
}
OF_FACTORY_ALONE = tuple(name for name in OF_FACTORY if name not in KINDS)
KINDS |= {name: OF_FACTORY[name] for name in OF_FACTORY_ALONE}


def kind_of(job: TrainJob) -> Kind:
    """Return what is known of a job's objective as its trainer has it."""
    own = job.objective_code == "llama-factory" and job.objective in OF_FACTORY
    return (OF_FACTORY if own else KINDS)[job.objective]


def objective_file(job: TrainJob) -> Any:
    """Return the file of a job's objective."""
    return import_module(f"oomph.objectives.{kind_of(job).file}")


def check_model(model: Model, job: TrainJob) -> None:
    """Refuse a model that an objective, or another input of a job, says nothing about."""
    from oomph.families.heads import task_of
    from oomph.programs import refuse_headless, refuse_unheard, sees

    if job.images and not sees(model.model_type):
        fix = "Leave --images out: what is played is text alone, the tower in memory."
        raise UnsupportedError(f"oomph cannot play images with {model.model_type or 'this model'} yet.", fix)
    refuse_unheard(model, job)
    if job.keeps_cache and model.model_type != "gpt_bigcode":
        raise UsageError("Checkpointing switches this model's cache off.", "Leave --keeps-cache out.")
    if job.task not in ("config", task_of(model.objective)):
        fix = "Build it for the job: oomph.answer.for_job."
        raise UsageError(f"The model has a head for {model.objective}, the job is {job.task}.", fix)
    if "target_len" in job.axes and model.objective != "seq2seq-lm":
        raise UsageError("The model writes as many tokens as it reads.", "Leave --target-len out.")
    if model.teacher is not None and model.teacher.vocab_size != model.vocab_size:
        fix = "Take a teacher of the same family: TRL compares whole distributions."
        raise UsageError(
            f"The teacher has {model.teacher.vocab_size} tokens, {model.name} has {model.vocab_size}.", fix
        )
    if job.objective == "sft":
        refuse_headless(model)
    if job.objective != "sft" and task_of(model.objective) != kind_of(job).task:
        fix = "Take the objective sft, or the model with its language head."
        raise UnsupportedError(f"The objective {job.objective} is of language models; {model.name} is none.", fix)
