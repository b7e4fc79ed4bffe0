"""torch's selective checkpointing with the policies that a job's words stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from oomph.tape.selective import EVERY_OTHER

aten = torch.ops.aten
OPERATIONS: dict[str, tuple[Any, ...]] = {
    "mm": (aten.mm.default,),
    "addmm": (aten.addmm.default,),
    "bmm": (aten.bmm.default,),
    "attention": (
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
    ),
}


def selective_contexts(words: frozenset[str]) -> Callable[[], Any]:
    """Return a `context_fn` for torch.utils.checkpoint; each call of a checkpoint counts its products anew."""
    chosen = {op for word in words if word in OPERATIONS for op in OPERATIONS[word]}

    def contexts() -> Any:
        products = 0

        def policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
            nonlocal products
            keeps = op in chosen
            if op is aten.mm.default and EVERY_OTHER in words:
                keeps, products = keeps or not products % 2, products + 1
            return CheckpointPolicy.MUST_SAVE if keeps else CheckpointPolicy.PREFER_RECOMPUTE

        return create_selective_checkpoint_contexts(policy)

    return contexts
