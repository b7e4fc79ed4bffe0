"""Every storage torch makes and gives back, as a Stream: works the same on fake and on real tensors.

A dispatch mode sees each operation's outputs; a storage not seen before is an allocation, the death of its Python
object (which torch keeps alive exactly as long as the storage) is the free. What a kernel allocates and releases
inside itself is invisible here.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

from oomph.dtypes import canonical
from oomph.stream import Event, Label, Stream, rounded

aten = torch.ops.aten
Named = Iterable[tuple[str, torch.Tensor]]


class _Watch(weakref.ref):  # type: ignore[type-arg]
    """A weak reference to a storage that knows which allocation it is."""

    __slots__ = ("key", "n_bytes", "ordinal")
    key: int
    n_bytes: int
    ordinal: int


class Tracker(TorchDispatchMode):  # type: ignore[misc]
    """Records allocations and frees while entered. Zero-byte storages are left out.

    `names` says which allocation is which parameter, buffer, gradient or optimizer state, as far as `restart` was told.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stream = Stream()
        self.names: dict[int, str] = {}
        self.instant = ""
        self.counters_on_host = False  # the optimizer's, of steps
        self._count = 0
        self._watched: dict[int, _Watch] = {}
        self._on_host: dict[int, _Watch] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to say so anew costs as much as a view

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then look at what it returned."""
        if func is torch.ops.prim.device.default:
            return args[0].device  # half of what the engine asks of fake tensors
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._see(tensor, func)
        return result

    def mark(self, name: str) -> None:
        """Begin an instant."""
        self.instant = name
        self.stream.marks.append((len(self.stream.events), name))

    def restart(self, groups: Sequence[tuple[str, str, Named]]) -> None:
        """Begin the stream anew with what is alive: first the groups (instant, what it is, named tensors) in order.

        Anything else alive follows under the instant "other", in the order it was made.
        """
        alive = {watch.ordinal: watch for watch in self._watched.values()}
        old_labels = self.stream.labels
        self.stream, self.names, self._count = Stream(), {}, 0
        for instant, what, named in groups:
            if instant != self.instant or not self.stream.marks:
                self.mark(instant)
            for name, tensor in named:
                watch = self._watched.get(tensor.untyped_storage()._cdata)
                if watch is None or alive.pop(watch.ordinal, None) is None:
                    continue  # empty, or tied to one before
                self.names[self._begin(watch, what, tensor)] = name
        if alive:
            self.mark("other")
        for old, watch in sorted(alive.items()):
            label = old_labels[old]
            self._note(watch, label._replace(instant=self.instant))

    def rounded_bytes(self, tensors: Iterable[torch.Tensor]) -> int:
        """Return the bytes of the tracked storages behind these tensors, each once and rounded to 512 B."""
        keys = {tensor.untyped_storage()._cdata for tensor in tensors}
        return sum(rounded(self._watched[key].n_bytes) for key in keys if key in self._watched)

    def forget(self, tensors: Iterable[torch.Tensor]) -> None:
        """Learn that tensors seen before are in host memory also when the model is on a GPU."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if self._watched.pop(storage._cdata, None) is not None:
                self._on_host[storage._cdata] = _Watch(storage)

    def _see(self, tensor: torch.Tensor, func: Any) -> None:
        if is_traceable_wrapper_subclass(tensor):
            return  # what it is made of was seen
        storage = tensor.untyped_storage()
        key = storage._cdata
        if (known := self._watched.get(key)) is not None and known() is storage:
            return
        if (known := self._on_host.get(key)) is not None and known() is storage:
            return
        n_bytes = storage.nbytes()
        if not n_bytes:
            return
        if self._made_on_host(tensor, func):
            self._on_host[key] = _Watch(storage)
            return
        watch = _Watch(storage, self._free)
        watch.key, watch.n_bytes = key, n_bytes
        self._watched[key] = watch
        self._begin(watch, func._schema.name.rpartition("::")[2], tensor)

    def _begin(self, watch: _Watch, op: str, tensor: torch.Tensor) -> int:
        dtype = canonical(str(tensor.dtype)) or str(tensor.dtype)
        return self._note(watch, Label(op, tuple(tensor.shape), dtype, self.instant))

    def _note(self, watch: _Watch, label: Label) -> int:
        watch.ordinal = self._count
        self._count += 1
        self.stream.events.append(Event(watch.ordinal, watch.n_bytes))
        self.stream.labels[watch.ordinal] = label
        return watch.ordinal

    def _free(self, watch: _Watch) -> None:
        self.stream.events.append(Event(watch.ordinal, -watch.n_bytes))
        if self._watched.get(watch.key) is watch:
            del self._watched[watch.key]

    def _made_on_host(self, tensor: torch.Tensor, func: Any) -> bool:
        """Say whether a tensor is in host memory also when the model is on a GPU.

        `torch.tensor(1.0)` without a device, as torch.optim makes for step counts, is; so is `torch.zeros(())`, but for
        fused optimizers, whose counts are made where the parameters are. A model says its device; its forward, played
        again in a backward pass, is what records a graph there. What is on "meta" stands for paged memory.
        """
        if tensor.device.type == "meta":
            return True
        backward = self.instant.endswith("backward") and not torch.is_grad_enabled()
        if self.instant != "optimizer step" and not backward:
            return False
        makes = func is aten.lift_fresh.default or (func is aten.zeros.default and self.counters_on_host)
        return makes and tensor.dim() == 0


def _tensors(result: Any) -> Iterator[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, (tuple, list)):
        for each in result:
            yield from _tensors(each)
