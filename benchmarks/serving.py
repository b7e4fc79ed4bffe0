"""How long a served model takes: one estimate, and a map of 64 contexts x 46 numbers of requests; the model is loaded.

Times are processor time, median of many, of every engine that is there, for a dense model, a mixture and a hybrid; the
ratio is to the first engine's estimate of the first model. Run: python benchmarks/serving.py [ENGINE ...]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from oomph.answer import subject
from oomph.devices import find
from oomph.engines import ENGINES, engine
from oomph.engines.maps import cells
from oomph.engines.serving import serve
from oomph.errors import OomphError

RUNS = 30
GOAL_ESTIMATE_MS, GOAL_MAP_MS = 1.0, 20.0
DEVICES = {"mlx": "m2-ultra-192gb"}
CELLS = 256  # tokens that engines round a context to
MODELS = ("llama-3.1-8b", "qwen3-30b-a3b", "qwen3-next-80b-a3b")
CONTEXTS = [1024 * (1 + at) for at in range(64)]
CONCURRENCIES = [1 + at for at in range(32)] + [40 + 16 * at for at in range(14)]


def median_ms(function: Callable[[], Any]) -> float:
    """Median processor time of a call in milliseconds, after one that fills what is kept."""
    times = []
    for run in range(RUNS + 1):
        start = time.process_time()
        function()
        if run:
            times.append((time.process_time() - start) * 1e3)
    return statistics.median(times)


def measure(name: str, model: str) -> tuple[float, float] | str:
    """Times of an estimate and of a map, or why there are none."""
    found, program, devices = subject(model), engine(name), [find(DEVICES.get(name, "h200"))]
    job = program.job()
    counter = iter(range(1, 10**6))
    try:
        # Another context each time, so that nothing is answered from memory.
        estimate = median_ms(lambda: serve(found, program, job.with_context(CELLS * next(counter)), devices))
        deployed = program.deploy(found, job, devices)
        return estimate, median_ms(lambda: cells(deployed, CONTEXTS, CONCURRENCIES))
    except OomphError as error:
        return error.problem


def met(value: float, goal: float) -> str:
    return f"goal {goal:g} ms: {'met' if value <= goal else 'missed'}"


def main() -> None:
    first = None
    for name in sys.argv[1:] or ENGINES:
        for model in MODELS:
            took = measure(name, model)
            if isinstance(took, str):
                print(f"{name:12} {model:20} {took}")
                continue
            estimate, whole = took
            first = first or estimate
            print(
                f"{name:12} {model:20} estimate {estimate:6.3f} ms ({estimate / first:5.2f}x, "
                f"{met(estimate, GOAL_ESTIMATE_MS)})   map of {len(CONTEXTS)} x {len(CONCURRENCIES)} {whole:6.2f} ms "
                f"({met(whole, GOAL_MAP_MS)})"
            )


if __name__ == "__main__":
    main()
