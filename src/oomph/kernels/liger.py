"""Liger's kernels: RMSNorm, rotary embedding and SwiGLU or GeGLU, each one kernel, as `use_liger_kernel` puts them in.

Effect: a norm keeps its input in its own dtype instead of fp32 copies, an activation its two inputs and not what is
made of them; gradients are written over incoming ones and over what was kept. Cost: none but the package; a norm whose
gradient is needed twice (Gemma 2, OLMo 2) takes a tensor for it. Flag: --kernels liger. Source: liger-kernel 0.8.5,
transformers/monkey_patch.py, as it patches a model that is there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from oomph.job_words import LIGER_PARTS
from oomph.kernels import Patch, patched

if TYPE_CHECKING:
    from oomph.model import Model

LLAMA = Patch("liger", "liger", "swiglu")
GEMMA = Patch("liger", "liger", "geglu")
GEMMA2 = replace(GEMMA, norm="liger kept")
OLMO = Patch(
    "liger kept", "liger in fp32", "swiglu", others=(("q_norm", ""), ("k_norm", ""), ("model.norm", "liger"))
)  # fmt: skip
PATCHES: dict[str, Patch] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "ministral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "smollm3": LLAMA,
    "granite": LLAMA,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2,
    "phi3": LLAMA,
    "glm4": Patch("liger kept", "", "swiglu"),
    "olmo2": OLMO,
    "olmo3": OLMO,
    "exaone4": replace(LLAMA, norm="liger kept"),
}


def with_kernels(model: Model, parts: str = "") -> Model:
    """Return the model as apply_liger_kernel_to_<type>(model=...) leaves it, whose switches are `parts`."""
    on = parts.split(",") if parts else LIGER_PARTS
    return patched(model, "Liger", {name: _of(patch, on) for name, patch in PATCHES.items()})


def _of(patch: Patch, on: Collection[str]) -> Patch:
    """Return what is left of a patch where some of its switches are off."""
    patch = patch if "norm" in on else replace(patch, norm="", others=())
    return replace(patch, rotary=patch.rotary if "rope" in on else "", mlp=patch.mlp if "glu" in on else "")
