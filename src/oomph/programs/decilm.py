"""DeciLMForCausalLM.forward (Nemotron-NAS) with its local variables: Llama's of transformers 4.44, each layer its own.

A layer may have no attention or no MLP, or a linear map in place of one. Attention is the class's eager one; it has no
sdpa. Source: the code of the repositories (nvidia/Llama-3_3-Nemotron-Super-49B-v1, modeling_decilm.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph import ops
from oomph.blocks.attention import Attention
from oomph.errors import UnsupportedError
from oomph.losses.labels import shifted
from oomph.losses.own import check_own
from oomph.ops.attention import repeat_kv
from oomph.programs.cache import Cache
from oomph.programs.frame import call, full_attention
from oomph.programs.remote_llama import Code, head, heads, scored
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym

sliding_windows = full_attention("model.layers")
Tables = tuple[Sym, Sym]
CODE = Code(sdpa=False)


def attentions(m: Bound) -> list[Bound]:
    """Return the attention of every layer that has one."""
    found = [layer.parts.get("self_attn") for layer in m.layers]
    return [one for one in found if one is not None and isinstance(one.block, Attention)]


def buffers(m: Bound) -> list[Sym]:
    """Return the frequencies that each attention keeps, though it asks for none, and the model's own."""
    found = attentions(m.model)
    if not found:
        raise UnsupportedError("oomph cannot play a Nemotron-NAS without attention.", "Check block_configs.")
    return [m.tape.empty((found[0].head_dim // 2,), "fp32", op="inv_freq") for _ in (*found, m)]


def rotary_tables(x: Sym, position_ids: Sym, size: Size) -> Tables:
    """Mirror DeciLMRotaryEmbedding.forward: cos and sin [P, S, D], of angles that one product makes."""
    tape, (rows, length) = x.tape, position_ids.shape
    with tape.no_grad():
        position_ids_expanded = tape.empty((rows, 1, length), "fp32", op="_to_copy")
        freqs = tape.empty((rows, size // 2, length), "fp32", op="bmm")
        emb = tape.empty((rows, length, size), "fp32", op="cat")
        cos = ops.unary(emb, "cos")
        sin = ops.unary(emb, "sin")
        cos = ops.unary(cos, "mul")
        sin = ops.unary(sin, "mul")
        tables = ops.cast(cos, x.dtype), ops.cast(sin, x.dtype)
        del position_ids_expanded, freqs, emb, cos, sin
        return tables


def causal_mask(input_tensor: Sym, attention_mask: Sym | None, cache_position: Sym) -> Sym:
    """Mirror _prepare_4d_causal_attention_mask_with_cache_position: numbers [B, 1, S, T], T one more without a mask."""
    tape, dtype, (batch, length) = input_tensor.tape, input_tensor.dtype, input_tensor.shape[:2]
    target = length + 1 if attention_mask is None else length
    made = tape.empty((length, target), dtype, op="full")
    if not yes(length == 1):
        upper = tape.empty((length, target), dtype, op="triu")
        made = upper
        del upper
    positions = tape.empty((target,), "int64", op="arange")
    later = tape.empty((length, target), "bool", op="gt")
    del positions, later
    if attention_mask is None:
        return ops.expand(ops.view(made, (1, 1, length, target)), (batch, 1, length, target))
    made = tape.empty((batch, 1, length, target), dtype, op="clone")
    added = tape.empty((batch, 1, length, target), dtype, op="add")
    padding_mask = tape.empty((batch, 1, length, target), "bool", op="eq")
    del added
    filled = tape.empty((batch, 1, length, target), dtype, op="masked_fill")
    del filled, padding_mask
    return made


def attention(m: Bound, hidden_states: Sym, attention_mask: Sym, position_embeddings: Tables) -> Sym:
    """Mirror DeciLMAttention.forward."""
    bsz, q_len, hidden = hidden_states.shape
    query_states = m.q_proj(hidden_states)
    key_states = m.k_proj(hidden_states)
    value_states = m.v_proj(hidden_states)
    query_states = heads(m, query_states, m.num_heads)
    key_states = heads(m, key_states, m.num_kv_heads)
    value_states = heads(m, value_states, m.num_kv_heads)
    cos, sin = position_embeddings
    query_states, key_states = ops.apply_rotary(query_states, key_states, cos, sin)
    shared = m.num_heads // m.num_kv_heads
    key_states = repeat_kv(key_states, shared)
    value_states = repeat_kv(value_states, shared)
    mask = ops.slice_axis(attention_mask, 3, 0, q_len)
    attn_output, attn_weights = scored(m, CODE, query_states, key_states, value_states, mask)
    attn_output = ops.view(attn_output, (bsz, q_len, hidden))
    attn_output = m.o_proj(attn_output)
    del attn_weights
    projected: Sym = attn_output
    return projected


def layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym,
    position_ids: Sym,
    cache_position: Sym,
    past_key_values: None = None,
    index: int = 0,
    *,
    position_embeddings: Tables,
) -> tuple[Sym, None]:
    """Mirror DeciLMDecoderLayer.forward."""
    if "self_attn" in m.parts:
        residual = hidden_states
        hidden_states = m.input_layernorm(hidden_states)
        if isinstance(m.self_attn.block, Attention):
            hidden_states = attention(m.self_attn, hidden_states, attention_mask, position_embeddings)
        else:
            hidden_states = m.self_attn.linear_attn(hidden_states)
        hidden_states = residual + hidden_states
    if "mlp" in m.parts:
        residual = hidden_states
        hidden_states = m.post_attention_layernorm(hidden_states)
        hidden_states = m.mlp.linear_mlp(hidden_states) if "linear_mlp" in m.mlp.parts else m.mlp(hidden_states)
        hidden_states = residual + hidden_states
    return hidden_states, None


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    position_ids: Sym | None,
) -> Sym:
    """Mirror DeciLMModel.forward: what the last layer returned is held to the end."""
    inputs_embeds = m.embed_tokens(input_ids)
    cache_position = m.tape.empty((input_ids.shape[1],), "int64", op="arange")
    if position_ids is None:
        position_ids = ops.unsqueeze(cache_position, 0)
    mask = causal_mask(inputs_embeds, attention_mask, cache_position)
    hidden_states: Sym = inputs_embeds
    position_embeddings = rotary_tables(hidden_states, position_ids, attentions(m)[0].head_dim)
    for index, each in enumerate(m.layers):
        layer_outputs = call(
            each, index, layer, checkpointing, None, hidden_states, mask, position_ids, cache_position,
            position_embeddings=position_embeddings,
        )  # fmt: skip
        hidden_states = layer_outputs[0]
    m.tape.end_layers()
    hidden_states = m.norm(hidden_states)
    return hidden_states


def causal_lm(
    m: Bound,
    input_ids: Sym,
    labels: Sym | None,
    checkpointing: Checkpointing,
    model_type: str,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    use_cache: bool = False,
    logits_to_keep: Size = 0,
) -> tuple[Sym | None, Sym, Any]:
    """Mirror DeciLMForCausalLM.forward: loss and fp32 logits."""
    tape = m.tape
    if use_cache:
        raise UnsupportedError("oomph plays Nemotron-NAS in training without a cache only.", "Say --cache none.")
    empty = any(not layer.parts for layer in m.model.layers)
    if empty and checkpointing.kind == "reentrant":
        fix = "Say --checkpointing non-reentrant."
        raise UnsupportedError("oomph cannot play reentrant checkpoints of layers that do nothing yet.", fix)
    if checkpointing.kind != "none":
        checkpointing = replace(checkpointing, every=1)  # the class checkpoints all its layers
    tape.kernel = "eager"
    hidden_states = model(m.model, input_ids, checkpointing, attention_mask, position_ids)
    logits = ops.cast(head(m, hidden_states), "fp32")
    loss = shift_logits = shift_labels = None
    if labels is not None:
        check_own(tape.loss)
        tape.scope = "loss"
        shift_logits, shift_labels = shifted(logits, labels)
        loss = ops.cross_entropy(shift_logits, shift_labels)
    del shift_logits, shift_labels
    return loss, logits, None
