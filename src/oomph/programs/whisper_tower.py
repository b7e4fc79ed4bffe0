"""The audio towers of Qwen2-Audio and Voxtral with their local variables: Whisper's encoder.

Source: transformers 5.23, models/qwen2_audio/modeling_qwen2_audio.py, models/voxtral/modeling_voxtral.py.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from oomph import ops
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

STRIDE = 2  # frames that the second convolution makes one of


def tower(m: Bound, input_features: Sym, attention_mask: Sym | None, checkpointing: Checkpointing) -> Sym:
    """Mirror Qwen2AudioEncoder.forward, or VoxtralEncoder's without a pool: [B, mels, frames] to the last hidden state
    [B, frames / 4, H], or frames / 2.
    """
    tape = m.tape
    input_features = ops.cast(input_features, m.conv1.weight.dtype)
    inputs_embeds = ops.activate("gelu", first(m.conv1, input_features))
    conv2 = m.conv2
    inputs_embeds = ops.activate("gelu", ops.conv1d(inputs_embeds, conv2.weight, conv2.bias, padding=1, stride=STRIDE))
    inputs_embeds = ops.permute(inputs_embeds, (0, 2, 1))
    embed_pos = m.embed_positions.weight
    hidden_states: Sym = inputs_embeds + embed_pos
    if not m.pooled:
        hidden_states = ops.cast(hidden_states, inputs_embeds.dtype)
    hidden_states = ops.dropout(hidden_states, m.rate)
    each = replace(checkpointing, every=1)
    for index, encoder_layer in enumerate(m.layers):
        tape.scope = encoder_layer.path
        run = partial(layer, encoder_layer, attention_mask=attention_mask)
        hidden_states = each(tape, run, hidden_states) if each.takes(index) else run(hidden_states)
        del run
    tape.scope = ""
    if m.pooled:
        hidden_states = ops.permute(hidden_states, (0, 2, 1))
        hidden_states = ops.pooled_pairs(hidden_states)
        hidden_states = ops.permute(hidden_states, (0, 2, 1))
    hidden_states = m.layer_norm(hidden_states)
    del input_features, inputs_embeds, embed_pos
    return hidden_states


def first(m: Bound, input_features: Sym) -> Sym:
    """Mirror the first convolution, which is the tower's input embedding to the hook that lets checkpoints train."""
    found = ops.conv1d(input_features, m.weight, m.bias, padding=1)
    if m.tape.inputs_train:
        found.requires_grad = True
    return found


def layer(m: Bound, hidden_states: Sym, *, attention_mask: Sym | None) -> Sym:
    """Mirror Qwen2AudioEncoderLayer.forward, which bounds numbers in fp16."""
    residual = hidden_states
    hidden_states = m.self_attn_layer_norm(hidden_states)
    hidden_states, _ = attention(m.self_attn, hidden_states, attention_mask, m.attention_rate)
    hidden_states = ops.dropout(hidden_states, m.rate)
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.final_layer_norm(hidden_states)
    hidden_states = ops.activate(m.activation, m.fc1(hidden_states))
    hidden_states = ops.dropout(hidden_states, m.inner_rate)
    hidden_states = m.fc2(hidden_states)
    hidden_states = ops.dropout(hidden_states, m.rate)
    hidden_states = residual + hidden_states
    if hidden_states.dtype == "fp16":
        hidden_states = ops.clamp_both(hidden_states)
    return hidden_states


def attention(m: Bound, hidden_states: Sym, attention_mask: Sym | None, rate: float) -> tuple[Sym, Sym | None]:
    """Mirror Qwen2AudioAttention.forward: queries are scaled beforehand, and all heads copied to the front."""
    batch, length, hidden = hidden_states.shape
    shape = (batch, length, m.num_heads, hidden // m.num_heads)

    def heads(states: Sym) -> Sym:
        return ops.contiguous(ops.transpose(ops.view(states, shape), 1, 2))

    query_states = heads(m.q_proj(hidden_states) * 1.0)
    key_states = heads(m.k_proj(hidden_states))
    value_states = heads(m.v_proj(hidden_states))
    attn_output, attn_weights = ops.encoder_attention(query_states, key_states, value_states, attention_mask, rate)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, hidden)))
    attn_output = m.out_proj(attn_output)
    return attn_output, attn_weights
