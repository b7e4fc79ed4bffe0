"""Record the compute buffers that a real llama.cpp logs for tiny models: tests/engines/llamacpp/compute_golden.json.

    pip install xllamacpp gguf && python scripts/record_llamacpp_compute.py [MODEL ...]

A row for each model of tests/engines/llamacpp/tiny.py and each start in graphs.py: MiB as logged, two decimals.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.engines.llamacpp import real, tiny
from tests.engines.llamacpp.graphs import GOLDEN, MODELS, STARTS

TRIES = 5  # a server now and then does not come up


def main() -> None:
    """Start every model in every way and write what was logged."""
    asked = sys.argv[1:] or list(MODELS)
    found: dict[str, list[float | None]] = json.loads(GOLDEN.read_text())["compute_mib"] if sys.argv[1:] else {}
    real.LONGEST = 10
    with tempfile.TemporaryDirectory() as folder:
        for name in asked:
            path = Path(folder) / f"{name}.gguf"
            tiny.write(path, MODELS[name])
            found[name] = [_logged(path, dict(start)) for start in STARTS]
            print(name, found[name], flush=True)
    made = f"xllamacpp {version('xllamacpp')} on the CPU; scripts/record_llamacpp_compute.py"
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(found.items()))
    GOLDEN.write_text(f'{{"made_with": {json.dumps(made)}, "compute_mib": {{\n{rows}\n}}}}\n')


def _logged(path: Path, start: dict[str, object]) -> float | None:
    """Return the size of the buffer, None where the engine refuses to start so."""
    if "flash_attn" in start:
        start["flash_attn_type"] = int(bool(start.pop("flash_attn")))
    for _ in range(TRIES):
        try:
            said = real.start(path, **{"kv_unified": False, "n_parallel": 1, "flash_attn_type": 1, **start})
            return said.buffers["compute"]["CPU"]
        except (subprocess.TimeoutExpired, KeyError):  # noqa: PERF203
            continue
        except RuntimeError as error:
            print(f"{path.name}: {str(error)[:200]}")
    return None


if __name__ == "__main__":
    main()
