"""Record what a library's own code allocates and frees in the jobs of tests/objectives/cases.py.

Needs the trace extra and that version of the library with its requirements:

    pip install "oomph[trace]" "trl==1.16.0" && python scripts/record_objectives.py trl 1.16
    pip install "oomph[trace]" "sentence-transformers==6.2.0" && \
        python scripts/record_objectives.py sentence-transformers 6.2
    pip install "oomph[trace]" "trl==0.24.0" omegaconf && pip install --no-deps "llamafactory==0.9.5" && \
        python scripts/record_objectives.py llamafactory 0.9

Each job runs under the referee (fake tensors, a trainer's loss without a Trainer); the test then compares the estimate
with the events, one by one. Frees of what was there before the step are 0, others tell which allocation ends.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from oomph.compare import steps
from oomph.referee.trace import trace
from oomph.trace_groups import trace_start
from tests.objectives.cases import CASES, golden_file, packed


def main(library: str, wanted: str) -> None:
    """Write the file of one version."""
    installed, key = version(library), f"{library} {wanted}"
    if not installed.startswith(f"{wanted}."):
        raise SystemExit(f"{library} {installed} is installed, not {wanted}.")
    found = {}
    for name, (raw, job) in CASES[key].items():
        stream = trace(raw, job, layer_marks=False).stream
        casts = job.precision.startswith("amp-") or (job.autocast and job.objective != "ppo")
        found[name] = packed(steps(stream, trace_start(stream), casts))
        print(f"{name}: {len(stream.events)} events")
    beside = ("trl",) if library == "llamafactory" else ()
    versions = {each: version(each) for each in (library, *beside, "torch", "transformers", "peft", "accelerate")}
    golden = {"recipe": "scripts/record_objectives.py", "versions": versions, "events": found}
    golden_file(key).write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
