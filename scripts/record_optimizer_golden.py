"""Record what optimizers do whose packages the tests do not install.

    pip install lomo-optim apollo-torch grokadamw lion-pytorch came-pytorch adam-mini prodigyopt dadaptation \
        pytorch_optimizer badam
    python scripts/record_optimizer_golden.py

Each job of tests/optimizers/golden.py is traced: the real code of the package on tensors without memory. Writes
tests/optimizers/golden.json: per step the number of events, the peak, bytes of states, and a digest of all events.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from oomph.optimizer_names import KINDS  # noqa: E402
from oomph.referee.optimizers import package_of  # noqa: E402
from tests.optimizers.golden import GOLDEN, JOBS, job, name, of_trace  # noqa: E402


def main() -> None:
    """Trace all jobs and write the file."""
    packages = {package_of(KINDS[job(inputs).optimizer])[1] for _, inputs in JOBS} | {"torch", "transformers"}
    found = {
        "versions": {package: version(package).partition("+")[0] for package in sorted(packages)},
        "steps": {name(*each): of_trace(*each) for each in JOBS},
    }
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found['steps'])} steps in {GOLDEN.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
