"""KimiLinearForCausalLM.forward with its local variables: delta attention, and latent attention without positions.

Source: transformers 5.23, models/kimi_linear/modeling_kimi_linear.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.ops.scores import log
from oomph.programs.cache import LINEAR, Cache, dynamic_cache
from oomph.programs.causal_conv import causal_conv1d_fn, causal_conv1d_update, last_tokens, masked, squeezed
from oomph.programs.delta_net import EPSILON
from oomph.programs.frame import call, counted_positions, language_model, no_buffers
from oomph.programs.kimi_delta_rule import chunk_kimi_delta_attention, recurrent_kimi_delta_attention
from oomph.programs.layers import feed_forward
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym

buffers = no_buffers


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: keys and values, or a state."""
    return kinds_of(m.model)


def kinds_of(m: Bound) -> list[Size | None]:
    """Return which layers of a model are linear; the others see everything."""
    return [LINEAR if "forget_gate" in layer.self_attn.parts else None for layer in m.layers]


def forget_gate(m: Bound, hidden_states: Sym, heads: Size, head_dim: Size) -> Sym:
    """Mirror KimiLinearForgetGate.forward: fp32 [B, S, N, D]."""
    batch, length = hidden_states.shape[:2]
    forget_gate = m.f_b_proj(m.f_a_proj(hidden_states))
    g = ops.cast(forget_gate, "fp32") + ops.view(ops.cast(m.value("dt_bias"), "fp32"), (1, 1, heads * head_dim))
    g = ops.view(g, (batch, length, heads, head_dim))
    A_log = ops.cast(m.value("A_log"), "fp32")  # noqa: N806
    decay_rate = ops.exp(A_log)
    above = g.tape.empty(g.shape, "bool", op="gt")
    logarithms = log(ops.exp(g) + 1.0)
    g_softplus = ops.where_either(above, g, logarithms)
    del above, logarithms
    return -decay_rate * g_softplus


def delta_attention(
    m: Bound, hidden_states: Sym, cache_params: Cache | None, attention_mask: Sym | None, index: int
) -> Sym:  # fmt: skip
    """Mirror KimiLinearDeltaAttention.forward."""
    hidden_states = masked(hidden_states, attention_mask)
    batch_size, seq_len = hidden_states.shape[:2]
    shape = (batch_size, seq_len, m.num_heads, m.head_dim)
    mixed_qkv = ops.transpose(
        ops.cat([m.q_proj(hidden_states), m.k_proj(hidden_states), m.v_proj(hidden_states)], 2), 1, 2
    )
    if cache_params is not None:
        conv_state = cache_params.conv_state(index)
        recurrent_state = cache_params.recurrent_state(index)
    else:
        conv_state, recurrent_state = None, None
    if conv_state is not None and yes(seq_len == 1):
        mixed_qkv = causal_conv1d_update(mixed_qkv, conv_state, squeezed(m.conv1d), None, "silu")
    else:
        if cache_params is not None:
            mixed_qkv = cache_params.update_conv_state(mixed_qkv, index, m.conv_kernel)
        mixed_qkv = causal_conv1d_fn(mixed_qkv, squeezed(m.conv1d), None, "silu")
        mixed_qkv = last_tokens(mixed_qkv, seq_len)
    query, key, value = ops.split_sizes(ops.transpose(mixed_qkv, 1, 2), (m.width, m.width, m.width))
    query = ops.view(query, shape)
    key = ops.view(key, shape)
    value = ops.view(value, shape)
    g = forget_gate(m.forget_gate, hidden_states, m.num_heads, m.head_dim)
    beta = ops.sigmoid(m.b_proj(hidden_states))
    if recurrent_state is not None and yes(seq_len == 1):
        core_attn_out, last_recurrent_state = recurrent_kimi_delta_attention(
            query, key, value, g, beta, recurrent_state, output_final_state=cache_params is not None
        )
    else:
        core_attn_out, last_recurrent_state = chunk_kimi_delta_attention(
            query, key, value, g, beta, recurrent_state, output_final_state=cache_params is not None
        )
    if cache_params is not None and last_recurrent_state is not None:
        cache_params.update_recurrent_state(last_recurrent_state, index)
    gate = ops.view(m.g_b_proj(m.g_a_proj(hidden_states)), shape)
    output: Sym = ops.view(m.o_norm(core_attn_out, gate), (batch_size, seq_len, m.width))
    output = m.o_proj(output)
    return output


def gated_norm(m: Bound, hidden_states: Sym, gate: Sym) -> Sym:
    """Mirror KimiLinearRMSNormGated.forward: both [.., D], all in fp32."""
    input_dtype = hidden_states.dtype
    hidden_states = ops.cast(hidden_states, "fp32")
    variance = ops.mean(ops.power(hidden_states))
    hidden_states = hidden_states * ops.rsqrt(variance + EPSILON)
    hidden_states = ops.cast(m.weight, "fp32") * hidden_states
    hidden_states = hidden_states * ops.sigmoid(ops.cast(gate, "fp32"))
    return ops.cast(hidden_states, input_dtype)


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_ids: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror KimiLinearDecoderLayer.forward."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    if "forget_gate" in m.self_attn.parts:
        hidden_states = m.self_attn(hidden_states, past_key_values, attention_mask, index)
    else:
        hidden_states, _ = m.self_attn(hidden_states, None, attention_mask, past_key_values, index)
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.post_attention_layernorm(hidden_states)
    hidden_states = feed_forward(m)(hidden_states)
    hidden_states = residual + hidden_states
    return hidden_states


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
) -> tuple[Sym, Cache | None]:
    """Mirror KimiLinearModel.forward."""
    inputs_embeds = m.embed_tokens(input_ids)
    kinds = kinds_of(m)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, kinds)
    packed = position_ids
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    causal_mask_mapping: dict[Size, Sym | None] = {}
    mask_kwargs = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}  # noqa: F841  lives to the end
    causal_mask_mapping |= {
        None: ops.causal_mask(inputs_embeds, attention_mask, past_key_values, packed=packed),
        LINEAR: ops.recurrent_mask(inputs_embeds, attention_mask),
    }
    hidden_states: Sym = inputs_embeds
    for index, decoder_layer in enumerate(m.layers):
        hidden_states = call(
            decoder_layer, index, block, checkpointing, past_key_values, hidden_states,
            attention_mask=causal_mask_mapping[kinds[index]], position_ids=position_ids,
        )  # fmt: skip
    m.tape.end_layers()
    hidden_states = m.norm(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "model", "embed_tokens")
