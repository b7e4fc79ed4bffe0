"""Kernels that keep fewer tensors for the backward pass."""

from __future__ import annotations

from collections.abc import Iterable

from oomph.job import TrainJob
from oomph.job_words import BASES
from oomph.kernels.unsloth import PATCHES
from oomph.model import Model
from oomph.planning.lever import Lever, Price, replaced, setting
from oomph.programs.mixer_packages import packages_of, word_of


def _unsloth(job: TrainJob, model: Model) -> Iterable[TrainJob]:
    """Adapters on a type that it has a forward pass for, on a base whose rest is left in 16 bit."""
    if job.kernels not in ("torch", "liger") or model.model_type not in PATCHES or job.objective != "sft":
        return
    base = {"method": BASES.get(job.method, job.method), "kbit_preparation": False}
    changed = replaced(job, {"kernels": "unsloth", "loss": "unsloth", **(base if job.kbit_preparation else {})})
    if changed is not None:
        yield changed


def _packages(job: TrainJob, model: Model) -> Iterable[TrainJob]:
    """All that the model's class asks for, where a job goes without one."""
    word = word_of({word for packages in packages_of(model) for word in packages})
    changed = replaced(job, {"mixers": word}) if word != "torch" else None
    if changed is not None:
        yield changed


LEVERS = (
    Lever(
        "Liger's kernels",
        Price.NOTHING,
        "No cost, faster: norms, rotary embedding and activation are one kernel each, which computes again in its "
        "backward what others keep (liger-kernel).",
        "https://arxiv.org/abs/2410.10989",
        setting(lambda job: job.kernels == "torch" and job.method != "ln-tuning", kernels="liger"),
    ),
    Lever(
        "Unsloth's forward pass",
        Price.ROUNDING,
        "Faster: adapters are one function with the maps beneath, which keeps their input alone; norms, embedding and "
        "head stay in 16 bit where PEFT makes them fp32 (unsloth).",
        "https://unsloth.ai/blog/mistral-benchmark",
        _unsloth,
    ),
    Lever(
        "packages for layers that keep a state",
        Price.NOTHING,
        "No cost, faster: delta rules, Mamba's scans and convolutions over time are kernels that compute again in "
        "their backward what plain torch keeps; the packages that --mixers names have to be installed.",
        "https://arxiv.org/abs/2412.06464",
        _packages,
    ),
)
