"""A stand-in for a GPU, for machines without one: rows are really run, on the CPU, and really counted.

`python -m tests.referee.cpu_row` is what measures then. OOMPH_TEST_DEVICE_BYTES is how much memory the device has.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from typing import Any

import torch

from oomph.referee import row
from oomph.referee.meter import InUse, Reading, environment, versions
from oomph.referee.tracker import Tracker

CONTEXT = 300 * 2**20  # what the stand-in's context takes, and others on the device before it
OTHERS = 100 * 2**20
SEGMENT = 2 * 2**20  # reserved memory comes in pieces of this


class Limited(Tracker):
    """A tracker that runs out of memory. Adam's step counts are in host memory, as on a GPU."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if self.live()[-1] > self.most:
            raise torch.OutOfMemoryError(f"CUDA out of memory.\nTried too much of {self.most} bytes.")
        return result

    def live(self) -> list[int]:
        """Bytes alive after each event, and before the first."""
        return [0, *self.stream.live()]

    def _made_on_host(self, tensor: Any, func: Any) -> bool:
        return func is torch.ops.aten.lift_fresh.default and tensor.dim() == 0 and tensor.is_floating_point()


class CpuMeter:
    """Counts what a tracker sees. Reserved memory is the most that was ever allocated, in whole segments."""

    device = "cpu"
    before = InUse(OTHERS, 0)

    def __init__(self) -> None:
        self.tracker = Limited(int(os.environ.get("OOMPH_TEST_DEVICE_BYTES", 2**40)))
        self.since = 0
        self.recorded_from: int | None = None

    def __enter__(self) -> CpuMeter:
        self.tracker.__enter__()
        return self

    def __exit__(self, *stopped: object) -> None:
        self.tracker.__exit__(*stopped)

    def facts(self) -> dict[str, Any]:
        if "OOMPH_TEST_NO_DEVICE" in os.environ:
            raise LookupError("the stand-in was told there is none")
        found = {"gpu": "stand-in", "total_bytes": self.tracker.most, "compute_capability": "0.0", "n_gpus_seen": 1}
        return found | {"versions": versions(), "environment": environment()}

    def settle(self) -> None:
        pass

    def reset(self) -> None:
        self.since = len(self.tracker.stream.events)

    def read(self) -> Reading:
        live = self.tracker.live()
        reserved = -(-max(live) // SEGMENT) * SEGMENT
        return Reading(live[-1], reserved, max(live[self.since :]), reserved)

    def in_use(self) -> InUse:
        reserved = self.read().reserved_bytes
        return InUse(OTHERS + CONTEXT + reserved, CONTEXT + reserved)

    def record(self) -> None:
        self.recorded_from = len(self.tracker.stream.events)

    def dump(self, path: str) -> None:
        trace: list[dict[str, Any]] = []
        for ordinal, n_bytes in self.tracker.stream.events[self.recorded_from :]:
            action = "alloc" if n_bytes > 0 else "free_completed"
            trace.append({"action": action, "addr": (ordinal + 1) << 32, "size": abs(n_bytes), "stream": 0})
        with open(path, "wb") as file:
            pickle.dump({"segments": [], "device_traces": [trace]}, file)


class Here:
    """What isolated.Worker is, without a process: for tests of what is asked of a row and made of its answer."""

    def __init__(self, module: str, arguments: Any = (), *, gpu: bool = False) -> None:
        pass

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *stopped: object) -> None:
        self.close()

    def ask(self, question: dict[str, Any], seconds: float) -> Iterator[dict[str, Any]]:
        yield row.answer(question, CpuMeter())

    def close(self) -> None:
        pass


if __name__ == "__main__":
    if "OOMPH_TEST_CRASH" in os.environ:
        os.abort()
    row.main(CpuMeter)
