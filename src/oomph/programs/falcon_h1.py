"""FalconH1ForCausalLM.forward with its local variables: Mamba-2 and attention side by side in every layer.

Numbers before and after each map keep sizes alike from width to width. Source: transformers 5.23,
models/falcon_h1/modeling_falcon_h1.py.
"""

# ruff: noqa: N806  state-space matrices have capital letters, here as in the class
from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.programs.cache import HYBRID, LINEAR, Cache, dynamic_cache
from oomph.programs.causal_conv import convolved, masked
from oomph.programs.frame import call, counted_positions, language_model
from oomph.programs.mamba2 import EPSILON, chunk_scan, fused, fuses, one_step
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym

Tables = tuple[Sym, Sym]


def buffers(m: Bound) -> list[Sym]:
    """Return each mixer's multipliers, one for each channel of its first map, and the rotary frequencies, twice."""
    found = []
    for layer in m.model.layers:
        mamba = layer.mamba
        width = mamba.inner_size + mamba.conv_size + mamba.num_heads
        mamba.parts["mup_vector"] = m.tape.empty((1, 1, width), m.tape.loaded, op="mup_vector")
        found.append(mamba.mup_vector)
    return found + ops.rotary_buffers(m.tape, _rotary_size(m.model))


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: states, keys and values."""
    return [HYBRID for _ in m.model.layers]


def _rotary_size(m: Bound) -> Size:
    """Return the width of the rotary tables."""
    size: Size = next(iter(m.layers)).self_attn.head_dim
    return size


def gated_norm(m: Bound, hidden_states: Sym, gate: Sym, norm_first: bool) -> Sym:
    """Mirror FalconH1RMSNormGated.forward: both [B, S, I], a mean of squares for each group of channels."""
    input_dtype = hidden_states.dtype
    if not norm_first:
        hidden_states = hidden_states * ops.activate("silu", ops.cast(gate, "fp32"))
    *prefix_dims, dim = hidden_states.shape
    hidden_states = ops.cast(hidden_states, "fp32")
    hidden_states = ops.view(hidden_states, (*prefix_dims, m.num_groups, dim // m.num_groups))
    variance = ops.mean(ops.power(hidden_states))
    hidden_states = hidden_states * ops.rsqrt(variance + EPSILON)
    hidden_states = ops.view(m.value("weight"), (m.num_groups, dim // m.num_groups)) * hidden_states
    hidden_states = ops.view(hidden_states, (*prefix_dims, dim))
    if norm_first:
        hidden_states = hidden_states * ops.activate("silu", ops.cast(gate, "fp32"))
    return ops.cast(hidden_states, input_dtype)


def mixer(m: Bound, hidden_states: Sym, cache_params: Cache | None, attention_mask: Sym | None, index: int) -> Sym:
    """Mirror FalconH1Mixer.forward: hidden_states [B, S, H] in and out."""
    batch_size, seq_len, _ = hidden_states.shape
    dtype = hidden_states.dtype
    recurrent_state = None if cache_params is None else cache_params.recurrent_state(index)

    hidden_states = masked(hidden_states, attention_mask)
    hidden_states = hidden_states * 1.0
    projected_states = m.in_proj(hidden_states)
    projected_states = projected_states * m.mup_vector
    A = -ops.exp(ops.cast(m.value("A_log"), "fp32"))
    if fuses(m, cache_params):
        return fused(m, projected_states, A)
    gate, hidden_states_B_C, dt = ops.split_sizes(projected_states, (m.inner_size, m.conv_size, m.num_heads))

    hidden_states_B_C = ops.transpose(hidden_states_B_C, 1, 2)
    hidden_states_B_C = convolved(m.conv1d, hidden_states_B_C, cache_params, index, m.activation)

    hidden_states_B_C = masked(ops.transpose(hidden_states_B_C, 1, 2), attention_mask)
    shared = m.num_groups * m.state_size
    hidden_states, B, C = ops.split_sizes(hidden_states_B_C, (m.inner_size, shared, shared))

    if recurrent_state is not None and yes(seq_len == 1):
        heads = (batch_size, m.num_heads, m.head_dim)
        scan_output = one_step(
            m, recurrent_state, hidden_states, dt, A, B, C, None if m.gated_norm else ops.view(gate, heads)
        )  # fmt: skip
        scan_output = ops.view(scan_output, (batch_size, 1, m.inner_size))
        if m.gated_norm:
            scan_output = gated_norm(m["norm"], scan_output, gate, m.norm_first)
    else:
        by_token, groups = (batch_size, seq_len), (batch_size, seq_len, m.num_groups, m.state_size)
        scan_result = chunk_scan(
            ops.view(hidden_states, (*by_token, m.num_heads, m.head_dim)), dt, A, ops.view(B, groups),
            ops.view(C, groups), m.chunk_size,
            m.value("D"), m.value("dt_bias"), recurrent_state, return_final_states=cache_params is not None,
        )  # fmt: skip
        scan_output, ssm_state = scan_result
        if cache_params is not None and ssm_state is not None:
            cache_params.update_recurrent_state(ssm_state, index)
        scan_output = ops.view(scan_output, (batch_size, seq_len, m.inner_size))
        if m.gated_norm:
            scan_output = gated_norm(m["norm"], scan_output, gate, m.norm_first)
        else:
            scan_output = scan_output * ops.activate("silu", gate)
    contextualized_states: Sym = m.out_proj(ops.cast(scan_output, dtype))
    return contextualized_states


def feed_forward(m: Bound, x: Sym) -> Sym:
    """Mirror FalconH1MLP.forward."""
    y: Sym = m.up_proj(x) * ops.activate(m.activation, m.gate_proj(x) * 1.0)
    y = m.down_proj(y) * 1.0
    return y


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    mamba_attention_mask: Sym | None,
    position_ids: Sym,
    position_embeddings: Tables,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> tuple[Sym]:
    """Mirror FalconH1DecoderLayer.forward."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    mamba_hidden_states = mixer(m.mamba, hidden_states, past_key_values, mamba_attention_mask, index)
    mamba_hidden_states = mamba_hidden_states * 1.0
    attention_hidden_states, _ = m.self_attn(
        hidden_states * 1.0, position_embeddings, attention_mask, past_key_values, index
    )  # fmt: skip
    attention_hidden_states = attention_hidden_states * 1.0
    hidden_states = mamba_hidden_states + attention_hidden_states
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.pre_ff_layernorm(hidden_states)
    hidden_states = feed_forward(m["feed_forward"], hidden_states)
    hidden_states = residual + hidden_states
    return (hidden_states,)


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
    """Mirror FalconH1Model.forward."""
    inputs_embeds = m.embed_tokens(input_ids) * 1.0
    hidden_states: Sym = inputs_embeds
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, [HYBRID for _ in m.layers])
    packed = position_ids
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    causal_mask_mapping: dict[Size, Sym | None] = {}
    mask_kwargs = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}  # noqa: F841  lives to the end
    causal_mask_mapping |= {
        None: ops.causal_mask(inputs_embeds, attention_mask, past_key_values, packed=packed),
        LINEAR: ops.recurrent_mask(inputs_embeds, attention_mask),
    }
    position_embeddings = ops.rotary_tables(hidden_states, position_ids, _rotary_size(m))
    for index, decoder_layer in enumerate(m.layers):
        layer_outputs = call(
            decoder_layer, index, block, checkpointing, past_key_values, hidden_states,
            attention_mask=causal_mask_mapping[None], mamba_attention_mask=causal_mask_mapping[LINEAR],
            position_ids=position_ids, position_embeddings=position_embeddings,
        )  # fmt: skip
        hidden_states = layer_outputs[0]
    m.tape.end_layers()
    hidden_states = m.final_layernorm(hidden_states)
    return hidden_states, past_key_values


def causal_lm(
    m: Bound, input_ids: Sym, labels: Sym | None, checkpointing: Checkpointing, model_type: str, **given: Any
) -> Any:
    """Mirror FalconH1ForCausalLM.forward, whose logits are scaled."""
    m.tape.head = "scaled"
    return language_model(model, "model", "embed_tokens")(m, input_ids, labels, checkpointing, model_type, **given)
