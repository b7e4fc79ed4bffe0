"""What rows of all engines have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.score.reading import refuse, shown

UNQUANTISED = ("none", "bf16/fp16 (none)", "BF16", "bf16", "FP16", "fp16")
SPREAD = ("tp", "pp", "dp", "attn_tp", "n_gpus")


def one_device(row: Mapping[str, Any]) -> None:
    """Refuse a row of several GPUs."""
    for key in SPREAD:
        if row.get(key) not in (None, 1):
            raise refuse(f"{key}={shown(row[key])}", "one GPU only")
