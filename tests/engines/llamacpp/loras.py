"""Tiny LoRA adapters, written as llama.cpp's convert_lora_to_gguf.py would: pairs of matrices, no numbers in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oomph.families import model_from_config
from oomph.formats.gguf_convert import convert
from tests.engines.llamacpp import tiny

OF_LAYERS = ("attn_q", "attn_v", "ffn_down")


def write(
    path: Path, config: dict[str, Any], rank: int, names: Sequence[str] = OF_LAYERS, keys: dict[str, str] | None = None
) -> None:
    """Write a sparse GGUF file that changes matrices whose names end so, in F16; of odd rank in F32."""
    import gguf
    import numpy as np

    found = convert(model_from_config(config))
    writer = gguf.GGUFWriter(path, found.traits.arch)
    said = {"general.type": "adapter", "adapter.type": "lora", **(keys or {})}
    for key, value in said.items():
        writer.add_string(key, value)
    writer.add_float32("adapter.lora.alpha", 2.0 * rank)
    dtype, end = np.dtype(np.float32 if rank % 2 else np.float16), 0
    for name, shape, _ in tiny.tensors(found, "gguf-f16"):
        if not name.endswith(tuple(f"{each}.weight" for each in names)):
            continue
        *experts, out, into = shape
        for half, of_half in (("a", (*experts, rank, into)), ("b", (*experts, out, rank))):
            n_bytes = int(np.prod(of_half)) * dtype.itemsize
            writer.add_tensor_info(f"{name}.lora_{half}", of_half, dtype, n_bytes)
            end += tiny.aligned(n_bytes)
    tiny.finish(writer, path, end)
