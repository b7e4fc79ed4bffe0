"""The figures of a device while a job runs, behind one small object, so that a job can be measured on anything.

`CudaMeter` reads torch's caching allocator and the driver (NVML). Tests bring a meter of their own for the CPU.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import torch

import oomph

ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING")
WORKSPACE_SETTINGS = ("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE")  # KiB that matrix products keep
LOADING_SETTINGS = ("CUDA_MODULE_LOADING",)  # lazy or eager: how large the context is
MOST_ENTRIES = 1_000_000  # of a recording; a step of the largest suite row makes a tenth of it


@dataclass(frozen=True)
class Reading:
    """What torch's allocator says now, in bytes; peaks since the last reset, counts since the process began."""

    allocated_bytes: int
    reserved_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    retries: int = 0  # times the allocator gave all cached memory back to try once more
    ooms: int = 0


@dataclass(frozen=True)
class InUse:
    """Device memory in use, in bytes: of all programs as nvidia-smi shows it, and of this one; None if unknown."""

    device_bytes: int | None = None
    process_bytes: int | None = None


class Meter(Protocol):
    """A device and its memory. Entering the context starts the device; nothing is on it before."""

    device: str  # where tensors are made, in torch's words
    before: InUse  # what was in use before the device was started; known once it is

    def __enter__(self) -> Meter: ...
    def __exit__(self, *_: object) -> None: ...

    def facts(self) -> dict[str, Any]:
        """Return what device and which libraries these are: gpu, versions, environment. Raises LookupError if none."""

    def settle(self) -> None:
        """Give cached memory back, so that what is reserved is what is needed."""

    def reset(self) -> None:
        """Begin new peaks."""

    def read(self) -> Reading:
        """Return the allocator's figures, all work on the device done."""

    def in_use(self) -> InUse:
        """Return what the driver says is in use."""

    def record(self) -> None:
        """Begin to record every allocation and free."""

    def dump(self, path: str) -> None:
        """Write the recording as oomph.snapshot.read_recording reads it."""


def versions() -> dict[str, str]:
    """Return the versions of what decides bytes, as far as it is installed."""
    found = {"oomph": oomph.__version__, "torch": str(torch.__version__)}
    try:
        found["transformers"] = version("transformers")
    except PackageNotFoundError:
        found["transformers"] = ""
    return found


def environment() -> dict[str, str]:
    """Return the environment variables, of those set, that change what is allocated."""
    names = (*ALLOCATOR_SETTINGS, *WORKSPACE_SETTINGS, *LOADING_SETTINGS)
    return {name: os.environ[name] for name in names if name in os.environ}


class CudaMeter:
    """The first GPU that torch sees. The driver's figures need nvidia-ml-py; without it they are the device's own."""

    device = "cuda"

    def __init__(self) -> None:
        self._nvml = _Nvml()
        self._index: int | None = None
        self.before = InUse()

    def __enter__(self) -> CudaMeter:
        # torch makes the context at the first call that needs it; this one needs nothing else.
        torch.cuda.synchronize()
        self._index = self._nvml.index_of(str(getattr(torch.cuda.get_device_properties(0), "uuid", "")))
        if self._index is not None:
            self.before = self._nvml.before[self._index]
        return self

    def __exit__(self, *_: object) -> None:
        self._nvml.close()

    def facts(self) -> dict[str, Any]:
        """Return the GPU, the libraries' versions and the settings that count."""
        if not torch.cuda.is_available():
            built = torch.version.cuda or torch.version.hip
            raise LookupError(f"torch {torch.__version__} {'sees none' if built else 'is built without CUDA'}")
        found = torch.cuda.get_device_properties(0)
        return {
            "gpu": found.name,
            "total_bytes": found.total_memory,
            "compute_capability": f"{found.major}.{found.minor}",
            "n_gpus_seen": torch.cuda.device_count(),
            "versions": versions()
            | {
                "cuda": str(torch.version.cuda or torch.version.hip or ""),
                "cudnn": str(torch.backends.cudnn.version() or ""),
                "driver": self._nvml.driver,
            },
            "environment": environment(),
        }

    def settle(self) -> None:
        """Empty the cache."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()

    def reset(self) -> None:
        """Begin new peaks."""
        torch.cuda.reset_peak_memory_stats()

    def read(self) -> Reading:
        """Return the allocator's figures."""
        torch.cuda.synchronize()
        stats = torch.cuda.memory_stats()
        return Reading(
            torch.cuda.memory_allocated(),
            torch.cuda.memory_reserved(),
            torch.cuda.max_memory_allocated(),
            torch.cuda.max_memory_reserved(),
            int(stats.get("num_alloc_retries", 0)),
            int(stats.get("num_ooms", 0)),
        )

    def in_use(self) -> InUse:
        """Return what NVML says; without it what the CUDA runtime says, which does not know of this process alone."""
        if self._index is not None:
            return self._nvml.in_use(self._index)
        free, total = torch.cuda.mem_get_info()
        return InUse(total - free)

    def record(self) -> None:
        """Begin to record; of each allocation the Python stack."""
        torch.cuda.memory._record_memory_history(context="alloc", stacks="python", max_entries=MOST_ENTRIES)

    def dump(self, path: str) -> None:
        """Write the recording."""
        torch.cuda.memory._dump_snapshot(path)


class _Nvml:
    """The driver's view, by NVML's own numbering of devices. Everything is empty or None where NVML does not answer."""

    def __init__(self) -> None:
        self.driver = ""
        self.before: list[InUse] = []
        self._uuids: list[str] = []
        self._handles: list[Any] = []
        try:
            import pynvml

            self._nvml: Any = pynvml
            pynvml.nvmlInit()
            self.driver = _text(pynvml.nvmlSystemGetDriverVersion())
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            self._uuids = [_text(pynvml.nvmlDeviceGetUUID(handle)) for handle in self._handles]
        except Exception:  # not installed, no driver, or a driver that does not answer all of it
            self._handles, self._uuids = [], []
        self.before = [self.in_use(index) for index in range(len(self._uuids))]

    def index_of(self, uuid: str) -> int | None:
        """Return the number of the device with this UUID, as torch writes it (without the prefix)."""
        return next((i for i, each in enumerate(self._uuids) if each.removeprefix("GPU-") == uuid), None)

    def in_use(self, index: int) -> InUse:
        """Return what is in use on a device. What the driver keeps for itself is not counted, as nvidia-smi does."""
        nvml, handle = self._nvml, self._handles[index]
        try:
            used = int(nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2).used)
        except Exception:  # an old driver or binding
            return InUse()
        return InUse(used, self._of_this_process(handle))

    def _of_this_process(self, handle: Any) -> int | None:
        """Return this process's share; None where a container hides process numbers or the driver does not say."""
        try:
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except Exception:
            return None
        return next((each.usedGpuMemory for each in running if each.pid == os.getpid()), None)

    def close(self) -> None:
        """Let go of the driver."""
        if self._handles:
            self._nvml.nvmlShutdown()


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
