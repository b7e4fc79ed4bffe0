"""Fused kernels that others put into a transformers model, installed as they do it, taken out again afterwards.

Patches of a model that is there reach its modules, and some the module of the class; the latter are taken back.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import MethodType
from typing import Any

from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.job_words import AXOLOTL_PARTS, LIGER_PARTS
from oomph.referee.losses import LIGER, foak, without_triton


@contextmanager
def installed(model: Any, job: TrainJob) -> Iterator[None]:
    """Give a model the kernels of a job inside; Unsloth's hand one of attention keys and values as it wants them."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    parts = job.kernel_parts.split(",") if job.kernel_parts else []
    if job.kernels == "torch":
        yield
        return
    module = sys.modules[type(base).__module__]
    before = dict(vars(module))
    try:
        if job.kernels == "axolotl":
            own, beside = ([name for name in parts if (name in AXOLOTL_PARTS) is own] for own in (True, False))
            liger = partial(_liger, base, module, beside) if beside else lambda: None
            with import_module("oomph.referee.axolotl").patched(model, own or AXOLOTL_PARTS, liger):
                yield
            return
        if job.kernels == "liger":
            _liger(base, module, parts or LIGER_PARTS)
        else:
            INSTALL[job.kernels](base, module)
        if job.kernels == "unsloth":
            import_module("oomph.referee.unsloth_model").install(base, job.attention == "efficient")
        yield
    finally:
        vars(module).update(before)
        if job.kernels == "unsloth":
            import_module("oomph.referee.unsloth").forget()


SWITCHES = {"rope": ("rope",), "norm": ("rms_norm",), "glu": ("swiglu", "geglu")}


def _liger(model: Any, module: Any, parts: Collection[str]) -> None:
    """Let Liger patch a model, all that is asked for but its loss."""
    if not find_spec("liger_kernel"):
        raise UnsupportedError("A trace of Liger's kernels needs liger-kernel.", f"Do: {LIGER}")
    with without_triton():
        known = import_module("liger_kernel.transformers.monkey_patch").MODEL_TYPE_TO_APPLY_LIGER_FN
        rotary = import_module("liger_kernel.ops.rope").LigerRopeFunction
    # It would look for a kernel language that is installed; on a GPU of any make there is Triton.
    vars(import_module("liger_kernel.transformers.rope"))["dispatch"] = lambda name, *args: rotary.apply(*args)
    if model.config.model_type not in known:
        raise UnsupportedError(f"Liger has no kernels for {model.config.model_type[:80]!r}.", "Leave --kernels out.")
    patch = known[model.config.model_type]
    known_words = set(inspect.signature(patch).parameters)
    losses = {"cross_entropy", "fused_linear_cross_entropy"} & known_words
    on = {word: part in parts for part, words in SWITCHES.items() for word in words if word in known_words}
    patch(model=model, **dict.fromkeys(losses, False), **on)


def _foak(model: Any, module: Any) -> None:
    """Patch what the rules of fms-acceleration's models/<type>.py name: norms by class, a function of the module."""
    norms, rotary = foak("kernels.unsloth.rms_layernorm"), foak("kernels.unsloth.rope_embedding")
    for each in model.modules():
        if type(each).__name__.endswith("RMSNorm"):
            each.forward = MethodType(norms.fast_rms_layernorm, each)
    module.apply_rotary_pos_emb = rotary.fast_rope_embedding
    if any(type(each).__name__ == "Linear4bit" for each in model.modules()):
        _foak_adapters(model)


def _foak_adapters(model: Any) -> None:
    """Fuse adapters of attention as build_lora_fused_ops does where the maps are bitsandbytes'."""
    from oomph.referee.foak import adapters

    lora = adapters()
    for each in model.modules():
        if not type(each).__name__.endswith("Attention"):
            continue
        maps = {name: getattr(each, name) for name in ("q_proj", "k_proj", "v_proj")}
        if all(hasattr(one, "lora_A") for one in maps.values()):
            for name, forward in _at_once(each, lora.apply_lora_qkv, tuple(maps)).items():
                maps[name].forward = forward
        if hasattr(each.o_proj, "lora_A"):
            each.o_proj.forward = MethodType(lora.apply_lora_o_v2, each.o_proj)


def _at_once(attention: Any, fused: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return forwards of which the first computes for all, as _build_fused_forwards does."""
    outs: dict[str, Any] = {}

    def forward(x: Any, name: str) -> Any:
        if not outs:
            outs.update(zip(names, fused(attention, x), strict=True))
        return outs.pop(name)

    return {name: partial(forward, name=name) for name in names}


def _unsloth(model: Any, module: Any) -> None:
    """Patch what FastLlamaModel's patches put into a model with adapters: norms and adapted maps."""
    from oomph.referee import unsloth

    norms, _, lora = unsloth.files()
    for each in model.modules():
        if type(each).__name__.endswith("RMSNorm"):
            each.forward = partial(norms.fast_rms_layernorm, each, reuse_grad=True)
        if type(each).__name__.endswith("Attention"):
            unsloth.fuse_attention(lora, each)
        if type(each).__name__.endswith("MLP") and unsloth.plain(each.gate_proj, each.up_proj, each.down_proj):
            each.forward = MethodType(lora.apply_lora_mlp_swiglu, each)


INSTALL: dict[str, Any] = {"foak": _foak, "unsloth": _unsloth}
