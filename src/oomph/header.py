"""What a weight file says about itself: every stored tensor's name, dtype, shape and bytes. Never the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file. `n_bytes` comes from the header's offsets (safetensors) or block sizes (GGUF).

    `dtype` is a name of `oomph.dtypes`, a ggml block type, or the file's own word for a type oomph does not know.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int


@dataclass(frozen=True)
class Header:
    """All tensors of one model, over all its files. `kind` is "safetensors" or "gguf"."""

    kind: str
    tensors: tuple[StoredTensor, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.n_bytes for tensor in self.tensors)


@dataclass(frozen=True)
class Source:
    """A model as found: its raw config (if any), its header (if any), and where they came from.

    `origin` is one of catalogue, hub, cache (the hub's files on this disk), directory, config, stdin,
    safetensors, gguf. `revision` is the commit of a hub repository, `repo` the repository of a catalogued model.
    """

    name: str
    origin: str
    config: Mapping[str, Any] | None = None
    header: Header | None = None
    notes: tuple[str, ...] = ()
    revision: str = ""
    repo: str = ""
