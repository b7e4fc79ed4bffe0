"""Record what optimizers do whose packages the tests do not install.

    pip install lomo-optim apollo-torch grokadamw lion-pytorch came-pytorch adam-mini prodigyopt dadaptation \
        pytorch_optimizer badam q-galore-torch 'bitsandbytes<0.50' && pip install --no-deps llamafactory==0.9.5
    python scripts/record_optimizer_golden.py [DIRECTORY]

Each job of tests/optimizers/golden.py is traced: the real code of the package on tensors without memory. Writes
tests/optimizers/golden.json: per step the number of events, the peak, bytes of states, and a digest of all events.

SophiaG's package is one file: sophia.py of github.com/Liuhong99/Sophia, put where Python finds it (PYTHONPATH).
Steps of torch 2.0's AdamW are those of its own files, run under the torch that is installed. DIRECTORY is where the
wheel of torch 2.0.1 lies unpacked (torch/optim/*.py and torch/utils/_foreach_utils.py of it are enough). What is not
installed or not there keeps its record.
"""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from oomph.optimizer_names import KINDS  # noqa: E402
from oomph.referee import optimizers  # noqa: E402
from tests.optimizers.golden import GOLDEN, JOBS, job, name, of_trace  # noqa: E402


def main() -> None:
    """Trace all jobs that can be and write the file."""
    old = json.loads(GOLDEN.read_text())
    versions, steps = dict(old["versions"]), {}
    if len(sys.argv) > 1:
        take_old_adamw(Path(sys.argv[1]))
    for raw, inputs in JOBS:
        module, package = optimizers.package_of(KINDS[job(inputs).optimizer])
        apart = bool(inputs.get("denominators_apart"))
        if find_spec(module) is None or (apart and len(sys.argv) == 1):
            steps[name(raw, inputs)] = old["steps"][name(raw, inputs)]
            continue
        of = (
            ("torch", "transformers") if " " in package else (package, "torch", "transformers")
        )  # a file has no version
        versions |= {one: version(one).partition("+")[0] for one in of}
        steps[name(raw, inputs)] = of_trace(raw, inputs)
    found = {"versions": dict(sorted(versions.items())), "steps": steps}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found['steps'])} steps in {GOLDEN.relative_to(ROOT)}")


def take_old_adamw(directory: Path) -> None:
    """Let jobs with `denominators_apart` have AdamW of the torch that lies there."""
    import torch

    package = module_from_spec(ModuleSpec("old_optim", None, is_package=True))
    package.__path__ = [str(directory / "torch" / "optim")]
    sys.modules["old_optim"] = package
    name = "torch.utils._foreach_utils"
    now = sys.modules[name]
    sys.modules[name] = loaded(name, directory / "torch" / "utils" / "_foreach_utils.py")
    from old_optim.adamw import AdamW  # type: ignore[import-not-found]

    sys.modules[name] = now
    new = optimizers.MAKERS["adamw"]

    def made(kind: Any, job: Any, model: Any, parameters: list[Any]) -> Any:
        if not job.denominators_apart:
            return new(kind, job, model, parameters)
        return AdamW(parameters, lr=optimizers.LEARNING_RATE, amsgrad=kind.name == "amsgrad", foreach=True)

    optimizers.MAKERS["adamw"] = made
    assert torch.optim.AdamW is not AdamW


def loaded(name: str, path: Path) -> Any:
    """Return the module of a file."""
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
