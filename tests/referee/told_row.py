"""A stand-in for what measures a row, without torch: it waits a moment, in which Ctrl-C may come, and tells a row."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from oomph.referee import isolated

SECONDS = 1.0
DEVICE: dict[str, Any] = {
    "gpu": "stand-in", "total_bytes": 2**34, "compute_capability": "0.0", "n_gpus_seen": 1, "versions": {
        "torch": "2.13.0", "transformers": "5.23.0"}, "environment": {},
}  # fmt: skip
MEASURED = dict.fromkeys(("peak_allocated_bytes", "peak_reserved_bytes", "nvidia_smi_bytes", "resident_alloc_bytes"), 8)


def answer(question: dict[str, Any], _send: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Answer as oomph.referee.row does."""
    if question["ask"] == "device":
        return {"device": DEVICE}
    time.sleep(SECONDS)
    return {"row": {"status": "ok", "reason": "", "measured": dict(MEASURED)}}


if __name__ == "__main__":
    isolated.serve(answer)
