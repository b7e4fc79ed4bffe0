"""Published start-up logs of ik_llama.cpp: its compute buffers, and what a log must say for them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from oomph.score.scoring import score

ROWS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("ik_rows.json").read_text())["rows"]
COMPUTED = ("compute_buffer_mib", "host_buffer_mib")


def _errors(row: dict[str, Any]) -> dict[str, float | str]:
    found = (one for one in score([("row", row)]) if one.quantity in COMPUTED)
    return {one.quantity: one.refused if one.refused else one.relative_error or 0.0 for one in found}


LONG = ("lcpp-077",)  # every layer of DeepSeek-R1 is played, on two GPUs
CASES = [pytest.param(row, id=row["id"], marks=[pytest.mark.slow] * (row["id"] in LONG)) for row in ROWS]


@pytest.mark.parametrize("row", CASES)
def test_published_buffers_come_out(row: dict[str, Any]) -> None:
    """To the last decimal: dense models and experts, one GPU or two, the processor alone."""
    found = _errors(row)
    assert found
    assert all(isinstance(error, float) and abs(error) < 1e-5 for error in found.values()), found


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"quant": "BF16"}, "too small or too large"),
        ({"model": "somebody's own"}, "is not known, or not this model's config"),
        ({"compute": [["Vulkan0", 1.0], ["Vulkan_Host", 1.0]]}, "Vulkan0 computes"),
        ({"compute": [["CUDA0", 1.0], ["CPU", 1.0], ["CUDA_Host", 1.0]]}, "a library for the CPU"),
    ],
)
def test_what_a_log_does_not_say_is_named(change: dict[str, Any], reason: str) -> None:
    """No guess where experts' types, the graph or the devices are others."""
    row = copy.deepcopy(next(row for row in ROWS if row["id"] == "lcpp-103"))
    if "compute" in change:
        row["measured"]["per_device"]["compute"] = change["compute"]
    else:
        row |= change
    assert all(reason in str(found) for found in _errors(row).values())


@pytest.mark.parametrize(
    "hostile", ["", "... GiB (... BPW)", "9999999.9 GiB (999.9 BPW)", None, 7, "0.0 GiB (0.0 BPW)"]
)
def test_a_file_size_that_is_none_does_no_harm(hostile: Any) -> None:
    """It is an estimate or a refusal, no traceback."""
    row = copy.deepcopy(next(row for row in ROWS if row["id"] == "lcpp-103"))
    row["file_size"] = hostile
    assert len(_errors(row)) == len(COMPUTED)
