"""Record what a linear map of AutoAWQ with an adapter of PEFT allocates and frees, forward and backward.

    pip install --no-deps autoawq==0.2.9
    python scripts/record_awq_golden.py

The package no longer runs with today's transformers; of it modules/linear/gemm.py alone is loaded. Its kernels are
replaced by torch.empty of what they return: the unpacked weight, and eight partial sums that are then summed. Writes
tests/methods/awq_events.json; the test of that name says what the numbers are.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
GOLDEN = ROOT / "tests" / "methods" / "awq_events.json"
INPUTS, OUTPUTS, GROUP, RANK, SPLIT_K = 64, 96, 32, 4, 8
CASES = [
    {"x": [2, 5, INPUTS], "dtype": "float16", "bias": True, "autocast": False},
    {"x": [2, 5, INPUTS], "dtype": "bfloat16", "bias": False, "autocast": False},
    {"x": [2, 512, INPUTS], "dtype": "float16", "bias": False, "autocast": True},
    {"x": [2, 512, INPUTS], "dtype": "float32", "bias": True, "autocast": True},
    {"x": [3, 400, INPUTS], "dtype": "bfloat16", "bias": True, "autocast": False},
]


def gemm() -> Any:
    """Return AutoAWQ's module of the map, with kernels that only allocate."""
    import torch

    found = find_spec("awq")
    assert found is not None
    root = Path(str(found.submodule_search_locations[0]))
    for name in ("awq", "awq.utils"):
        sys.modules[name] = ModuleType(name)
    for name, members in {
        "awq.utils.module": {"try_import": lambda name: (None, "")},
        "awq.utils.utils": {"get_best_device": lambda: "cpu"},
        "awq.utils.packing_utils": {"dequantize_gemm": None},
    }.items():
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__dict__.update(members)
    spec = spec_from_file_location("awq_gemm", root / "modules" / "linear" / "gemm.py")
    assert spec is not None
    assert spec.loader is not None
    made: Any = module_from_spec(spec)
    spec.loader.exec_module(made)
    half = torch.float16
    made.awq_ext = SimpleNamespace(
        dequantize_weights_cuda=lambda qweight, *rest: torch.empty(qweight.shape[0], qweight.shape[1] * 8, dtype=half),
        gemm_forward_cuda=lambda x, qweight, *rest: torch.empty(
            SPLIT_K, x.shape[0], qweight.shape[1] * 8, dtype=half
        ).sum(0),
    )
    return made


def record(made: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Return the case with the bytes of each allocation, and events: n allocates, ~n frees."""
    import torch
    from peft import LoraConfig
    from peft.tuners.lora.awq import AwqLoraLinear

    from oomph.referee.fake import cuda_kernels, fake_tensors
    from oomph.referee.tracker import Tracker

    tracker = Tracker()
    with fake_tensors(), cuda_kernels("flash", lambda kernel: None), tracker:
        base = made.WQLinear_GEMM(4, GROUP, INPUTS, OUTPUTS, case["bias"], "cpu", training=True)
        layer = AwqLoraLinear(base, "default", LoraConfig(r=RANK), r=RANK, lora_alpha=2 * RANK)
        x = torch.empty(case["x"], dtype=getattr(torch, case["dtype"]), requires_grad=True)
        tracker.restart([("parameters", "parameter", [*layer.named_parameters(), *layer.named_buffers(), ("x", x)])])
        start = len(tracker.stream.events)
        with torch.autocast("cpu", torch.float16, enabled=case["autocast"]):
            h = x * 1.0
            out = layer(h)
            del h
        gradient = torch.empty_like(out)
        out.backward(gradient)
        del out, gradient
        events = [(ordinal - start, n_bytes) for ordinal, n_bytes in tracker.stream.events[start:]]
    sizes = {ordinal: n_bytes for ordinal, n_bytes in events if n_bytes > 0}
    return {
        **case,
        "sizes": [sizes[at] for at in sorted(sizes)],
        "events": [ordinal if n_bytes > 0 else ~ordinal for ordinal, n_bytes in events],
    }


def main() -> None:
    """Record all cases and write the file."""
    made = gemm()
    found = {
        "recipe": (__doc__ or "").strip(),
        "map": {"inputs": INPUTS, "outputs": OUTPUTS, "group": GROUP, "rank": RANK},
        "versions": {name: version(name).partition("+")[0] for name in ("autoawq", "peft", "torch")},
        "cases": [record(made, case) for case in CASES],
    }
    text = json.dumps(found, indent=1)
    GOLDEN.write_text(re.sub(r"\[[-\d\s,]+\]", lambda row: " ".join(row[0].split()), text) + "\n")
    print(f"{len(CASES)} cases in {GOLDEN.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
