"""Unsloth's own forward passes of a model, its layers and their attention, cut out of models/llama.py and qwen3.py.

What they ask for is put in its place here: no packing, no parallelism, a kernel of torch for attention, and a rotary
embedding that makes its tables once, as LlamaRotaryEmbedding does on a device.
"""

from __future__ import annotations

import os
from functools import cache, partial
from importlib import import_module
from types import MethodType, SimpleNamespace
from typing import Any

import torch

from oomph.referee import unsloth

LLAMA = ("LlamaModel_fast_forward", "LlamaDecoderLayer_fast_forward", "LlamaAttention_fast_forward")
MORE = ("original_apply_qkv", "original_apply_o")
FIRST_ROWS, STEP = 4 * 8192, 8192


def install(model: Any, repeats: bool) -> None:
    """Give a model of transformers Unsloth's forward passes; with `repeats` key heads are, as xformers wants them."""
    found, base = _functions(), model.model
    attention = partial(_attend, model.config._attn_implementation, repeats)
    normed = hasattr(base.layers[0].self_attn, "q_norm")
    of_heads = found["Qwen3Attention_fast_forward" if normed else "LlamaAttention_fast_forward"]
    base.rotary_emb = _Rotary(base.rotary_emb.inv_freq, model.config)
    base.forward = MethodType(found["LlamaModel_fast_forward"], base)
    base._unsloth_head_reads_final_norm = True  # as _run_backbone says
    for layer in base.layers:
        layer.forward = MethodType(_checkpointed, layer)
        layer.self_attn.forward = MethodType(of_heads, layer.self_attn)
    found["run_attention"] = attention


def _checkpointed(layer: Any, *args: Any, **kwargs: Any) -> Any:
    """Mirror GradientCheckpointingLayer of transformers up to 5.17, the newest that Unsloth goes with."""
    forward = MethodType(_functions()["LlamaDecoderLayer_fast_forward"], layer)
    if layer.gradient_checkpointing and layer.training:
        return layer._gradient_checkpointing_func(partial(forward, **kwargs), *args)
    return forward(*args, **kwargs)


@cache
def _functions() -> dict[str, Any]:
    """Return the functions by name, among all that they know."""
    from transformers.modeling_layers import GradientCheckpointingLayer
    from transformers.modeling_outputs import BaseModelOutputWithPast

    norms, rotary, _ = unsloth.files()
    nothing = lambda *args, **kwargs: None  # noqa: E731
    names: dict[str, Any] = {
        "torch": torch, "os": os, "SDPA": "sdpa", "get_packed_info_from_kwargs": nothing, "get_cp_manager": nothing,
        "select_attention_backend": lambda use_varlen: "sdpa", "resolve_prefix_seg_info": nothing,
        "AttentionConfig": SimpleNamespace, "AttentionContext": SimpleNamespace, "run_attention": nothing,
        "fast_rms_layernorm": norms.fast_rms_layernorm, "fast_rope_embedding": rotary.fast_rope_embedding,
        "fast_qk_norm_rope": _normed_and_turned, "_qk_norm_rope": SimpleNamespace(QK_NORM_ROPE_ENABLED=True),
        "_get_dtype": lambda dtype: dtype, "dtype_from_config": lambda config: config.dtype,
        "config_return_dict": lambda config: True, "IS_ATTENTION_REFACTOR": True, "LongRopeRotaryEmbedding": type(None),
        "GradientCheckpointingLayer": GradientCheckpointingLayer, "BaseModelOutputWithPast": BaseModelOutputWithPast,
    }  # fmt: skip
    models = unsloth.root() / "models"
    unsloth.cut(models / "llama.py", (*LLAMA, *MORE), names)
    unsloth.cut(models / "qwen3.py", ("Qwen3Attention_fast_forward",), names)
    return names


def _attend(implementation: str, repeats: bool, config: Any, context: Any, Q: Any, K: Any, V: Any) -> Any:  # noqa: N803
    """Stand for run_attention: a kernel that attends causally, its output [B, S, N, D]."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    module = SimpleNamespace(num_key_value_groups=config.n_groups, is_causal=True, training=context.training)
    scaling = context.head_dim**-0.5
    if implementation == "eager":
        import transformers.models.llama.modeling_llama as llama

        return llama.eager_attention_forward(module, Q, K, V, None, scaling=scaling)[0]
    if repeats and config.n_groups != 1:
        K, V = (_repeated(each, config, context) for each in (K, V))  # noqa: N806
        module.num_key_value_groups = 1
    return ALL_ATTENTION_FUNCTIONS[implementation](module, Q, K, V, None, scaling=scaling)[0]


def _repeated(x: Any, config: Any, context: Any) -> Any:
    """Mirror what run_attention does with keys and values for xformers."""
    x = x.transpose(1, 2).view(context.bsz, context.kv_seq_len, config.n_kv_heads, 1, context.head_dim)
    x = x.expand(context.bsz, context.kv_seq_len, config.n_kv_heads, config.n_groups, context.head_dim)
    return x.reshape(context.bsz, context.kv_seq_len, context.n_heads, context.head_dim).transpose(1, 2)


def _normed_and_turned(q_norm: Any, k_norm: Any, Q: Any, K: Any, cos: Any, sin: Any, ids: Any = None) -> Any:  # noqa: N803
    """Mirror fast_qk_norm_rope as it runs on a GPU."""
    kernel = import_module(f"{unsloth.PACKAGE}.kernels.qk_norm_rope").Fast_QK_Norm_RoPE
    cos2, sin2 = cos.squeeze(), sin.squeeze()
    has_ids = ids is not None
    rope_indices = ids.reshape(-1) if has_ids else cos2.new_empty(1, dtype=torch.int32)
    args = Q, K, q_norm.weight, k_norm.weight, cos2, sin2, rope_indices, 1e-6, 1e-6, has_ids
    Qo, Ko = kernel.apply(*args)  # noqa: N806
    return Qo.transpose(1, 2), Ko.transpose(1, 2)


class _Rotary(torch.nn.Module):  # type: ignore[misc]
    """Stands for LlamaRotaryEmbedding: what it keeps, made when it is first asked."""

    inv_freq: Any

    def __init__(self, inv_freq: Any, config: Any) -> None:
        super().__init__()
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.rows = min(FIRST_ROWS, config.max_position_embeddings)
        long = config.max_position_embeddings > FIRST_ROWS
        self.dtype, self.size = config.dtype if long else torch.float32, config.head_dim
        self.tables: Any = ()

    def extend_rope_embedding(self, x: Any, seq_len: int, materialize_len: int) -> None:
        """Make the tables for so many positions, unless they are there."""
        if not self.tables:
            rows = self.rows if materialize_len <= self.rows else -(-materialize_len // STEP) * STEP
            self.tables = tuple(torch.empty((rows, self.size), dtype=self.dtype) for _ in range(2))

    def get_cached(self, seq_len: int, device_index: Any) -> Any:
        """Return cosines and sines."""
        return self.tables
