"""FakeTensorMode with less to do for each operation; what it answers is what torch answers.

torch keeps what it has worked out under a key of some forty values per tensor, and works views out in Python though
the real kernels need no memory. A trace of a small model spent most of its time on these. Only methods of the mode
that the pinned torch calls are replaced; anything unusual (constants, symbols, other layouts) goes torch's way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    _BypassDispatchCache,
    in_kernel_invocation_manager,
)

aten = torch.ops.aten
# Kernels that only describe a storage anew. `_unsafe_view` is one whose result autograd does not call a view.
VIEWS = frozenset(
    {
        aten._unsafe_view.default,
        aten.alias.default,
        aten.as_strided.default,
        aten.detach.default,
        aten.expand.default,
        aten.permute.default,
        aten.select.int,
        aten.slice.Tensor,
        aten.squeeze.dim,
        aten.t.default,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.view.default,
    }
)
PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format})


class QuickFakeMode(FakeTensorMode):  # type: ignore[misc]
    """Fake tensors without symbols."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._attributes: dict[torch.device, dict[str, Any]] = {}  # what every new tensor has

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let torch's own kernel make a view; everything else is torch's way."""
        if func in VIEWS and self._is_usual(args[0]):
            with in_kernel_invocation_manager(self):
                view = func(*args, **(kwargs or {}))
            return self._fake(view, args[0].fake_device)
        return super().dispatch(func, types, args, kwargs)

    def _fake(self, meta: torch.Tensor, device: torch.device) -> FakeTensor:
        """Return a fake tensor like FakeTensor(self, meta, device), whose attributes are set at once."""
        if device not in self._attributes:
            self._attributes[device] = dict(vars(FakeTensor(self, meta, device)))
        subclass = torch.Tensor._make_subclass
        made = subclass(FakeTensor, meta, meta.requires_grad, dispatch_device=True, device_for_backend_keys=device)
        torch._C._set_throw_on_mutable_data_ptr(made)
        vars(made).update(self._attributes[device])
        return made

    def _is_usual(self, tensor: Any) -> bool:
        return type(tensor) is FakeTensor and tensor.fake_mode is self and tensor.constant is None

    def _cache_key(self, state: Any, func: Any, args: Any, kwargs: Any) -> Any:
        """Return what the result depends on, each tensor described by the values that differ between usual ones."""
        ground = (func, torch.get_default_dtype(), torch.is_inference_mode_enabled())
        return (*ground, self._described(args), self._described(kwargs) if kwargs else None)

    def _described(self, arg: Any) -> Any:
        kind = type(arg)
        if kind is FakeTensor:
            if not self._is_usual(arg) or arg.layout is not torch.strided or arg.is_complex():
                raise _BypassDispatchCache("unusual tensor")
            place = (arg.storage_offset(), arg.untyped_storage().nbytes(), arg.fake_device)
            return (arg.dtype, arg.shape, arg.stride(), *place, arg.requires_grad, arg.is_inference())
        if kind in PLAIN:
            return (kind, arg)
        if kind is dict:
            return tuple((name, self._described(value)) for name, value in arg.items())
        if isinstance(arg, (list, tuple)):
            return (kind, *map(self._described, arg))
        raise _BypassDispatchCache("unusual argument")

    def _get_output_tensor_from_cache_entry(self, state: Any, entry: Any, key: Any, func: Any, args: Any) -> Any:
        known = entry.metadata
        if known is None or known.is_conj or known.is_neg or getattr(func, "is_view", True):
            return super()._get_output_tensor_from_cache_entry(state, entry, key, func, args)
        with in_kernel_invocation_manager(self):
            meta = torch.empty_strided(
                known.shape, known.stride, dtype=known.dtype, device="meta", requires_grad=known.requires_grad
            )
        return self._fake(meta, known.device)
