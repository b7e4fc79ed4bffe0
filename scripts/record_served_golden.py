"""Record what quantised linear maps allocate and free in a forward pass without gradients.

    pip install --no-deps auto_gptq==0.7.1 --target PACKAGES
    pip install --no-deps transformers==4.51.3 --target PACKAGES
    python scripts/record_served_golden.py PACKAGES

Of the packages three files are loaded alone: auto_gptq's qlinear_exllama.py and qlinear_cuda_old.py, and transformers'
integrations/finegrained_fp8.py. Their kernels write into tensors that are there, and are replaced by calls that do
nothing. Writes tests/methods/served_events.json; tests/methods/test_served.py says what the numbers are.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
GOLDEN = ROOT / "tests" / "methods" / "served_events.json"
ON_GPU = ('x.device.type == "cuda"', "True")  # fake tensors are on a device called cpu
INPUTS, OUTPUTS, GROUP = 256, 384, 128
CASES = [
    {"kernel": "exllama", "bits": 4, "rows": 5, "dtype": "float16", "bias": True},
    {"kernel": "exllama", "bits": 4, "rows": 200, "dtype": "bfloat16", "bias": False},
    {"kernel": "cuda-old", "bits": 8, "rows": 5, "dtype": "float16", "bias": True},
    {"kernel": "cuda-old", "bits": 4, "rows": 127, "dtype": "float16", "bias": False},
    {"kernel": "cuda-old", "bits": 8, "rows": 128, "dtype": "float16", "bias": True},
    {"kernel": "fp8", "bits": 8, "rows": 5, "dtype": "bfloat16", "bias": False},
    {"kernel": "fp8", "bits": 8, "rows": 200, "dtype": "bfloat16", "bias": True},
]


def nothing(*args: Any, **options: Any) -> None:
    """Stand for a kernel."""


class Launched:
    """Stand for a kernel of Triton: kernel[grid](...)."""

    def __getitem__(self, grid: Any) -> Any:
        return nothing


def loaded(path: Path, name: str, around: dict[str, dict[str, Any]]) -> Any:
    """Return a file of a package as a module; `around` are modules that it imports, with their members."""
    for module, members in around.items():
        made = sys.modules[module] = ModuleType(module)
        made.__dict__.update(members)
        made.__path__ = []  # a package
    text = path.read_text().replace(*ON_GPU)
    module: Any = ModuleType(name)
    module.__package__ = name.rpartition(".")[0]
    with patch("torch.compile", lambda function: function):
        exec(compile(text, str(path), "exec"), module.__dict__)
    for imported in around:
        del sys.modules[imported]
    return module


def modules(packages: Path) -> dict[str, Any]:
    """Return the file of each kernel, its kernels replaced."""
    linear = packages / "auto_gptq" / "nn_modules" / "qlinear"
    exllama = loaded(
        linear / "qlinear_exllama.py", "exllama", {"exllama_kernels": {"make_q4": nothing, "q4_matmul": nothing}}
    )
    old = loaded(linear / "qlinear_cuda_old.py", "cuda_old", {})
    triton = {"jit": lambda function: Launched(), "cdiv": lambda a, b: -(-a // b), "next_power_of_2": lambda n: 16}
    language = {"constexpr": int, "bfloat16": None, "float16": None}
    around = {
        "triton": {**triton, "language": SimpleNamespace(**language)},
        "triton.language": language,
        "old": {},
        "old.utils": {
            "is_accelerate_available": lambda: False,
            "is_torch_available": lambda: True,
            "logging": SimpleNamespace(get_logger=lambda name: None),
        },
        "old.integrations": {},
    }
    fp8 = loaded(packages / "transformers" / "integrations" / "finegrained_fp8.py", "old.integrations.fp8", around)
    return {"exllama": exllama, "cuda-old": old, "fp8": fp8}


def made(module: Any, case: dict[str, Any]) -> Any:
    """Return the map of a case."""
    import torch

    if case["kernel"] == "fp8":
        layer = module.FP8Linear(INPUTS, OUTPUTS, case["bias"], block_size=(128, 128))
        if case["bias"]:
            layer.bias.data = layer.bias.data.to(getattr(torch, case["dtype"]))
        return layer
    layer = module.QuantLinear(case["bits"], GROUP, INPUTS, OUTPUTS, case["bias"])
    if case["kernel"] == "exllama":
        layer.q4, layer.width = None, OUTPUTS
    else:
        layer.autogptq_cuda_available, layer.use_cuda_fp16 = True, False  # as a GPTQConfig has it
        layer.autogptq_cuda = SimpleNamespace(vecquant4matmul_old=nothing, vecquant8matmul_old=nothing)
    return layer


def record(module: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Return the case with the bytes of each allocation, and events: n allocates, ~n frees."""
    import torch

    from oomph.referee.fake import cuda_kernels, fake_tensors
    from oomph.referee.tracker import Tracker

    tracker = Tracker()
    on = patch.multiple(torch.cuda, device=lambda device: contextlib.nullcontext(), synchronize=nothing)
    with torch.no_grad(), fake_tensors(), cuda_kernels("flash", lambda kernel: None), on, tracker:
        layer = made(module, case)
        x = torch.empty((1, case["rows"], INPUTS), dtype=getattr(torch, case["dtype"]))
        tracker.restart([("parameters", "parameter", [*layer.named_parameters(), *layer.named_buffers(), ("x", x)])])
        start = len(tracker.stream.events)
        out = layer(x)
        del out
        events = [(ordinal - start, n_bytes) for ordinal, n_bytes in tracker.stream.events[start:]]
    sizes = {ordinal: n_bytes for ordinal, n_bytes in events if n_bytes > 0}
    return {
        **case,
        "sizes": [sizes[at] for at in sorted(sizes)],
        "events": [ordinal if n_bytes > 0 else ~ordinal for ordinal, n_bytes in events],
    }


def main() -> None:
    """Record all cases and write the file."""
    files = modules(Path(sys.argv[1]))
    found = {
        "recipe": (__doc__ or "").strip(),
        "map": {"inputs": INPUTS, "outputs": OUTPUTS, "group": GROUP},
        "versions": {"auto_gptq": "0.7.1", "transformers": "4.51.3", "torch": version("torch").partition("+")[0]},
        "cases": [record(files[str(case["kernel"])], case) for case in CASES],
    }
    text = json.dumps(found, indent=1)
    GOLDEN.write_text(re.sub(r"\[[-\d\s,]+\]", lambda row: " ".join(row[0].split()), text) + "\n")
    print(f"{len(CASES)} cases in {GOLDEN.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
