"""A plain loop: `outputs = model(...); outputs.loss.backward(); optimizer.step(); optimizer.zero_grad()`."""

from __future__ import annotations

from oomph.runtimes.base import Default, Defaults, Runtime, Versions


def defaults(versions: Versions) -> Defaults:
    """Return the defaults of a plain loop: those of torch.optim.AdamW and of the model's config."""
    return {
        "use_cache": Default(True, "a config's use_cache is True, and nobody switches it off"),
        "hold_logits": Default(True, "the variable `outputs` lives through backward"),
        "implementation": Default("foreach", "torch.optim.AdamW takes foreach on a GPU"),
    }


def of_objective(objective: str, versions: Versions) -> Defaults:
    """Return what a plain loop with a trainer's loss says otherwise: nothing."""
    return {}


RUNTIME = Runtime("pytorch", "a training loop written out", "torch/optim/adamw.py", defaults, of_objective=of_objective)
