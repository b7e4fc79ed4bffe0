"""How long a plan and a maximum take: each in a new process, with an empty cache folder and with recipes kept there.

Times are processor time without Python's start, median of three. Run: python benchmarks/plan.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

RUNS = 3
GOAL_S = 2.0
CODE = """
import time
start = time.process_time()
from oomph.answer import subject
from oomph.devices import parse_gpus
from oomph.job import TrainJob
found, fleet, job = subject({model!r}), parse_gpus({gpu!r}), TrainJob(**{job!r})
if {over!r}:
    from oomph.planning.solve import largest
    said = largest(found, job, fleet, {over!r}).value
else:
    from oomph.planning.plan import plan
    said = len(plan(found, job, fleet).changes)
print(time.process_time() - start, said)
"""
ASKED = (
    ("llama-3.1-8b", "rtx-4090", {}, ""),
    ("llama-3.1-8b", "h100", {"batch": 4, "seq_len": 8192}, ""),
    ("llama-3-70b", "h100", {"method": "lora", "seq_len": 4096}, ""),
    ("qwen2.5-0.5b", "rtx-4090", {}, ""),
    ("llama-3.1-8b", "h100", {"method": "lora", "checkpointing": "non-reentrant"}, "batch"),
    ("llama-3.1-8b", "h100", {"method": "lora", "checkpointing": "non-reentrant"}, "seq"),
)


def seconds(code: str, cache: str) -> tuple[float, str]:
    """Processor time of a question asked in a process of its own, and the answer's number."""
    environment = {**os.environ, "OOMPH_CACHE": cache}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, env=environment)
    took, said = done.stdout.split()
    return float(took), said


def main() -> None:
    for model, gpu, job, over in ASKED:
        code = CODE.format(model=model, gpu=gpu, job=job, over=over)
        first = [seconds(code, "") for _ in range(RUNS)]
        with tempfile.TemporaryDirectory() as cache:
            seconds(code, cache)
            kept = [seconds(code, cache) for _ in range(RUNS)]
        new, again = (statistics.median(took for took, _ in each) for each in (first, kept))
        what = f"max {over} = {first[0][1]}" if over else f"plan, {first[0][1]} changes"
        met = "met" if again <= GOAL_S else "missed"
        print(f"{model:14} {gpu:9} {what:22} first {new:5.2f} s, kept {again:5.2f} s  goal {GOAL_S:g} s: {met}  {job}")


if __name__ == "__main__":
    main()
