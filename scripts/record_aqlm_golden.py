"""Record what a linear map of AQLM with an adapter of PEFT allocates and frees, forward and backward.

    pip install --no-deps aqlm==1.1.7
    python scripts/record_aqlm_golden.py

The classes are the real ones; of the CUDA kernels, which need a GPU, runs what they do with torch's own operations:
their C++ (inference_kernels/cuda_kernel.cpp, code1x16_matmat_dequant and its transposed form), whose locals die last
first. Writes tests/methods/aqlm_events.json; the test of that name says what the numbers are.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
GOLDEN = ROOT / "tests" / "methods" / "aqlm_events.json"
INPUTS, OUTPUTS, RANK, GROUP = 64, 96, 4, 8
CASES = [
    {"x": [2, 5, INPUTS], "dtype": "float16", "books": 1, "bits": 16, "autocast": False},
    {"x": [2, 5, INPUTS], "dtype": "bfloat16", "books": 2, "bits": 8, "autocast": False},
    {"x": [1, 40, INPUTS], "dtype": "float16", "books": 1, "bits": 16, "autocast": True},
]


def _dense(codes: Any, codebooks: Any) -> Any:
    import torch

    return torch.empty(codes.shape[0], codes.shape[1] * codebooks.shape[3], dtype=codebooks.dtype)


def forward(x: Any, codes: Any, codebooks: Any, scales: Any, bias: Any) -> Any:
    """Do what code1x16_matmat_dequant does."""
    import torch

    flat_input = x.reshape(-1, x.shape[-1])
    weight = _dense(codes, codebooks)
    flat_output = torch.nn.functional.linear(flat_input, weight)
    flat_output *= scales.flatten().unsqueeze(0)
    out = flat_output.reshape(*x.shape[:-1], flat_output.shape[-1]).clone()
    del flat_output, weight
    return out


def backward(gradient: Any, codes: Any, codebooks: Any, scales: Any, bias: Any) -> Any:
    """Do what code1x16_matmat_dequant_transposed does."""
    import torch

    flat = gradient.reshape(-1, gradient.shape[-1])
    scaled_input = (flat * scales.flatten().unsqueeze(0)).reshape(gradient.shape)
    del flat
    weight = _dense(codes, codebooks)
    out = torch.nn.functional.linear(scaled_input, weight.transpose(0, 1))
    del weight, scaled_input
    return out


def _operation() -> Any:
    """Return AQLM's autograd function of these kernels."""
    from aqlm.inference import _get_autograd_matmul_op  # type: ignore[import-not-found]

    return _get_autograd_matmul_op(forward, backward)


def record(case: dict[str, Any]) -> dict[str, Any]:
    """Return the case with the bytes of each allocation, and events: n allocates, ~n frees."""
    import torch
    from aqlm import QuantizedLinear  # type: ignore[import-not-found]
    from peft import LoraConfig
    from peft.tuners.lora.aqlm import AqlmLoraLinear

    from oomph.referee.fake import cuda_kernels, fake_tensors
    from oomph.referee.tracker import Tracker

    dtype = getattr(torch, case["dtype"])
    tracker = Tracker()
    with fake_tensors(), cuda_kernels("flash", lambda kernel: None), tracker:
        base = QuantizedLinear(INPUTS, OUTPUTS, GROUP, 1, case["books"], case["bits"], bias=False, dtype=dtype)
        layer = AqlmLoraLinear(base, "default", LoraConfig(r=RANK), r=RANK, lora_alpha=2 * RANK)
        base.gemv_op = base.gemm_op = _operation()
        base.use_gemv_rule = lambda x: False
        x = torch.empty(case["x"], dtype=dtype, requires_grad=True)
        tracker.restart([("parameters", "parameter", [*layer.named_parameters(), *layer.named_buffers(), ("x", x)])])
        start = len(tracker.stream.events)
        with torch.autocast("cpu", dtype, enabled=case["autocast"]):
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
    found = {
        "recipe": (__doc__ or "").strip(),
        "map": {"inputs": INPUTS, "outputs": OUTPUTS, "group": GROUP, "rank": RANK},
        "versions": {name: version(name).partition("+")[0] for name in ("aqlm", "peft", "torch")},
        "cases": [record(case) for case in CASES],
    }
    text = json.dumps(found, indent=1)
    GOLDEN.write_text(re.sub(r"\[[-\d\s,]+\]", lambda row: " ".join(row[0].split()), text) + "\n")
    print(f"{len(CASES)} cases in {GOLDEN.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
