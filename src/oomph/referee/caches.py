"""The real caches of inference: made before the first pass, or left to it; what a GPU does otherwise is re-routed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any
from unittest.mock import patch

import torch

from oomph.errors import UnsupportedError
from oomph.job import InferJob
from oomph.job_words import INTEGER_CACHES, OFFLOADED_CACHES, STATIC_CACHES

BYTE = 8  # bits


def empty_cache(model: Any, job: InferJob) -> Any:
    """Return a static or quantised cache (whose tensors are made at its first use) or None: forward makes a dynamic one
    itself, but of RecurrentGemma, whose forward does not return it.
    """
    from transformers import DynamicCache, QuantizedCache, StaticCache

    if job.cache in INTEGER_CACHES:
        axis = -job.cache_axis if job.cache == "quanto" else job.cache_axis  # quanto calls the last one -1
        try:
            return QuantizedCache(
                job.cache, model.config, job.cache_bits, axis, axis, job.cache_group, job.cache_residual
            )
        except ImportError:
            package = {"quanto": "optimum-quanto", "hqq": "hqq"}[job.cache]
            raise UnsupportedError(f"This cache needs {package}.", f"Do: pip install {package}") from None
    if job.cache == "fp8":
        return QuantizedCache("fp8", model.config)
    away = job.cache in OFFLOADED_CACHES
    if job.cache in STATIC_CACHES:
        length = job.max_cache_len or job.seq_len + job.decode
        return StaticCache(config=model.config, max_cache_len=length, offloading=away)
    forgotten = job.cache == "dynamic" and model.config.model_type == "recurrent_gemma"
    if not away and not job.candidates and not forgotten:
        return None
    made = DynamicCache(config=model.config, offloading=away)
    if job.candidates:
        made.activate_past_recording()
    return made


class _Stream(nullcontext[None]):
    """A stream that does nothing."""

    def wait_stream(self, other: Any) -> None:
        """Wait for nothing."""


@contextmanager
def as_on_cuda(job: InferJob) -> Iterator[None]:
    """Do with the cache of a job, and with modules that wait, what a GPU does."""
    with ExitStack() as stack:
        if job.device_map != "none" or job.offload != "none":
            from oomph.referee import device_map

            stack.enter_context(device_map.on_fake_tensors())
        if job.cache == "quanto":
            stack.enter_context(quanto_as_on_cuda())
        if job.cache in OFFLOADED_CACHES:
            stack.enter_context(with_two_memories())
        yield


@contextmanager
def with_two_memories() -> Iterator[None]:
    """Let offloaded layers go to the meta device, which stands for the machine's memory: what is called "cpu" is the
    GPU. Streams do nothing.
    """
    from transformers.cache_utils import CacheLayerMixin

    def moved(tensor: Any, where: Any, **_: Any) -> Any:
        device = "meta" if where == "cpu" else where  # the word; a layer's own device is no word
        return torch.empty_like(tensor, device=device, memory_format=torch.contiguous_format)

    def moving(move: Any) -> Any:
        def with_other_memory(layer: Any) -> None:
            with patch.object(torch.Tensor, "to", moved):
                move(layer)

        return with_other_memory

    with ExitStack() as stack:
        stack.enter_context(patch.object(torch, "Stream", _Stream))
        stack.enter_context(patch.object(torch.cuda, "default_stream", lambda *device: _Stream()))
        for name in ("offload", "prefetch"):
            stack.enter_context(patch.object(CacheLayerMixin, name, moving(getattr(CacheLayerMixin, name))))
        yield


@contextmanager
def quanto_as_on_cuda() -> Iterator[None]:
    """Run quanto's own operations where a tracker sees into them, unpack as its CUDA kernel does, and pack codes that
    have no memory: it packs plain tensors alone.
    """
    packed_tensor: Any = import_module("optimum.quanto.tensor.packed").PackedTensor
    kind: Any = import_module("optimum.quanto.tensor.weights.qbits").WeightQBitsTensor
    made = kind.__init__

    def unpack(packed: Any, bits: int) -> Any:
        return torch.empty((packed.shape[0] * (BYTE // bits), *packed.shape[1:]), dtype=packed.dtype)

    def packing(self: Any, qtype: Any, axis: Any, group: Any, size: Any, stride: Any, data: Any, *scales: Any) -> None:
        packed = data if isinstance(data, packed_tensor) else packed_tensor.pack(data, qtype.bits)
        made(self, qtype, axis, group, size, stride, packed, *scales)

    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.ops.quanto, "quantize_affine", _python_of_quanto().quantize_affine))
        stack.enter_context(patch.object(torch.ops.quanto, "unpack", unpack))
        stack.enter_context(patch.object(kind, "__init__", packing))
        yield


def _python_of_quanto() -> Any:
    """Return quanto's library/quantize.py as a module of plain functions: registered ones cannot be looked into."""
    found = find_spec("optimum.quanto.library.quantize")
    assert found is not None  # it was imported before
    assert found.loader is not None
    module = module_from_spec(found)
    with (
        patch.object(torch.library, "define", lambda *args: None),
        patch.object(torch.library, "impl", lambda *args: lambda function: function),
    ):
        found.loader.exec_module(module)
    return module
