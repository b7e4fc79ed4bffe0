"""Unsloth's gradient checkpointing, its own file run without streams, events and host memory.

gradient_checkpointing.py of unsloth_zoo is taken as it is. What it imports from its neighbours, and what moves bytes
between host and GPU, is put in its place here: a host buffer has a size and no memory, a staging buffer that grows is
a new tensor in the old one's place, as resize_ does it on a GPU.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch.utils import checkpoint as torch_checkpoint

from oomph.errors import UnsupportedError

UNSLOTH_ZOO = "pip install --no-deps unsloth_zoo"
PACKAGE = "oomph_unsloth_zoo"  # the name under which its file is imported
MUCH = 2**40  # bytes: memory enough for a second buffer, and for any input in the host's


class _Host:
    """A buffer in host memory, or a view of it: of any size, and what is copied into it or out of it stays away."""

    dtype = torch.bfloat16

    def element_size(self) -> int:
        return int(self.dtype.itemsize)

    def numel(self) -> int:
        return MUCH

    def copy_(self, source: Any, non_blocking: bool = False) -> None:
        pass

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0]  # tensor.copy_(host)


class _Staging:
    """A buffer on the device that can grow."""

    def __init__(self, count: int, dtype: Any) -> None:
        self.tensor = torch.empty(count, dtype=dtype)
        self.dtype = dtype

    def element_size(self) -> int:
        return int(self.dtype.itemsize)

    def numel(self) -> int:
        return int(self.tensor.numel())

    def resize_(self, count: int) -> None:
        self.tensor = torch.empty(count, dtype=self.dtype)


class _Quiet:
    """A stream or an event that has nothing to wait for."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@cache
def _file() -> Any:
    """Return the module."""
    found = PathFinder.find_spec("unsloth_zoo")
    if found is None or not found.submodule_search_locations:
        raise UnsupportedError("A trace of Unsloth's checkpointing needs unsloth_zoo.", f"Do: {UNSLOTH_ZOO}")
    version = import_module("packaging.version").Version
    modules = {
        "utils": {"_get_dtype": None, "Version": version, "is_distributed": lambda: False},
        "integrated_device": {"_any_device_integrated": lambda: False},
        "device_type": {
            "is_hip": lambda: False, "get_device_type": lambda: "cuda", "DEVICE_TYPE": "cuda",
            "DEVICE_TYPE_TORCH": "cuda", "DEVICE_COUNT": 1, "ALLOW_PREQUANTIZED_MODELS": True,
        },
    }  # fmt: skip
    package = ModuleType(PACKAGE)
    package.__path__ = [str(Path(next(iter(found.submodule_search_locations))))]
    sys.modules.setdefault(PACKAGE, package)
    for name, names in modules.items():
        made = ModuleType(f"{PACKAGE}.{name}")
        vars(made).update(names)
        sys.modules.setdefault(made.__name__, made)
    return import_module(f"{PACKAGE}.gradient_checkpointing")


@contextmanager
def installed(dtype: Any) -> Iterator[None]:
    """Let torch's checkpoint be Unsloth's inside, for a model that computes in `dtype`.

    Its own initialize_unsloth_gradient_checkpointing sets the state; what it keeps by device is then for one whose
    index is None.
    """
    module = _file()
    kind = torch.float16 if dtype == torch.float16 else torch.bfloat16
    view = module._view_bytes_as

    def view_bytes_as(buffer: Any, n_bytes: int, dtype: Any, shape: Any) -> Any:
        return buffer if isinstance(buffer, _Host) else view(buffer.tensor, n_bytes, dtype, shape)

    def ensure(device_index: Any) -> None:
        _ = module.GPU_BUFFERS[device_index], module.GPU_BUFFERS_B[device_index]

    stands: dict[str, Any] = {
        "_new_host_buffer": lambda count, dtype: _Host(), "_visible_device_count": lambda: 1,
        "_double_buffer_event_ctor": lambda: _Quiet, "_ensure_device_buffers": ensure, "_view_bytes_as": view_bytes_as,
        "_compute_stream": lambda index: _Quiet(), "torch_gpu_stream": lambda stream: nullcontext(),
    }  # fmt: skip
    size = module.INITIAL_GPU_BUFFER_SIZE
    with (
        patch.multiple(module, **stands),
        patch.object(torch.cuda, "mem_get_info", lambda index: (MUCH, MUCH)),
        patch.object(torch_checkpoint, "CheckpointFunction", module.UnslothCheckpointFunction),
        patch.object(torch_checkpoint, "checkpoint", module.unsloth_checkpoint),
        patch("transformers.modeling_utils.checkpoint", module.unsloth_checkpoint),
        patch("builtins.print"),
    ):
        module.initialize_unsloth_gradient_checkpointing(kind)
        for name in ("BUFFER_EVENTS_A", "BUFFER_EVENTS_B", "EXTRA_STREAMS", "MAIN_STREAMS"):
            setattr(module, name, defaultdict(_Quiet))
        for name in ("GPU_BUFFERS", "GPU_BUFFERS_B"):
            setattr(module, name, defaultdict(lambda: _Staging(size, kind)))
        module.NEXT_BUFFER_SLOT = {None: 0}
        try:
            yield
        finally:
            module.GPU_BUFFERS = module.GPU_BUFFERS_B = None
