"""Torch without memory that behaves like torch on a GPU, as far as allocations go.

The device is called "cpu" because the autograd engine of a CPU build cannot run on a fake CUDA device (it aborts the
process looking for a device guard). What differs between CPU and CUDA is re-routed, one patch at a time, each with its
reason. The patches are global, so they belong into a process of their own; all are taken back when the context ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any
from unittest.mock import patch

import torch
import torch._meta_registrations as meta_rules
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._mode_utils import no_dispatch

from oomph.referee import autocast, sdpa
from oomph.referee.quick_fake import QuickFakeMode

aten = torch.ops.aten
GROUPED_ROW_BYTES = 16  # what cuBLAS and CUTLASS want a row to be a multiple of
TOKENS_DIM = 2  # of a mask [batch, tokens]
# Questions that are asked to take a shortcut; on a plain batch the shortcut is taken.
YES = (aten.all.default, aten.all.dim, aten.eq.Scalar, aten.eq.Tensor, aten._is_all_true.default)


# What is known where images are counted, and up to how many numbers.
COUNTS = (aten.arange.default, aten.arange.start, aten.arange.start_step)
COUNTED = 2**24


class _Answering(QuickFakeMode):
    """Fake tensors that answer when code asks for the value of one.

    transformers looks into tensors to save work ("are all positions in one sequence?", "is the cache still empty?")
    and optimizers read a step count. A plain batch says yes to the former; any number is 1.
    """

    plain = True  # what is asked now is answered as on a plain batch
    scored: int | None = None  # tokens of a sequence that count, where only some do
    number = 1  # what an integer is
    halves = False  # whether one of two answers is good
    padded = False  # whether masks of tokens have holes
    counting = False  # whether small integers are really computed with
    searching = False  # whether what a static cache has seen is asked for by a search alone, after it saw some
    pictured: int | None = None  # tokens of a sequence that are images', once they are looked for
    repeated: int | None = None  # how many items come of a repetition by counts, where it is known
    found: int | None = None  # how many places of a row are found now, where it is known

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer for `.item()`, `bool()` and `torch.equal`, and remember where a boolean came from."""
        if self.counting and (known := self._counted(func, args, kwargs or {})) is not None:
            return known
        if func is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            if args[0].dtype == torch.bool:
                return self.plain and getattr(args[0], "oomph_yes", False)
            return 1.0 if args[0].is_floating_point() else getattr(args[0], "oomph_number", self.number)
        if func is aten.is_nonzero.default and isinstance(args[0], FakeTensor) and args[0].dtype == torch.bool:
            return self.plain and getattr(args[0], "oomph_yes", False)  # what bool() is in inference mode
        if func is aten.equal.default:
            return True
        if func is aten.nonzero.default:
            return self._places(args[0])
        if func is aten.repeat_interleave.Tensor and self.repeated is not None:
            with self:
                return torch.empty((self.repeated,), dtype=args[0].dtype, device=args[0].device)
        if func is aten._grouped_mm.default and args[0].dtype != torch.bfloat16:
            return self._grouped(*args, **(kwargs or {}))
        result = super().dispatch(func, types, args, kwargs)
        if func is aten.ones.default and result.is_floating_point():
            result.oomph_full = True  # a mask that a class makes itself; a batch's are of integers
        if func is aten._to_copy.default and getattr(args[0], "oomph_full", False):
            result.oomph_full = True
        if func is aten.all.default and self.scored is not None and getattr(args[0], "oomph_unknown", False):
            return result  # are all numbers unknown? no
        if func is aten.isnan.default:
            result.oomph_unknown = True
        if func is aten.eq.Scalar and hasattr(args[0], "oomph_pictured"):
            self.pictured = args[0].oomph_pictured
        if func is aten.eq.Scalar and self.padded and args[0].dim() == TOKENS_DIM and args[0].dtype == torch.int64:
            result.oomph_holes = True  # a mask of tokens that is looked at
        if func is aten.all.default and getattr(args[0], "oomph_holes", False):
            return result
        if func is aten.gt.Scalar and self.searching and args[0].dim() == 0 and not args[0].is_floating_point():
            result.oomph_yes = True  # a count of tokens that were seen
        if func is aten.lt.Tensor and _unbounded(args[1]):
            result.oomph_yes = True  # HQQ's first error against none before
        if func in YES or (func is aten.gt.Scalar and self.scored is not None):  # some tokens are scored
            result.oomph_yes = True
        return result

    def _counted(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return what is known of integers: one that is read, or a count, which is then known; None for all else."""
        if func is aten._local_scalar_dense.default:
            constant = getattr(args[0], "constant", None)
            return None if constant is None else constant.item()
        if func not in COUNTS:
            return None
        with no_dispatch():
            real = func(*args, **kwargs)
        return self.fake_tensor_converter.from_real_tensor(self, real, make_constant=True)

    def _places(self, mask: Any) -> Any:
        """Return where a mask is set: everywhere, or for as many tokens of a row as are scored, or of images."""
        count = mask.numel() if self.scored is None or mask.dim() == 1 else mask.shape[0] * self.scored
        if self.pictured is not None and mask.dim() >= TOKENS_DIM:
            count = mask.shape[0] * self.pictured * prod(mask.shape[TOKENS_DIM:])
        if self.halves and mask.dim() == 1:
            count //= 2
        if self.found is not None:
            count = self.found
        with self:
            return torch.empty((count, mask.dim()), dtype=torch.int64, device=mask.device)

    def _grouped(self, left: Any, right: Any, offsets: Any = None, bias: Any = None, out_dtype: Any = None) -> Any:
        """Return the output of a grouped product: torch's shape rule takes bf16 alone, its kernels also others."""
        with self:
            return meta_rules._create_grouped_mm_output_tensor(left, right, offsets, out_dtype)


def _unbounded(number: Any) -> bool:
    constant = getattr(number, "constant", None)
    return constant is not None and constant.dim() == 0 and bool(constant == float("inf"))


def _of_numbers(tensor: Callable[..., Any]) -> Callable[..., Any]:
    """Return torch.tensor that reads tensors in a list before it looks at their memory."""

    def of_numbers(data: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(data, list) and data and all(isinstance(each, FakeTensor) for each in data):
            data = [each.item() for each in data]
        return tensor(data, *args, **kwargs)

    return of_numbers


@contextmanager
def fake_tensors(
    padded: bool = False,
    packed: bool = False,
    scored: int | None = None,
    number: int = 1,
    halves: bool = False,
    counting: bool = False,
    searching: bool = False,
) -> Iterator[_Answering]:
    """Make every tensor fake, with transformers none the wiser; what is yielded answers for their values.

    `padded`: attention masks have holes. `packed`: rows of two tokens and more hold several sequences. `scored`: of
    each row's tokens so many count, all if None. `number`: what integers answer that code reads. `halves`: every
    other answer is a good one. `counting`: integers that are given are computed with, as where images are cut up.
    `searching`: the cache of a search with beams is put in order once it has seen tokens.
    """
    import transformers.masking_utils as masking

    mode = _Answering(allow_non_fake_inputs=True)
    mode.scored, mode.number, mode.halves = scored, number, halves
    mode.padded, mode.counting, mode.searching = padded, counting, searching
    real_all, real_find = masking.fast_all, masking.find_packed_sequence_indices

    def some_are_masked(tensor: torch.Tensor) -> bool:
        real_all(tensor)  # what it allocates
        return getattr(tensor, "oomph_full", False)

    def some_are_padding(padding_mask: Any, kv_length: int, local_attention_size: int | None = None) -> bool:
        if padding_mask is None:
            return local_attention_size is None or kv_length < local_attention_size
        padding_mask.all()
        return False

    def some_are_packed(position_ids: torch.Tensor) -> Any:
        with patch.object(mode, "plain", position_ids.shape[1] == 1):
            return real_find(position_ids)

    with ExitStack() as stack:
        if counting:
            stack.enter_context(patch.object(fake_tensor, "CONSTANT_NUMEL_LIMIT", COUNTED))
            stack.enter_context(patch.object(torch, "tensor", _of_numbers(torch.tensor)))
        # transformers takes a fake tensor for a sign of compilation and then builds a 4-d mask that no real run
        # builds: flash attention would be out and every head would get a copy of its keys and values.
        stack.enter_context(patch.object(masking, "is_tracing", lambda tensor=None: False))
        if padded:
            # what `padding_mask.all()` answers, and what it allocates
            stack.enter_context(patch.object(masking, "_ignore_bidirectional_mask_sdpa", some_are_padding))
            stack.enter_context(patch.object(masking, "fast_all", some_are_masked))
        if packed:
            stack.enter_context(patch.object(masking, "find_packed_sequence_indices", some_are_packed))
        # Parameters that are fake cannot be swapped (they have weak references), so `.to()` would fail: re-bind them.
        stack.enter_context(patch.object(torch.nn.Module, "_apply", _rebind))
        # Copying one as Python copies anything would make a storage that dies and comes back unseen: clone it.
        stack.enter_context(patch.object(FakeTensor, "__deepcopy__", _cloned, create=True))
        # Static caches ask Dynamo to keep their address; it would look for a real one.
        stack.enter_context(patch("torch._dynamo.mark_static_address", lambda *args, **kwargs: None))
        stack.enter_context(mode)
        yield mode


@contextmanager
def cuda_kernels(attention: str, taken: Callable[[str], None]) -> Iterator[None]:
    """Send operations that differ between CPU and CUDA to what CUDA does; `taken` hears of each attention kernel."""
    functional = torch.nn.functional
    with ExitStack() as stack:
        # The kernels save different tensors for backward (log-sum-exp, random state), see sdpa.py.
        stack.enter_context(
            patch.object(functional, "scaled_dot_product_attention", sdpa.replacement(attention, taken))
        )
        # CUDA drops out in one kernel that keeps a boolean mask; the CPU multiplies by noise in the input's dtype.
        stack.enter_context(_fused_dropout())
        # CUDA has one kernel for RMS norm; the CPU composes it.
        stack.enter_context(patch.object(functional, "rms_norm", _rms_norm))
        # CPU autocast keeps fewer operations in fp32 (no softmax, layer norm, pow, sum).
        stack.enter_context(autocast.cuda_rules())
        # PEFT asks whether autocast is on, of CUDA when it names no device.
        stack.enter_context(patch.object(torch, "is_autocast_enabled", _autocast_enabled(torch.is_autocast_enabled)))
        # CUDA pads the rows of a grouped product to 16 bytes; torch's shape rule does so in a CUDA build only.
        stack.enter_context(patch.object(meta_rules, "_create_grouped_mm_output_tensor", _grouped_output))
        # Optimizers and models ask whether bf16 works; on the GPUs that are meant it does.
        stack.enter_context(patch.object(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True))
        yield


def _autocast_enabled(real: Callable[..., bool]) -> Callable[..., bool]:
    return lambda *device: real(*(device or ("cpu",)))


def _rebind(module: torch.nn.Module, fn: Callable[[Any], Any], recurse: bool = True) -> torch.nn.Module:
    for child in module.children() if recurse else ():
        _rebind(child, fn)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                changed = fn(parameter)
            if changed is not parameter:
                module._parameters[name] = torch.nn.Parameter(changed, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = fn(buffer)
    return module


def _cloned(tensor: Any, memo: dict[int, Any]) -> Any:
    copy = tensor.detach().clone()
    if isinstance(tensor, torch.nn.Parameter):
        copy = torch.nn.Parameter(copy, tensor.requires_grad)
    memo[id(tensor)] = copy
    return copy


def _grouped_output(left: Any, right: Any, offsets: Any, out_dtype: Any) -> Any:
    """Return an empty tensor for left @ right by groups, rows aligned as _grouped_mm_cuda does (ATen/native/cuda)."""
    left_flat, right_flat = left.dim() == 2, right.dim() == 2
    if left_flat and right_flat:
        shape = [offsets.shape[0], left.shape[0], right.shape[1]]
    elif right_flat:
        shape = [left.shape[1], right.shape[1]]
    else:
        shape = [*left.shape[:-1], right.shape[-1]]
    dtype = out_dtype or left.dtype
    step = GROUPED_ROW_BYTES // dtype.itemsize
    width = -(-shape[-1] // step) * step
    strides = [shape[-2] * width, width, 1][-len(shape) :]
    return torch.empty_strided(shape, strides, dtype=dtype, device=left.device)


@contextmanager
def _fused_dropout() -> Iterator[None]:
    """Send dropout to native_dropout, also where C++ calls it (the math kernel of attention does)."""
    library = torch.library.Library("aten", "IMPL")

    def dropout(input: Any, p: float, train: bool) -> Any:
        return torch.native_dropout(input, p, train)[0] if train and p else input

    try:
        library.impl("dropout", dropout, "AutogradCPU")
        yield
    finally:
        library._destroy()


def _rms_norm(input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    if torch.is_autocast_enabled("cpu"):  # rms_norm is in CUDA's fp32 list, its parts are not
        input, weight = input.float(), None if weight is None else weight.float()
    return aten._fused_rms_norm(input, list(normalized_shape), weight, eps)[0]
