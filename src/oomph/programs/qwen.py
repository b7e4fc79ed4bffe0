"""QWenLMHeadModel.forward of the first Qwen, with its local variables: fp32 rotary embedding, flash_attn on fused qkv.

Eager is its own `_attn`, for want of flash_attn. Without flash_attn's own kernels for rotary embedding and norms,
which are packages apart. Source: the code of its repositories (Qwen/Qwen-7B, modeling_qwen.py of late 2023).
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.job import TrainJob
from oomph.losses.own import OWN
from oomph.programs.cache import Cache
from oomph.programs.frame import call, full_attention, language_model
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

sliding_windows = full_attention("transformer.h")
LOGN_POSITIONS = 32767  # factors for long prompts that each layer registers


def buffers(m: Bound) -> list[Sym]:
    """Return fp32 inv_freq, and of each layer the masked bias and the logarithmic factors, in the weights' dtype."""
    tape, layers, dtype = m.tape, len(m.transformer.h.stacked), m.transformer.wte.weight.dtype
    head_dim = next(iter(m.transformer.h)).attn.head_dim
    per_layer = [tape.empty(shape, dtype, op="logn_tensor") for _ in range(layers) for shape in ((), (LOGN_POSITIONS,))]
    return [tape.empty((head_dim // 2,), "fp32", op="inv_freq"), *per_layer]


def leave_behind(m: Bound, job: TrainJob) -> None:
    """Allocate what an earlier forward pass left: the tables of the rotary embedding."""
    rotary_tables(m.transformer, job.seq_len)


def rotary_tables(m: Bound, length: Size) -> tuple[Sym, Sym]:
    """Mirror RotaryEmbedding: cos and sin [1, S, 1, D] fp32, made for twice as many tokens and kept."""
    tape, head_dim = m.tape, next(iter(m.h)).attn.head_dim
    if "rotary_pos_emb_cache" not in m.parts:
        emb = tape.empty((1, length * 2, 1, head_dim), "fp32", op="cat")
        m.parts["rotary_pos_emb_cache"] = [tape.note(ops.unary(emb, op), "kept by a module") for op in ("cos", "sin")]
        del emb
    cos, sin = (ops.slice_axis(table, 1, 0, length) for table in m.parts["rotary_pos_emb_cache"])
    return cos, sin


def _rotate_half(x: Sym) -> Sym:
    x1, x2 = ops.split(x, x.shape[-1] // 2, 2)
    return ops.cat((-x2, x1), -1)


def apply_rotary_pos_emb(t: Sym, freqs: tuple[Sym, Sym]) -> Sym:
    """Mirror apply_rotary_pos_emb: all in fp32, and a copy joined with what is not turned, which is nothing."""
    rot_dim = freqs[0].shape[-1]
    cos, sin = freqs
    t_float = ops.cast(t, "fp32")
    t_rot = t_float
    t_pass = ops.slice_axis(t_float, -1, rot_dim, t_float.shape[-1])
    t_rot = (t_rot * cos) + (_rotate_half(t_rot) * sin)
    return ops.cast(ops.cat((t_rot, t_pass), -1), t.dtype)


def attention(m: Bound, hidden_states: Sym, freqs: tuple[Sym, Sym], attention_mask: Sym | None) -> Sym:
    """Mirror QWenAttention.forward with flash_attn: q, k and v are [B, S, N, D], v a view of the fused map's result."""
    batch, length = hidden_states.shape[:2]
    width, shape = m.num_heads * m.head_dim, (batch, length, m.num_heads, m.head_dim)
    mixed_x_layer = m.c_attn(hidden_states)
    query, key, value = ops.split(mixed_x_layer, width, 3)
    query, key, value = (ops.view(each, shape) for each in (query, key, value))
    query = apply_rotary_pos_emb(query, freqs)
    key = apply_rotary_pos_emb(key, freqs)
    query, key, value = (ops.transpose(each, 1, 2) for each in (query, key, value))
    if m.tape.kernel == "eager":
        causal_mask = _causal_mask(query)
        attn_output, _attn_weight = _attn(query, key, value, causal_mask)
        attn_output = ops.transpose(attn_output, 1, 2)
    else:
        attn_output, _ = ops.attention(query, key, value, attention_mask, 0.0)
    context_layer = ops.view(ops.contiguous(attn_output), (batch, length, width))
    projected: Sym = m.c_proj(context_layer)
    attn_output = projected
    del projected
    return attn_output


def _causal_mask(query: Sym) -> Sym:
    """Return what each layer makes anew: booleans [1, 1, S, S]."""
    shape = (1, 1, query.shape[2], query.shape[2])
    ones = query.tape.empty(shape, "bool", op="ones")
    causal_mask = query.tape.empty(shape, "bool", op="tril")
    del ones
    return causal_mask


def _attn(query: Sym, key: Sym, value: Sym, causal_mask: Sym) -> tuple[Sym, Sym]:
    """Mirror QWenAttention._attn without a padding mask, on [B, N, S, D]: the output and the weights."""
    attn_weights = ops.matmul(query, ops.transpose(key, 2, 3))
    attn_weights = attn_weights / 1.0
    attn_weights = ops.where(causal_mask, attn_weights)
    attn_weights = ops.softmax(attn_weights)
    attn_weights = ops.cast(attn_weights, query.dtype)
    return ops.matmul(attn_weights, value), attn_weights


def mlp(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror QWenMLP.forward."""
    a1 = m.w1(hidden_states)
    a2 = m.w2(hidden_states)
    intermediate_parallel = a1 * ops.silu(a2)
    output: Sym = m.c_proj(intermediate_parallel)
    return output


def block(
    m: Bound,
    hidden_states: Sym,
    freqs: tuple[Sym, Sym],
    attention_mask: Sym | None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror QWenBlock.forward."""
    layernorm_output = m.ln_1(hidden_states)
    attn_output = attention(m.attn, layernorm_output, freqs, attention_mask)
    residual = hidden_states
    layernorm_input = attn_output + residual
    layernorm_output = m.ln_2(layernorm_input)
    residual = layernorm_input
    mlp_output = mlp(m.mlp, layernorm_output)
    hidden_states = residual + mlp_output
    return hidden_states


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    use_cache: bool = False,
) -> tuple[Sym, Cache | None]:
    """Mirror QWenModel.forward; its flash_attn needs no mask."""
    if position_ids is None:
        position_ids = m.tape.empty((1, input_ids.shape[1]), "int64", op="arange")  # which nobody asks for
    hidden_states: Sym = m.wte(input_ids)
    freqs = rotary_tables(m, input_ids.shape[1])
    for index, layer in enumerate(m.h):
        hidden_states = call(layer, index, block, checkpointing, None, hidden_states, freqs=freqs, attention_mask=None)
    m.tape.end_layers()
    hidden_states = m.ln_f(hidden_states)
    return hidden_states, None


def causal_lm(m: Bound, input_ids: Sym, labels: Sym | None, *given: Any, **named: Any) -> Any:
    """Mirror QWenLMHeadModel.forward, which shifts its logits itself, whatever transformers' own loss does."""
    if m.tape.loss in OWN:
        m.tape.loss = "shifted"
    return _causal_lm(m, input_ids, labels, *given, **named)


_causal_lm = language_model(model, "transformer", "wte")
