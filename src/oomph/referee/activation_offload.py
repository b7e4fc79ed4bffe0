"""TRL's and torchtune's activation offloading, their own files run without streams, events and host memory.

The module is taken as it is; what it asks of a device is put in its place: streams and events that do nothing, host
buffers that have a layout and no memory. An address, by which TRL knows tensors, belongs to one storage alone here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.referee.losses import unwrapped

FILES = {  # package, file in it, how to get it
    "trl": ("trl", "models/activation_offloading.py", 'pip install "trl>=1.15"'),
    "torchtune": ("torchtune", "training/_activation_offloading.py", "pip install --no-deps torchtune==0.6.1"),
}
# What torchtune's file imports beside torch and does not call here.
STAND_INS: dict[str, dict[str, Any]] = {
    "torchao": {},
    "torchao.dtypes": {},
    "torchao.dtypes.nf4tensor": {"NF4Tensor": type("NF4Tensor", (), {})},
    "torchtune": {},
    "torchtune.modules": {"TiedLinear": type("TiedLinear", (), {})},
    "torchtune.utils": {"get_logger": lambda level: None},
}


@cache
def _module(kind: str) -> Any:
    """Return the module of a package's file."""
    package, file, install = FILES[kind]
    found = PathFinder.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UnsupportedError(f"A trace of {package}'s offloading needs it.", f"Do: {install}")
    if kind == "trl":
        return import_module("trl.models.activation_offloading")
    modules = {}
    for name, names in STAND_INS.items():
        modules[name] = ModuleType(name)
        vars(modules[name]).update(names)
    spec = spec_from_file_location(f"oomph_{package}", Path(next(iter(found.submodule_search_locations))) / file)
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    with patch.dict(sys.modules, modules):
        spec.loader.exec_module(made)
    return made


class _Host:
    """A buffer in host memory: what is copied into it stays away, what comes back is new."""

    def __init__(self, shape: Any, dtype: Any) -> None:
        self.shape, self.dtype = shape, dtype

    def copy_(self, source: Any, non_blocking: bool = False) -> None:
        pass

    def to(self, device: Any, non_blocking: bool = False) -> torch.Tensor:
        return torch.empty(self.shape, dtype=self.dtype)


class _Torch:
    """torch for the module, but for what it makes in host memory."""

    def __init__(self, device: _Device) -> None:
        self.cuda = device
        self.accelerator = SimpleNamespace(current_accelerator=lambda: torch.device("cpu"))
        self.get_device_module = lambda name: device

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def empty_like(tensor: Any, **options: Any) -> _Host:
        return _Host(tensor.shape, tensor.dtype)

    @staticmethod
    def empty(*shape: Any, dtype: Any, **options: Any) -> _Host:
        return _Host(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape, dtype)


class _Device:
    """A device's module whose streams have nothing to wait for."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self

    def stream(self, stream: Any) -> Any:
        return nullcontext()


Offloading = Callable[[], Any]
APART = 2**40  # no tensor is as large
_numbers = count(1)


def _address(storage: Any) -> int:
    """Return an address that no other storage has, ever: a real one is handed out again after a tensor's end."""
    if not hasattr(storage, "oomph_address"):
        storage.oomph_address = next(_numbers) * APART
    return int(storage.oomph_address)


@contextmanager
def installed(model: Any, job: TrainJob) -> Iterator[Offloading]:
    """Yield what gives the context in which a job's saved tensors are moved; on a real GPU nothing stands in."""
    if model.device.type == "cuda":
        yield _on_cuda(model, job)
        return
    if job.activation_offload == "none":
        yield nullcontext
        return
    stand_in = _Torch(_Device())
    if job.activation_offload == "save-on-cpu":
        with patch("torch.autograd.graph.torch", stand_in):
            yield lambda: torch.autograd.graph.save_on_cpu(pin_memory=True)
        return
    module = _module(job.activation_offload)
    with (
        patch.object(torch.UntypedStorage, "data_ptr", _address),
        patch.object(torch.Tensor, "record_stream", lambda tensor, stream: None),
        patch.object(module, "torch", stand_in),
    ):
        yield _given(module, model, job)


def _on_cuda(model: Any, job: TrainJob) -> Offloading:
    if job.activation_offload == "none":
        return nullcontext
    if job.activation_offload == "save-on-cpu":
        return lambda: torch.autograd.graph.save_on_cpu(pin_memory=True)
    module = _module(job.activation_offload)
    return _given(module, model, job)


def _given(module: Any, model: Any, job: TrainJob) -> Offloading:
    """Return a package's own context for a model."""
    if job.activation_offload == "trl":
        manager = module.get_act_offloading_ctx_manager(model)
    else:
        manager = module.OffloadActivations()
        _leave_out_the_end(module, unwrapped(model))
    return lambda: manager


def _leave_out_the_end(module: Any, model: Any) -> None:
    """Move nothing that the head and the loss save, which torchtune's recipes compute outside of the model."""
    plain = module.NoOpManager()
    model.lm_head.register_forward_pre_hook(lambda *args: plain.__enter__())
    model.lm_head.register_forward_hook(lambda *args: plain.__exit__(), always_call=True)
    loss_function = model.loss_function

    def loss(*args: Any, **kwargs: Any) -> Any:
        with plain:
            return loss_function(*args, **kwargs)

    model.loss_function = loss
