"""QWenLMHeadModel.forward of the first Qwen, with its local variables: fp32 rotary embedding, flash_attn on fused qkv.

Without flash_attn's own kernels for rotary embedding and norms, which are packages apart. Source: the code of its
repositories (Qwen/Qwen-7B, modeling_qwen.py of late 2023).
"""

from __future__ import annotations

from oomph import ops
from oomph.programs.cache import Cache
from oomph.programs.frame import call, full_attention, language_model
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

sliding_windows = full_attention("transformer.h")
LOGN_POSITIONS = 32767  # factors for long prompts that each layer registers


def buffers(m: Bound) -> list[Sym]:
    """Return inv_freq, and of each layer the logarithmic factors and the masked bias, in fp32."""
    tape, layers = m.tape, len(m.transformer.h.stacked)
    head_dim = next(iter(m.transformer.h)).attn.head_dim
    per_layer = [tape.empty((size,), "fp32", op="logn_tensor") for _ in range(layers) for size in (LOGN_POSITIONS, 1)]
    return [*per_layer, tape.empty((head_dim // 2,), "fp32", op="inv_freq")]


def rotary_tables(input_ids: Sym, head_dim: int) -> tuple[Sym, Sym]:
    """Mirror RotaryEmbedding: cos and sin [1, S, 1, D] fp32, kept from call to call."""
    tape, length = input_ids.tape, input_ids.shape[1]
    emb = tape.empty((1, length, 1, head_dim), "fp32", op="cat")
    return ops.unary(emb, "cos"), ops.unary(emb, "sin")


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
    context_layer, _ = ops.attention(
        ops.transpose(query, 1, 2), ops.transpose(key, 1, 2), ops.transpose(value, 1, 2), attention_mask, 0.0
    )
    context_layer = ops.contiguous(ops.view(context_layer, (batch, length, width)))
    attn_output: Sym = m.c_proj(context_layer)
    return attn_output


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
    hidden_states: Sym = m.wte(input_ids)
    freqs = rotary_tables(input_ids, next(iter(m.h)).attn.head_dim)
    for index, layer in enumerate(m.h):
        hidden_states = call(layer, index, block, checkpointing, None, hidden_states, freqs=freqs, attention_mask=None)
    m.tape.end_layers()
    hidden_states = m.ln_f(hidden_states)
    return hidden_states, None


causal_lm = language_model(model, "transformer", "wte")
