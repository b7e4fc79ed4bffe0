"""The GPU's meter against a driver and a torch.cuda made up here: which figure comes from where, and when."""

from __future__ import annotations

import os
import sys
import types
from typing import Any

import pytest

pytestmark = pytest.mark.slow
MIB = 2**20
UUID = "8f2b6c1e-0000-4444-8888-0123456789ab"


class Machine:
    """Two GPUs of which torch sees the second; a context takes 500 MiB, tensors come from a reserved 64 MiB."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.used = [7 * MIB, 100 * MIB]
        self.pid = os.getpid()
        self.context = self.shut = False
        monkeypatch.setitem(sys.modules, "pynvml", self.nvml())
        self.patch_torch(monkeypatch)

    def nvml(self) -> types.ModuleType:
        nvml: Any = types.ModuleType("pynvml")

        def memory(handle: int, version: int | None = None) -> Any:
            assert version == nvml.nvmlMemory_v2  # version 1 counts what the driver keeps for itself
            return types.SimpleNamespace(used=self.used[handle])

        def shutdown() -> None:
            self.shut = True

        nvml.nvmlMemory_v2 = 2
        nvml.nvmlInit = lambda: None
        nvml.nvmlShutdown = shutdown
        nvml.nvmlSystemGetDriverVersion = lambda: b"580.1"
        nvml.nvmlDeviceGetCount = lambda: 2
        nvml.nvmlDeviceGetHandleByIndex = lambda index: index
        nvml.nvmlDeviceGetUUID = lambda handle: ["GPU-another", f"GPU-{UUID}"][handle]
        nvml.nvmlDeviceGetMemoryInfo = memory
        nvml.nvmlDeviceGetComputeRunningProcesses = lambda handle: [
            types.SimpleNamespace(pid=self.pid, usedGpuMemory=self.used[handle] - 100 * MIB)
        ]
        return nvml

    def patch_torch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        def synchronize() -> None:
            if not self.context:
                self.context = True
                self.used[1] += 500 * MIB

        found = types.SimpleNamespace(name="NVIDIA H100", total_memory=2**36, major=9, minor=0, uuid=UUID)
        for name, value in {
            "is_available": lambda: True, "get_device_properties": lambda index: found, "device_count": lambda: 1,
            "synchronize": synchronize, "memory_allocated": lambda: 1, "memory_reserved": lambda: 2,
            "max_memory_allocated": lambda: 3, "max_memory_reserved": lambda: 4,
            "memory_stats": lambda: {"num_alloc_retries": 5, "num_ooms": 6},
            "mem_get_info": lambda: (30 * MIB, 100 * MIB),
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with two GPUs."""
    return Machine(monkeypatch)


def test_before_context_and_after(machine: Machine) -> None:
    """The device that torch sees is found by its UUID; it is looked at before there is a context."""
    from oomph.referee.meter import CudaMeter, InUse, Reading

    meter = CudaMeter()
    assert not machine.context
    with meter:
        assert meter.before == InUse(100 * MIB, 0)
        assert meter.in_use() == InUse(600 * MIB, 500 * MIB)
        machine.used[1] += 64 * MIB
        assert meter.in_use() == InUse(664 * MIB, 564 * MIB)
        assert meter.read() == Reading(1, 2, 3, 4, 5, 6)
    assert machine.shut


def test_other_process_numbers_in_a_container(machine: Machine) -> None:
    """Where the driver knows this process by another number, its share is not known."""
    from oomph.referee.meter import CudaMeter, InUse

    machine.pid += 1
    with CudaMeter() as meter:
        assert meter.in_use() == InUse(600 * MIB, None)


def test_without_nvml(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CUDA runtime says what is in use, but only once there is a context."""
    from oomph.referee.meter import CudaMeter, InUse

    monkeypatch.setitem(sys.modules, "pynvml", None)
    with CudaMeter() as meter:
        assert meter.before == InUse()
        assert meter.in_use() == InUse(70 * MIB)
        assert meter.facts()["versions"]["driver"] == ""


def test_facts(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a row says of the device, and the settings that change allocations, no others."""
    import torch

    from oomph.referee.meter import CudaMeter

    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    found = CudaMeter().facts()
    assert (found["gpu"], found["total_bytes"], found["compute_capability"]) == ("NVIDIA H100", 2**36, "9.0")
    assert found["versions"]["driver"] == "580.1"
    assert found["versions"]["torch"] == torch.__version__
    assert found["environment"] == {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LookupError, match="torch"):
        CudaMeter().facts()
