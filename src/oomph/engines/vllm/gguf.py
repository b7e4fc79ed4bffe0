"""How vLLM holds a GGUF file: blocks as they are stored, all else in the dtype of activations.

Maps of one input lie side by side as rows of one tensor, which since 0.9 are all as wide as the widest: of a Q4_K_M the
queries and keys of half the layers take as much as their values in Q6_K. A tied head is the table of words itself.
Source: layers/quantization/gguf.py, model_loader/gguf_loader.py and layers/linear.py of vLLM 0.7.3, 0.8.5, 0.9.0,
0.10.2, 0.19.0, 0.22.0 and 0.23.0; 0.24.0 has none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from oomph import dtypes
from oomph.engines.memo import remembered
from oomph.engines.tensor_parallel import TOWERS, module_of
from oomph.errors import UnsupportedError
from oomph.formats.gguf_types import BY_NAME

if TYPE_CHECKING:
    from oomph.engines.vllm.job import Version, VllmJob
    from oomph.formats.gguf import Gguf
    from oomph.model import Model
    from oomph.tensor import Weight

GONE: Version = (0, 24, 0)
PADDED: Version = (0, 9, 0)  # rows side by side are as wide as the widest: not in 0.8.5
DENSE = frozenset({"F32", "F16", "BF16"})
# What its loader finds names for in a transformers class: maps of attention and MLPs, experts, words.
_KINDS = "embedding lm_head attention mlp norm moe_experts moe_router moe_shared_expert"
KINDS = frozenset(_KINDS.split())
CUT_IN_TWO = "kv_b_proj"  # the file has two tensors of it


@dataclass(frozen=True)
class Rows:
    """A tensor of a file on one device, or the part of one: `count` rows of `row_bytes`, of a ggml type."""

    name: str
    type: str
    count: int
    row_bytes: int


def check(model: Model, job: VllmJob) -> None:
    """Raise UnsupportedError for what vLLM does not load from a GGUF file, or is not modelled of one."""
    if job.enable_lora:
        raise UnsupportedError("Slots for adapters beside maps of a GGUF file are not modelled.", "Leave them out.")
    if job.release >= GONE:
        raise UnsupportedError(
            f"vLLM {job.version or 'of today'} reads no GGUF files: 0.23 was the last that did.",
            "--engine vllm@0.23 asks it; llama.cpp reads them too; or name another format.",
        )
    found = {row.kind for row in model.weights if row.kind not in KINDS | TOWERS}
    found |= {"latent attention" for row in model.weights if module_of(row)[0] == CUT_IN_TWO}
    other = next(iter(sorted(found)), None)
    if other is not None:
        raise UnsupportedError(
            f"vLLM's loader of GGUF files knows no {other.replace('_', ' ')} of {model.model_type}.",
            "Ask for another format.",
        )


def layer_rows(weight: Weight, mine: Weight, fmt: Gguf, model: Model) -> Iterator[tuple[int, Rows]]:
    """Yield what a device holds of a weight, layer by layer (-1: outside of them); `mine` is its part of it."""
    found = remembered(model, ("gguf", fmt.name), lambda: _types(fmt, model))
    out, into = mine.shape if len(mine.shape) > 1 else (1, prod(mine.shape))
    copies = len(mine.places[-1]) if mine.role == "expert" else 1
    for layer in mine.places[0] if mine.places else (-1,):
        kind = found[weight].get(layer, "F32")
        if kind in DENSE:
            yield layer, Rows(mine.name, fmt.rest, out * copies, into * dtypes.BITS[fmt.rest] // 8)
        else:
            yield layer, Rows(mine.name, kind, out * copies, _row_bytes(kind, into))


def _row_bytes(kind: str, length: int) -> int:
    found = BY_NAME[kind]
    if length % found.block:
        raise UnsupportedError(
            f"Rows of {length:,} are no whole blocks of {found.block}: {kind} is not cut so among devices.",
            "Ask for fewer devices.",
        )
    return found.row_bytes(length)


def _types(fmt: Gguf, model: Model) -> dict[Weight, Mapping[int, str]]:
    return {weight: fmt.types_in(weight, model) for weight in model.weights}


def side_by_side(parts: list[Rows], padded: bool) -> tuple[int, str]:
    """Return the bytes of maps that lie in one tensor, and the type of the widest.

    >>> parts = [Rows("q", "Q4_K", 4096, 2304), Rows("v", "Q6_K", 1024, 3360)]
    >>> side_by_side(parts, padded=True), side_by_side(parts, padded=False)
    ((17203200, 'Q6_K'), (12877824, 'Q6_K'))
    """
    widest = max(parts, key=lambda part: part.row_bytes)
    rows = sum(part.count for part in parts)
    size = rows * widest.row_bytes if padded else sum(part.count * part.row_bytes for part in parts)
    return size, widest.type
