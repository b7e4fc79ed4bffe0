"""Tiny projectors for --mmproj, written as llama.cpp's converter would: names, shapes and keys, no numbers in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.engines.llamacpp import tiny

HIDDEN, FFN, LAYERS, HEADS = 128, 256, 3, 4
EPS = 1e-6
# What a kind has beside the usual: sizes of image and patch, keys of its own.
KINDS: dict[str, dict[str, Any]] = {
    "gemma3": {"image": 224, "patch": 14, "use_gelu": True},
    "qwen2vl_merger": {"image": 560, "patch": 14},
    "qwen2.5vl_merger": {"image": 560, "patch": 14, "use_silu": True, "n_wa_pattern": 2},
    "pixtral": {"image": 256, "patch": 16, "use_silu": True, "spatial_merge_size": 2},
    "pixtral-12b": {"image": 256, "patch": 16, "use_silu": True},
    "mlp": {"image": 336, "patch": 14},
}
Tensor = tuple[str, tuple[int, ...], bool]  # name, shape with rows last, whether it is a matrix


def write(path: Path, name: str, width: int, half: bool = True) -> None:
    """Write a sparse GGUF file of a projector onto hidden states of `width`; matrices in F16, or in F32."""
    import gguf
    import numpy as np

    kind = name.removesuffix("-12b")
    of_kind = KINDS[name]
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_string("clip.projector_type", kind)
    writer.add_bool("clip.has_vision_encoder", True)
    for key, value in (
        ("image_size", of_kind["image"]), ("patch_size", of_kind["patch"]), ("embedding_length", HIDDEN),
        ("feed_forward_length", FFN), ("block_count", LAYERS), ("projection_dim", width),
        ("attention.head_count", HEADS),
    ):  # fmt: skip
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", EPS)
    for key in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{key}", [0.5, 0.5, 0.5])
    for key in ("n_wa_pattern", "spatial_merge_size"):
        if key in of_kind:
            writer.add_uint32(f"clip.vision.{key}", of_kind[key])
    for key in ("use_gelu", "use_silu"):
        if key in of_kind:
            writer.add_bool(f"clip.{key}", True)
    end = 0
    for tensor, shape, matrix in tensors(name, width):
        dtype = np.dtype(np.float16 if matrix and half else np.float32)
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        writer.add_tensor_info(tensor, shape, dtype, n_bytes)
        end += tiny.aligned(n_bytes)
    tiny.finish(writer, path, end)


def tensors(name: str, width: int) -> Iterator[Tensor]:
    """Yield the tensors of a projector."""
    of_kind = KINDS[name]
    patch, patches = of_kind["patch"], (of_kind["image"] // of_kind["patch"]) ** 2
    plain = name in ("gemma3", "qwen2vl_merger", "mlp")  # LayerNorm, two maps; else RMSNorm and a gate
    yield "v.patch_embd.weight", (HIDDEN, 3, patch, patch), True
    if name.startswith("qwen"):
        yield "v.patch_embd.weight.1", (HIDDEN, 3, patch, patch), True
    if name == "gemma3":
        yield "v.patch_embd.bias", (HIDDEN,), False
        yield "v.position_embd.weight", (patches, HIDDEN), False
    if name == "mlp":
        yield "v.class_embd", (HIDDEN,), False
        yield "v.position_embd.weight", (patches + 1, HIDDEN), True
    if name in ("mlp", "pixtral", "pixtral-12b"):
        yield from _norm("v.pre_ln", plain)
    if name != "mlp" and not name.startswith("pixtral"):
        yield from _norm("v.post_ln", plain)
    for il in range(LAYERS):
        yield from _layer(f"v.blk.{il}", plain, gated=not plain, biased=not name.startswith("pixtral"))
    yield from _ends(name, width)


def _norm(name: str, plain: bool) -> Iterator[Tensor]:
    yield f"{name}.weight", (HIDDEN,), False
    if plain:
        yield f"{name}.bias", (HIDDEN,), False


def _layer(name: str, plain: bool, gated: bool, biased: bool) -> Iterator[Tensor]:
    yield from _norm(f"{name}.ln1", plain)
    yield from _norm(f"{name}.ln2", plain)
    maps = [(each, HIDDEN, HIDDEN) for each in ("attn_q", "attn_k", "attn_v", "attn_out")]
    maps += [("ffn_up", FFN, HIDDEN), *([("ffn_gate", FFN, HIDDEN)] if gated else []), ("ffn_down", HIDDEN, FFN)]
    for each, out, into in maps:
        yield f"{name}.{each}.weight", (out, into), True
        if biased:
            yield f"{name}.{each}.bias", (out,), False


def _ends(name: str, width: int) -> Iterator[Tensor]:
    if name == "gemma3":
        yield "mm.input_projection.weight", (HIDDEN, width), True
        yield "mm.soft_emb_norm.weight", (HIDDEN,), False
        return
    inner = 4 * HIDDEN if name.startswith("qwen") else HIDDEN
    first, second = ("mm.1", "mm.2") if name.startswith("pixtral") else ("mm.0", "mm.2")
    middle = inner if name.startswith("qwen") else width
    for each, out, into in ((first, middle, inner), (second, width, middle)):
        yield f"{each}.weight", (out, into), True
        yield f"{each}.bias", (out,), False
    if name == "pixtral":
        yield "mm.input_norm.weight", (HIDDEN,), False
        yield "mm.patch_merger.weight", (HIDDEN, 4 * HIDDEN), True
    if name.startswith("pixtral"):
        yield "v.token_embd.img_break", (width,), False
