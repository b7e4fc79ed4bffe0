"""The loss of models with code of their own, which no version of transformers changes."""

from __future__ import annotations

from oomph.losses import check_loss

OWN = frozenset({"hf", "hf-4.46", "hf-4.45", "shifted"})  # names under which a job means the class's loss


def check_own(name: str) -> None:
    """Refuse a loss that takes the place of the class's own."""
    if name not in OWN:
        check_loss(name, "a model with code of its own")
