"""LitGPT's GPT.forward, Fabric's wrapper around it, and what its recipes do with the logits, with their variables.

The recipes are loops written out in one function: `logits`, and in 2023 `loss`, keep their graph alive until they get
another value. Fabric returns what 16-bit models make in fp32. Source: litgpt 0.5.13, model.py and finetune/lora.py,
fit; lightning 2.6, fabric/wrappers.py, _FabricModule.forward, and plugins/precision/half.py, convert_output.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oomph import ops
from oomph.blocks.litgpt import CausalSelfAttention
from oomph.errors import UnsupportedError
from oomph.losses.litgpt import CHUNK, Count, chunked_cross_entropy, without_last
from oomph.methods.litgpt_adapters import LoRAQKVLinear, StableEmbedding
from oomph.programs.frame import full_attention
from oomph.tape.autograd import like
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import yes
from oomph.tape.sym import Sym

sliding_windows = full_attention("transformer.h")


def buffers(m: Bound) -> list[Sym]:
    """Return what stays beside the parameters: the places of adapted channels, and a prompt's keys and values."""
    found: list[Sym] = []
    for attention in _attentions(m):
        qkv = attention.qkv
        if isinstance(qkv.block, LoRAQKVLinear) and not qkv.total and qkv.release.indices != "anew":
            qkv.parts["lora_ind"] = m.tape.empty((sum(qkv.widths),), "int64", op="lora_ind")
            found.append(qkv.lora_ind)
        if attention.prompt:
            found += _prompt_cache(attention)
    return found


def _attentions(m: Bound) -> Iterator[Bound]:
    return (layer.attn for layer in m.transformer.h)


def _prompt_cache(m: Bound) -> list[Sym]:
    """Make the keys and values of a prompt as the validation before training does: without gradients."""
    heads, groups, size = m.num_heads, m.num_kv_heads, m.head_dim
    dtype = m.adapter_wte.weight.dtype
    with m.tape.no_grad():
        if yes(groups == 1):  # views of what the fused map made; with more groups both are repeated, if only once
            aqkv = m.tape.empty((1, 1, heads + 2, m.prompt, size), dtype, op="aqkv")
            made, keys = [aqkv], groups
            _, ak, av = ops.split_axis(aqkv, 2, (heads, 1, 1))
        else:
            made = [m.tape.empty((1, heads, m.prompt, size), dtype, op="repeat_interleave") for _ in range(2)]
            (ak, av), keys = made, heads
        shape = (1, keys, m.prompt, size)
        m.parts["adapter_kv_cache"] = (ops.view(ak, shape), ops.view(av, shape))
    return made


def leave_behind(m: Bound) -> None:
    """Make the gradients that an earlier step left: those of a table no optimizer knows."""
    wte = m.transformer.wte
    for one in wte.parameters() if isinstance(wte.block, StableEmbedding) else ():
        if one.requires_grad:
            one.grad = like(one, one.dtype, "zeros_like")
            m.tape.recorder.name(one.grad.storage.ordinal, one.made_for, "gradient")


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that the optimizer updates: not a replaced embedding, nor prompts, which get no
    gradients.
    """
    left = list(m.transformer.wte.parameters()) if isinstance(m.transformer.wte.block, StableEmbedding) else []
    for attention in _attentions(m):
        left += attention.adapter_wte.parameters() if attention.prompt else []
    known = {one.storage.ordinal for one in left}
    return [one for one in parameters if one.storage.ordinal not in known]


def gpt(m: Bound, idx: Sym, chunked: bool) -> Sym | list[Sym]:
    """Mirror GPT.forward: logits [B, T, V], or chunks of 128 tokens of them."""
    tape, wte = m.tape, m.transformer.wte
    x = wte(idx) if isinstance(wte.block, StableEmbedding) else ops.embedding(wte.weight, idx)
    if wte.scaled:
        x = x * 1.0
    for index, block in enumerate(m.transformer.h):
        tape.begin_layer(index, block.path)
        x = block(x, m.cos, m.sin)
    tape.end_layers()
    x = m.transformer.ln_f(x)
    if chunked:
        return [_clamped(m, m.lm_head(x_i)) for x_i in ops.split_axis(x, 1, ops.pieces(x.shape[1], CHUNK))]
    return _clamped(m, m.lm_head(x))


def _clamped(m: Bound, logits: Sym) -> Sym:
    return logits if m.clamp_head is None else m.clamp_head(logits)


def _in_fabric(m: Bound, idx: Sym, chunked: bool) -> Any:
    """Mirror _FabricModule.forward: autocast, if any, ends with the model's own forward pass."""
    output = gpt(m, idx, chunked)
    if m.tape.autocast is not None:
        m.tape.autocast.casts.clear()
    output = [ops.cast(one, "fp32") for one in output] if isinstance(output, list) else ops.cast(output, "fp32")
    return output


def causal_lm(
    m: Bound,
    input_ids: Sym,
    labels: Sym | None,
    checkpointing: Checkpointing,
    model_type: str,
    **options: Any,
) -> tuple[Sym, None, None]:
    """Mirror what fit does from logits to loss; the recipe for all parameters does not ask for chunks."""
    if labels is None:
        raise UnsupportedError("oomph plays LitGPT's training only.")
    variables, release = m.tape.variables, _release(m)
    chunked = not next(m.lm_head.parameters()).requires_grad or "linear" in m.lm_head.parts
    variables["logits"] = _in_fabric(m, input_ids, chunked)
    m.tape.scope = "loss"
    with m.tape.without_autocast():
        loss = _loss(variables["logits"], ops.slice_axis(labels, 1, 1, labels.shape[1]), release.count)
    if release.keeps_loss:
        variables["loss"] = loss
    return loss, None, None


def _loss(logits: Sym | list[Sym], targets: Sym, count: Count) -> Sym:
    if isinstance(logits, list):
        without_last(logits)
        return chunked_cross_entropy(logits, targets, count)
    return chunked_cross_entropy(ops.slice_axis(logits, 1, 0, logits.shape[1] - 1), targets, count)


def _release(m: Bound) -> Any:
    block = next(_attentions(m)).block
    assert isinstance(block, CausalSelfAttention)
    return block.release
