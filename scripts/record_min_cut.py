"""Record what AOTAutograd's min-cut partitioner saves of small models' forward passes: tests/min_cut.json.

Needs the trace extra, runs for two minutes on a CPU: pip install "oomph[trace]" && python scripts/record_min_cut.py
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from oomph.referee.min_cut import saved_bytes
from tests.min_cut_cases import JOB, MODELS


def main() -> None:
    """Write the file."""
    saved = {name: saved_bytes(raw, JOB) for name, raw in MODELS.items()}
    versions = {name: version(name) for name in ("torch", "transformers")}
    found = {"recipe": "scripts/record_min_cut.py", "versions": versions, "saved_bytes": saved}
    (Path(__file__).parents[1] / "tests" / "min_cut.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
