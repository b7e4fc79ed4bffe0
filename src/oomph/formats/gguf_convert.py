"""From a Model to the tensors of its unquantised GGUF file, as llama.cpp's converter writes them.

Experts become one tensor per layer, DeepSeek's latent key/value map becomes two, Mamba's convolution loses an
axis, vectors, norms, routers and positions stay F32. Source: llama.cpp 0c1e57098, conversion/base.py
(prepare_tensors) and the file of each architecture. A vision or audio tower goes to a file of its own (mmproj)
and is not here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Part, Stack
from oomph.config import Config
from oomph.errors import UnsupportedError
from oomph.formats.gguf_mixes import Placed, Traits
from oomph.formats.gguf_names import ARCHS, COMMON, GATE_AND_UP, LAYERS_OF_70B, OUTER, QKV_AND_GATE, WITH_UP, Arch
from oomph.model import Model
from oomph.tensor import Weight

_IN_LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\*|\d+)\.(.+)$")
OTHER_FILE = frozenset({"vision", "audio", "projector"})


@dataclass(frozen=True)
class Row:
    """One or more equal tensors of the file that come from one weight of the model: the same in each of `layers`."""

    name: str
    layers: tuple[int, ...]
    shape: tuple[int, ...]
    dense: str

    def placed(self) -> Iterator[Placed]:
        """Yield each tensor."""
        return (Placed(self.name, layer, self.shape) for layer in self.layers)


@dataclass(frozen=True, eq=False)
class Converted:
    """A model as a GGUF file: its rows by the weight they come from, and what the mixes ask of it as a whole."""

    rows: Mapping[Weight, tuple[Row, ...]]
    traits: Traits


def arch_of(model: Model) -> Arch:
    """Return what is known of the model's conversion, an error when nothing is."""
    if model.model_type not in ARCHS:
        raise UnsupportedError(
            f"oomph does not know how llama.cpp converts {model.model_type or 'this architecture'} to GGUF.",
            "Point oomph at a .gguf file of it: the header tells every byte.",
        )
    return ARCHS[model.model_type]


def in_mxfp4(config: Mapping[str, Any] | None) -> bool:
    """Tell whether a model's experts are published in MXFP4, which the converter takes over as they are.

    Source: conversion/gpt_oss.py, repack_mxfp4.
    """
    said = (config or {}).get("quantization_config")
    return isinstance(said, dict) and said.get("quant_method") == "mxfp4"


def as_published(model: Model, config: Mapping[str, Any] | None) -> str:
    """Return the format of the file that the converter makes of a model where nobody asks for one.

    Its experts in MXFP4, if they are published so, all else in the checkpoint's own type.
    """
    if in_mxfp4(config):
        return "mxfp4_moe"
    return f"gguf-{ {'fp16': 'f16', 'fp32': 'f32'}.get(model.dtype or '', 'bf16') }"


def convert(model: Model) -> Converted:
    """Return the file's tensors; 16-bit ones are in the checkpoint's own 16-bit type, as the converter chooses."""
    arch = arch_of(model)
    dense = "BF16" if model.dtype == "bf16" else "F16"
    rows = {weight: tuple(_rows(weight, arch, model, dense)) for weight in model.weights}
    _check_keys(rows.values(), model)
    depth = 1 + max((layer for found in rows.values() for row in found for layer in row.layers), default=-1)
    experts = max((len(w.places[-1]) for w in model.weights if w.role == "expert"), default=0)
    query, key = _heads(model, arch)
    is_70b = LAYERS_OF_70B.get(arch.name) == depth and (arch.name != "llama" or query != key)
    return Converted(rows, Traits(arch.name, depth, query // key if key else 0, experts, is_70b))


def _check_keys(rows: Iterable[tuple[Row, ...]], model: Model) -> None:
    """Refuse layers with queries but no keys of their own (Gemma-4 E2B, E4B).

    The published files are larger than the class: they seem to hold key and value maps nothing reads, in a type
    that changed between converters. Their header says; the config does not.
    """
    layers: dict[str, set[int]] = {"attn_q.weight": set(), "attn_k.weight": set()}
    for row in (row for found in rows for row in found if row.name in layers):
        layers[row.name].update(row.layers)
    if layers["attn_q.weight"] - layers["attn_k.weight"] and model.model_type.startswith("gemma"):
        raise UnsupportedError(
            "GGUF files of models whose layers share keys and values hold more than the model's config says.",
            "Point oomph at the .gguf file: the header tells every byte.",
        )


def _rows(weight: Weight, arch: Arch, model: Model, dense: str) -> Iterator[Row]:
    """Yield what one weight becomes: usually one row, none if the file does not hold it."""
    if weight.kind in OTHER_FILE or (weight.kind == "mtp" and not arch.predictors):
        return
    layers, local = _place(weight, model)
    if local is None:
        name = _named(weight.name.rsplit(".", 2)[-2:], OUTER)
    elif local.removesuffix(".weight") in arch.dropped:
        return
    else:
        name = _named(local.rsplit(".", 1), {**COMMON, **arch.names}, whole=local)
    if not name:
        raise UnsupportedError(
            f"oomph does not know what llama.cpp makes of {weight.name} of {model.model_type}.",
            "Point oomph at a .gguf file of it: the header tells every byte.",
        )
    for part, shape in _shapes(name, weight, model):
        yield Row(part, layers, shape, "F32" if _stays_f32(part, shape) else dense)


def _place(weight: Weight, model: Model) -> tuple[tuple[int, ...], str | None]:
    """Return the layers a weight is in, and its name within a layer; (-1,) and None outside the layers.

    Prediction layers are numbered on from the decoder's, also where the checkpoint keeps them apart (Qwen3-Next).
    """
    found = _IN_LAYER.search(weight.name)
    if found is None:
        apart = weight.name.startswith("mtp.")
        return ((model.num_layers,), weight.name) if apart else ((-1,), None)
    layers = weight.places[0] if found[1] == "*" else (int(found[1]),)
    if weight.name.startswith("mtp.layers."):
        layers = tuple(model.num_layers + layer for layer in layers)
    return layers, found[2]


def _named(parts: list[str], names: Mapping[str, str], whole: str = "") -> str:
    """Return GGUF's name for module and parameter, '' if unknown; a bare parameter is looked up whole."""
    module, parameter = parts[0], parts[-1]
    if whole in names:
        return names[whole]
    if parameter in ("weight", "bias") and names.get(module):
        return f"{names[module]}.{parameter}"
    return ""


def _shapes(name: str, weight: Weight, model: Model) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Return name and shape of each tensor the weight becomes in one layer, rows last."""
    shape = weight.shape
    if weight.role == "conv1d":
        return ((name, shape[::-1]),)
    if ".experts.*." in weight.name:
        return _stacked(name, (len(weight.places[-1]), *shape))
    if name == f"{QKV_AND_GATE}.weight":
        from oomph.blocks.linear_attention import GatedDeltaNet  # here, not above: few models need these blocks

        gate = _first(model, GatedDeltaNet).value_size
        return (("attn_qkv.weight", (shape[0] - gate, shape[1])), ("attn_gate.weight", (gate, shape[1])))
    if name == "attn_kv_b.weight":
        from oomph.blocks.latent_attention import LatentAttention

        block = _first(model, LatentAttention)
        heads, rank = block.num_heads, block.kv_lora_rank
        return (
            ("attn_k_b.weight", (heads, rank, block.qk_nope_head_dim)),
            ("attn_v_b.weight", (heads, block.v_head_dim, rank)),
        )
    if name in ("ssm_conv1d.weight", "shortconv.conv.weight"):
        return ((name, tuple(n for n in shape if n != 1)),)
    if model.model_type == "mamba2":
        if name in ("ssm_a", "ssm_d"):
            return ((name, (*shape, 1)),)
        if name == "ssm_norm.weight":
            from oomph.blocks.mamba import Mamba2

            groups = _first(model, Mamba2).num_groups
            return ((name, (groups, shape[0] // groups)),)
    return ((name, shape),)


def _stacked(name: str, shape: tuple[int, ...]) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Return the experts of a layer as one tensor; a fused gate and up map is cut in two, or (Gemma-4) made."""
    if name.startswith(WITH_UP):
        return ((f"ffn_gate_up_exps{name.removeprefix(WITH_UP)}", (shape[0], 2 * shape[1], *shape[2:])),)
    if not name.startswith(GATE_AND_UP):
        return ((name, shape),)
    half = (shape[0], shape[1] // 2, *shape[2:])
    parameter = name.removeprefix(GATE_AND_UP)
    return ((f"ffn_gate_exps{parameter}", half), (f"ffn_up_exps{parameter}", half))


_F32_NAMES = (
    "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "position_embd.weight", "ssm_conv1d.weight",
    "shortconv.conv.weight",
)  # fmt: skip


def _stays_f32(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) <= 1 or not name.endswith(".weight") or name.endswith("_norm.weight") or name in _F32_NAMES


def _heads(model: Model, arch: Arch) -> tuple[int, int]:
    """Return query and key/value heads as the file's metadata gives them."""
    if arch.heads == "none":
        return 0, 0
    if arch.heads == "one":
        from oomph.blocks.latent_attention import LatentAttention

        return _first(model, LatentAttention).num_heads, 1
    block = _first(model, Attention)
    if arch.heads == "first" and not any(w.kind == "attention" and 0 in w.places[0] for w in model.weights if w.places):
        return block.num_heads, 0
    return block.num_heads, block.num_heads if arch.heads == "equal" else block.num_kv_heads


def _first(model: Model, kind: type[Any]) -> Any:
    """Return the first block of a kind in the model's order, which is the first layer's."""
    for part in model.parts.values():
        found = _search(part, kind)
        if found is not None:
            return found
    raise UnsupportedError(f"{model.model_type} has no {kind.__name__} block.", "Point oomph at a .gguf file of it.")


def _search(part: Part, kind: type[Block]) -> Block | None:
    if not isinstance(part, Block) or part.kind in OTHER_FILE:
        return None
    if isinstance(part, kind):
        return part
    children = [layer for layer, _ in part.groups()] if isinstance(part, Stack) else list(part.parts.values())
    return next((found for child in children if (found := _search(child, kind)) is not None), None)


def rope_tensors(model: Model, config: Mapping[str, Any]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return name and shape of the F32 tensors of scaled positions, which the converter computes and stores.

    They are no weight of the model, and only the config.json tells them: one table of head_dim / 2 factors for
    "llama3" scaling, two of the rotated half for "longrope" (Phi).
    """
    arch = arch_of(model).name
    text = Config(_object(config, "text_config") or config, where="text_config")
    scaling = _object(text.raw, "rope_parameters") or _object(text.raw, "rope_scaling")
    scaling = _object(scaling, "full_attention") or scaling
    if arch == "gemma4":  # which dimensions of full attention are rotated
        return (("rope_freqs.weight", (text.int("global_head_dim") // 2,)),)
    kind = str(scaling.get("rope_type") or scaling.get("type") or "").lower()
    if arch in _LLAMA3_ROPE and kind == "llama3":
        return (("rope_freqs.weight", (_first(model, Attention).head_dim // 2,)),)
    factors = Config(scaling, where="rope_scaling")
    if arch in _LONG_ROPE and factors.list("long_factor"):
        return tuple(
            (f"rope_factors_{length}.weight", (len(factors.list(f"{length}_factor") or ()),))
            for length in ("long", "short")
        )
    return ()


def _object(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = config.get(key)
    return found if isinstance(found, Mapping) else {}


_LLAMA3_ROPE = frozenset({"llama", "llama4", "smollm3", "apertus", "arcee", "exaone4"})
_LONG_ROPE = frozenset({"phi3", "phimoe"})
