"""The tensors of a GGUF file as llama.cpp loads them: of a real file's header, or of the file a config would make.

Source: src/llama-model-loader.cpp of llama.cpp 0c1e57098 (weight_name_comparer, create_tensor).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from oomph.errors import UnsupportedError
from oomph.formats import get
from oomph.formats.gguf import Gguf
from oomph.formats.gguf_convert import arch_of, as_published, rope_tensors
from oomph.formats.gguf_types import BY_NAME, DENSE, GgmlType

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.header import Header, StoredTensor

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
UNQUANTISED = {"bf16": "gguf-bf16", "fp16": "gguf-f16", "fp32": "gguf-f32"}  # what people say, and a file of it
ALIGNMENT = 32  # GGUF_DEFAULT_ALIGNMENT: between tensors of a file
MOST_LAYERS = 512  # LLAMA_MAX_LAYERS
LONGEST_NAME = 64  # GGML_MAX_NAME, its end included
_LAYER = re.compile(r"blk\.(\d+)\.")
_TYPES = {dense: BY_NAME[name] for name, dense in DENSE.items()}


@dataclass(frozen=True)
class FileTensor:
    """A tensor of the file. `layer` is -1 outside the layers, `shape` has rows last."""

    name: str
    layer: int
    shape: tuple[int, ...]
    type: GgmlType

    @cached_property
    def n_bytes(self) -> int:
        """Bytes in the file."""
        return self.type.tensor_bytes(self.shape)


@dataclass(frozen=True, eq=False)
class File:
    """A model's tensors in the order of the file. `said` is what was assumed of it, '' where a real file was read."""

    tensors: tuple[FileTensor, ...]
    stored: str
    said: str = ""

    @cached_property
    def layers(self) -> int:
        """Layers in the file, prediction layers among them."""
        return 1 + max((tensor.layer for tensor in self.tensors), default=-1)

    @cached_property
    def tied(self) -> bool:
        """Whether the embedding is the output matrix too."""
        return not any(tensor.name == OUTPUT for tensor in self.tensors)


def file_of(found: Subject, stored: str | None) -> File:
    """Return the file that is served: as it was read, else what the converter and quantiser of llama.cpp make.

    Raises UnsupportedError for a format that is no GGUF, or a model that llama.cpp's converter is not known to read.
    """
    header = found.source.header
    if header is not None and header.kind == "gguf":
        if stored is not None:
            raise UnsupportedError(
                "A GGUF file is served as it is.", "Leave the format out, or name the model instead."
            )
        return _of_header(header)
    published = as_published(found.model, found.source.config)
    fmt = get(UNQUANTISED.get(stored, stored) if stored else published)
    if not isinstance(fmt, Gguf):
        raise UnsupportedError(
            f"llama.cpp serves GGUF files, not {fmt.name}.", "Ask for a GGUF format: --format q4_k_m, q8_0 or gguf-f16."
        )
    if found.counted_by != "config":
        raise UnsupportedError(
            f"What GGUF makes of {found.model.name} cannot be told from names and shapes alone.",
            "Point oomph at the .gguf file.",
        )
    return _of_model(found, fmt, "" if stored else _assumed(fmt))


def _assumed(fmt: Gguf) -> str:
    """Return what is assumed of a file where no format is asked for."""
    if fmt.name == "mxfp4_moe":
        return "experts in mxfp4, as they are published, all else in q8_0, as ggml-org has them: --format gguf-bf16"
    return f"converted to GGUF in {fmt.name.removeprefix('gguf-')}, as it is published: --format q4_k_m"


def _of_header(header: Header) -> File:
    longest = max((tensor.name for tensor in header.tensors), key=len, default="")
    if len(longest) >= LONGEST_NAME:
        raise UnsupportedError(f"llama.cpp reads no tensor of so long a name: {longest[:40]!r}.", "Convert it again.")
    file = File(tensors_of(header), "as stored")
    if not 0 < file.layers <= MOST_LAYERS:
        raise UnsupportedError(f"llama.cpp reads no file of {file.layers} layers.", "Download it again.")
    return file


def tensors_of(header: Header) -> tuple[FileTensor, ...]:
    """Return the tensors of a GGUF file; raises UnsupportedError for a type or a shape that is none of ggml's."""
    return tuple(map(_read, header.tensors))


def _read(tensor: StoredTensor) -> FileTensor:
    kind = _TYPES.get(tensor.dtype) or BY_NAME.get(tensor.dtype)
    if kind is None or (tensor.shape or (1,))[-1] % kind.block:
        raise UnsupportedError(
            f"{tensor.name[:60]} cannot be of type {tensor.dtype[:20]} and shape {tensor.shape[:4]}.",
            "Download it again.",
        )
    return FileTensor(tensor.name, _layer(tensor.name), tensor.shape, kind)


def _layer(name: str) -> int:
    found = _LAYER.match(name)
    return int(found[1]) if found else -1


def _of_model(found: Subject, fmt: Gguf, said: str) -> File:
    """Return the tensors in the order of llama-quantize: those outside the layers, then layer by layer, by name."""
    arch_of(found.model)
    tensors = [
        FileTensor(f"blk.{at.layer}.{at.name}" if at.layer >= 0 else at.name, at.layer, at.shape, BY_NAME[kind])
        for at, kind in fmt.types(found.model).items()
    ]
    tensors += [
        FileTensor(name, -1, shape, BY_NAME["F32"])
        for name, shape in rope_tensors(found.model, found.source.config or {})
    ]
    return File(tuple(sorted(tensors, key=lambda t: (t.layer, t.name))), fmt.name, said)
