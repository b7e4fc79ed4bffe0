"""Optimizers that ask where a tensor lies do on tensors called "cpu" what they do on a GPU, one patch at a time.

States in host memory are put on the meta device, or nowhere: no allocator of a GPU sees them. What a kernel computes is
left out; so is compiled code. Optimizers that do something else in their first steps find the number of a later one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias
from unittest.mock import MagicMock, patch

import torch

from oomph.optimizer_names import KINDS, Kind
from oomph.referee.optimizers import A_LATER_STEP, package_of

Patches: TypeAlias = "Iterator[AbstractContextManager[Any]]"
CODE = 256  # numbers in a code book of bitsandbytes
PAGED = 1e5  # elements from which on bitsandbytes pages a state


@contextmanager
def as_on_cuda(job: Any) -> Iterator[None]:
    """Let a job's optimizer allocate for tensors called "cpu" what it does for those on a GPU."""
    kind = KINDS.get(getattr(job, "optimizer", "none"))
    with ExitStack() as stack:
        if kind is not None and find_spec(package_of(kind)[0]) is not None:
            for each in PATCHES.get(kind.rule, _none)(kind, job):
                stack.enter_context(each)
        yield


def _none(kind: Kind, job: Any) -> Patches:
    yield from ()


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


def _counting(kind: Kind, job: Any) -> Patches:
    if kind.name == "nadam" or (kind.name == "radam" and job.steady):
        module = import_module(f"torch.optim.{kind.name}")
        yield patch.object(module, "_get_value", lambda value: float(A_LATER_STEP))


def _bitsandbytes(kind: Kind, job: Any) -> Patches:
    base = import_module("bitsandbytes.optim.optimizer").Optimizer8bit
    ademamix = import_module("bitsandbytes.optim.ademamix").AdEMAMix
    functional = import_module("bitsandbytes.functional")
    yield patch.object(base, "fill_qmap", _codes_on_host)
    yield patch.object(base, "get_state_buffer", _state_buffer)
    yield patch.object(ademamix, "_get_state_double_buffer", _double_buffer)
    yield patch.object(torch.cuda, "synchronize", _nothing)
    # States that are not where their parameter is would be refused; nothing is computed here anyway.
    yield patch.object(functional, "optimizer_update_32bit", _with_norm)
    for name in ("optimizer_update_8bit_blockwise", "prefetch_tensor"):
        yield patch.object(functional, name, _nothing)


def _q_galore(kind: Kind, job: Any) -> Patches:
    from oomph.referee import q_galore

    yield from _bitsandbytes(kind, job)
    yield from q_galore.as_on_cuda()


def _with_norm(name: str, g: Any, p: Any, *args: Any, max_unorm: float = 0.0, **kwargs: Any) -> None:
    """Take the norm of the weights as LAMB and LARS do before their kernel runs."""
    if max_unorm:
        torch.norm(p.data.float())


def _torchao(kind: Kind, job: Any) -> Patches:
    for bits in ("4bit", "8bit"):  # tables that are worked out once, in host memory
        tables: Any = import_module(f"torchao.optim.subclass_{bits}")
        tables.get_qmap_signed(), tables.get_qmap_unsigned()
    yield patch.object(torch, "compile", lambda *args, **kwargs: _nothing)


def _cpu_offload(kind: Kind, job: Any) -> Patches:
    offload = import_module("torchao.optim.cpu_offload")
    yield patch.object(offload, "torch", _WithStreams())
    yield patch.object(offload, "get_available_devices", lambda: ["cuda"])


def _apollo(kind: Kind, job: Any) -> Patches:
    seeds = import_module("apollo_torch.random_projector")
    yield patch.object(seeds, "next_seed", lambda seed: seed + 1)  # drawn in host memory


def _stable_adamw(kind: Kind, job: Any) -> Patches:
    kernels = import_module("optimi.stableadamw")
    yield patch.object(kernels, "torch", _WithScalarsOnGpu())
    yield patch.object(kernels, "_default_to_triton", lambda params: True)
    yield patch.object(kernels, "_triton_stableadamw", _nothing, create=True)


def _optimi_adamw(kind: Kind, job: Any) -> Patches:
    kernels = import_module("optimi.adam")
    yield patch.object(kernels, "_default_to_triton", lambda params: True)
    yield patch.object(kernels, "_triton_adam", _nothing, create=True)


def _prodigy(kind: Kind, job: Any) -> Patches:
    made = import_module("prodigyopt").Prodigy
    yield patch.object(made, "step", _of_weights_that_are_not_zero(made.step))


def _of_weights_that_are_not_zero(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return Prodigy's step that takes no parameter to be all zeros, after asking as it does."""
    real = torch.Tensor.any

    def wrapped(self: Any) -> None:
        with patch.object(torch.Tensor, "any", lambda tensor: real(tensor) is not None):
            step(self)

    return wrapped


def _soap(kind: Kind, job: Any) -> Patches:
    yield patch.object(torch.linalg, "eigh", _eigh(torch.linalg.eigh))


def _eigh(real: Callable[..., Any]) -> Callable[..., Any]:
    def eigh(matrix: Any) -> Any:
        if matrix.dtype not in (torch.float16, torch.bfloat16):
            return real(matrix)
        del matrix  # which the exception would keep
        raise RuntimeError("cuSOLVER knows no 16 bits")

    return eigh


def _grokadamw(kind: Kind, job: Any) -> Patches:
    yield patch.object(import_module("grokadamw.grokadamw"), "torch", _WithStatesOnHost())
    yield patch.object(torch.Tensor, "to", _to(torch.Tensor.to))


def _lomo(kind: Kind, job: Any) -> Patches:
    yield patch.object(torch.Tensor, "cuda", lambda tensor: tensor)
    yield patch.object(import_module("lomo_optim.adalomo"), "max", _the_tensor, create=True)


PATCHES: dict[str, Callable[[Kind, Any], Patches]] = {
    "adamw": _counting, "radam": _counting, "bnb": _bitsandbytes, "galore_8bit": _bitsandbytes, "torchao": _torchao,
    "cpu_offload": _cpu_offload, "apollo": _apollo, "stable_adamw": _stable_adamw, "grokadamw": _grokadamw,
    "lomo": _lomo, "optimi_adamw": _optimi_adamw, "soap": _soap, "prodigy": _prodigy,
    "q_galore": _q_galore,
}  # fmt: skip


class _CodeOnHost:
    """A code book that is made in host memory and copied to the GPU when the first state needs it."""

    def to(self, device: Any) -> Any:
        """Return the copy, which then stays."""
        return torch.empty(CODE, dtype=torch.float32, device=device)


class _WithStreams:
    """Torch as an offloaded optimizer sees it: streams that do nothing, pinned memory that no GPU's allocator sees."""

    cuda = MagicMock()

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty_like(self, tensor: Any, **how: Any) -> Any:
        """Return a tensor in host memory."""
        return torch.empty_like(tensor, device="meta")


class _WithScalarsOnGpu:
    """Torch as StableAdamW sees it: a scalar that it puts on the parameter's device is not in host memory."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def tensor(self, value: Any, dtype: Any, device: Any = None) -> Any:
        """Return a scalar, by another operation if it is on a device."""
        if device is None:
            return torch.tensor(value, dtype=dtype)
        return torch.full((), value, dtype=dtype, device=device)


class _OnHost:
    """A tensor in host memory of which only its like on the GPU is ever made."""

    def __init__(self, like: Any) -> None:
        self.shape, self.dtype, self.device = like.shape, like.dtype, like.device

    def to(self, device: Any) -> Any:
        """Return the copy on the GPU."""
        return torch.empty(self.shape, dtype=self.dtype, device=self.device)


class _WithStatesOnHost:
    """Torch as GrokAdamW sees it: what it puts on "cpu" is in host memory."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def zeros_like(self, tensor: Any, device: str) -> Any:
        """Return a state of a parameter."""
        return _OnHost(tensor)


def _to(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda tensor, *args, **kwargs: _OnHost(tensor) if args == ("cpu",) else real(tensor, *args, **kwargs)


def _the_tensor(least: float, value: Any) -> Any:
    """Return a weight's norm, as `max` does of weights that are not all but zero, asking what it asks."""
    value > least  # noqa: B015  what max() asks allocates a byte
    return value


def _codes_on_host(self: Any) -> None:
    self.name2qmap.update({"dynamic": _CodeOnHost(), "udynamic": _CodeOnHost()})


def _state_buffer(self: Any, p: Any, dtype: Any = torch.float32) -> Any:
    return torch.zeros_like(p, dtype=dtype, device=_where(self, p))


def _double_buffer(self: Any, p: Any, dtype: Any = torch.float32) -> Any:
    return torch.zeros((2, *p.size()), dtype=dtype, device=_where(self, p))


def _where(optimizer: Any, p: Any) -> Any:
    return "meta" if optimizer.is_paged and p.numel() >= PAGED else p.device
