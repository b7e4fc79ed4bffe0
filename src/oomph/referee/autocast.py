"""CUDA's autocast rules on the CPU's autocast key: the two lists differ, and the lists decide what is kept in fp32.

Source: torch 2.13 ATen/autocast_mode.h, AT_FORALL_FP32 and AT_FORALL_FP32_SET_OPT_DTYPE; a test holds these tuples
against that header. Operations that the CPU casts the same way keep torch's own kernel.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

FP32 = (
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh",
    "tan", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "softplus", "layer_norm", "native_layer_norm",
    "rms_norm", "group_norm", "cosine_similarity", "nll_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "mse_loss",
    "kl_div", "binary_cross_entropy_with_logits", "dist", "renorm", "logsumexp", "upsample_bilinear2d",
)  # fmt: skip
FP32_UNLESS_ASKED = (
    "prod", "prod.dim_int", "softmax.int", "log_softmax.int", "cumprod", "cumsum", "linalg_vector_norm", "sum",
    "sum.dim_IntList",
)  # fmt: skip
# The CPU promotes their arguments, CUDA leaves them alone.
AS_THEY_ARE = ("cat", "stack", "index_copy")
KEY = "AutocastCPU"


@contextmanager
def cuda_rules() -> Iterator[None]:
    """Register CUDA's fp32 rules where the CPU has none, as long as the context lasts."""
    library = torch.library.Library("aten", "IMPL")
    try:
        for names, rule in ((FP32, _in_fp32), (FP32_UNLESS_ASKED, _in_fp32_unless_asked)):
            for name in names:
                if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", KEY):
                    packet, _, overload = name.partition(".")
                    library.impl(name, rule(getattr(getattr(torch.ops.aten, packet), overload or "default")), KEY)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that a kernel is replaced
            for name in AS_THEY_ARE:
                library.impl(name, _as_it_is(getattr(torch.ops.aten, name).default), KEY)
            library.impl("cross_entropy_loss", _cross_entropy, KEY)  # the CPU casts it as a whole, CUDA its parts
            library.impl("einsum", _einsum, KEY)  # the CPU casts inside, CUDA what goes in
        yield
    finally:
        library._destroy()


def _eligible(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float64


def without_autocast() -> Any:
    """Return a context in which autocast does nothing, as inside an operation that autocast has prepared."""
    return torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU))


def _in_fp32(op: Any) -> Callable[..., Any]:
    """Return the operation with its floating-point arguments cast to fp32."""

    def cast(value: Any) -> Any:
        return value.to(torch.float32) if _eligible(value) else value

    def call(*args: Any, **kwargs: Any) -> Any:
        with without_autocast():
            return op(*map(cast, args), **{name: cast(value) for name, value in kwargs.items()})

    return call


def _as_it_is(op: Any) -> Callable[..., Any]:
    """Return the operation with its arguments as they are."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with without_autocast():
            return op(*args, **kwargs)

    return call


def _cross_entropy(*args: Any, **kwargs: Any) -> Any:
    """Run what torch makes cross_entropy_loss of, each part under its own rule: it asks log_softmax for the logits' own
    dtype (ATen/native/LossNLL.cpp), so only nll_loss casts."""
    return torch.ops.aten.cross_entropy_loss.default.decompose(*args, **kwargs)


def _einsum(equation: str, tensors: Any, *, path: Any = None) -> Any:
    """Mirror einsum under CUDA's autocast; of a parameter the cast is not kept here, no model has one in it."""
    dtype = torch.get_autocast_dtype("cpu")
    tensors = [each.to(dtype) if _eligible(each) else each for each in tensors]
    with without_autocast():
        return torch.ops.aten.einsum.default(equation, tensors, path=path)


def _in_fp32_unless_asked(op: Any) -> Callable[..., Any]:
    """Return the operation with dtype=fp32 unless the caller gave a dtype."""
    names = [argument.name for argument in op._schema.arguments]
    place = names.index("dtype")

    def call(*args: Any, **kwargs: Any) -> Any:
        given = args[place] if len(args) > place else kwargs.pop("dtype", None)
        if given is None and _eligible(args[0]):
            given = torch.float32
        with without_autocast():
            return op(*args[:place], **kwargs, dtype=given)

    return call
