"""Zamba2ForCausalLM.forward with its local variables: Mamba-2 in every layer, shared transformer blocks beside some.

A block has adapters of its own for each place it stands at. A layer with a block checkpoints, and so does the Mamba
layer within it. Source: transformers 5.23, models/zamba2/modeling_zamba2.py.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError, UsageError
from oomph.programs.cache import HYBRID, LINEAR, Cache, dynamic_cache
from oomph.programs.frame import call, counted_positions, language_model
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

Tables = tuple[Sym, Sym]


def buffers(m: Bound) -> list[Sym]:
    """Return the frequencies of the rotary embedding, which are kept twice, if the blocks are told positions."""
    return ops.rotary_buffers(m.tape, _heads(m.model).head_dim) if _turns(m.model) else []


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: states, beside a shared block keys and values too."""
    return kinds_of(m.model)


def kinds_of(m: Bound) -> list[Size | None]:
    """Return which layers of a model have a shared block beside their mixer."""
    return [HYBRID if "shared_transformer" in layer.parts else LINEAR for layer in m.layers]


def shared_blocks(m: Bound) -> list[Bound]:
    """Return the block beside each layer that has one, in order; those stored elsewhere are found where they are."""
    places = [layer.shared_transformer for layer in m.layers if "shared_transformer" in layer.parts]
    stored = [place for place in places if "self_attn" in place.parts]
    if len(places) > sum(len(block.feed_forward.uses) for block in stored):
        raise UsageError("Shared blocks have adapters for the layers of the model only.", "Ask for no more layers.")
    if any("lora_A" in part.parts for block in stored for part in _maps(block)):
        fix = "Name maps of the mixers (--targets in_proj,out_proj), or trace it: oomph trace."
        raise UnsupportedError("oomph cannot play adapters on shared blocks, of which PEFT makes one per use.", fix)
    return [
        stored[turn % len(stored)] if "self_attn" not in place.parts else place for turn, place in enumerate(places)
    ]


def _maps(block: Bound) -> list[Bound]:
    """Return the parts of a block's sublayers."""
    return [part for name in ("self_attn", "feed_forward") for part in block[name].parts.values() if part is not None]


def _heads(m: Bound) -> Bound:
    """Return the attention of the first shared block."""
    found: Bound = next(layer.shared_transformer.self_attn for layer in m.layers if "shared_transformer" in layer.parts)
    return found


def _turns(m: Bound) -> bool:
    """Tell whether shared blocks are told positions."""
    return HYBRID in kinds_of(m) and bool(_heads(m).rotary)


def attention(
    m: Bound,
    hidden_states: Sym,
    turn: int,
    attention_mask: Sym | None,
    past_key_values: Cache | None,
    position_embeddings: Tables | None,
    index: int,
) -> tuple[Sym, Sym | None]:
    """Mirror Zamba2Attention.forward."""
    batch, length = hidden_states.shape[:2]
    query_states = m.q_proj(hidden_states)
    key_states = m.k_proj(hidden_states)
    value_states = m.v_proj(hidden_states)
    if m.rank is not None:
        query_states = query_states + m.linear_q_adapter_list[str(turn)](hidden_states)
        key_states = key_states + m.linear_k_adapter_list[str(turn)](hidden_states)
        value_states = value_states + m.linear_v_adapter_list[str(turn)](hidden_states)
    query_states = ops.transpose(ops.view(query_states, (batch, length, m.num_heads, m.head_dim)), 1, 2)
    key_states = ops.transpose(ops.view(key_states, (batch, length, m.num_kv_heads, m.head_dim)), 1, 2)
    value_states = ops.transpose(ops.view(value_states, (batch, length, m.num_kv_heads, m.head_dim)), 1, 2)
    if position_embeddings is not None:
        cos, sin = position_embeddings
        query_states, key_states = ops.apply_rotary(query_states, key_states, cos, sin)
    if past_key_values is not None:
        key_states, value_states = past_key_values.update(key_states, value_states, index)
    attn_output, attn_weights = ops.attention(query_states, key_states, value_states, attention_mask, m.dropout)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * m.head_dim)))
    attn_output = m.o_proj(attn_output)
    return attn_output, attn_weights


def feed_forward(m: Bound, hidden_state: Sym, turn: int) -> Sym:
    """Mirror Zamba2MLP.forward."""
    gate_up_state: Any = m.gate_up_proj(hidden_state)
    gate_up_state = gate_up_state + m.gate_up_proj_adapter_list[str(turn)](hidden_state)
    gate_up_state = ops.split(gate_up_state, m.ffn_size, 2)
    hidden_state = ops.activate(m.activation, gate_up_state[0]) * gate_up_state[1]
    output: Sym = m.down_proj(hidden_state)
    return output


def transformer(
    m: Bound,
    hidden_states: Sym,
    original_hidden_states: Sym,
    turn: int,
    attention_mask: Sym | None,
    past_key_values: Cache | None,
    position_embeddings: Tables | None,
    index: int,
) -> Sym:
    """Mirror Zamba2AttentionDecoderLayer.forward."""
    hidden_states = ops.cat([hidden_states, original_hidden_states], 2)
    hidden_states = m.input_layernorm(hidden_states)
    hidden_states, _ = attention(
        m.self_attn, hidden_states, turn, attention_mask, past_key_values, position_embeddings, index
    )  # fmt: skip
    hidden_states = m.pre_ff_layernorm(hidden_states)
    hidden_states = feed_forward(m.feed_forward, hidden_states, turn)
    return hidden_states


def mamba_layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None = None,
    transformer_hidden_states: Sym | None = None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror Zamba2MambaDecoderLayer.forward."""
    residual = hidden_states
    if transformer_hidden_states is not None:
        hidden_states = hidden_states + transformer_hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    hidden_states = m.mamba(hidden_states, past_key_values, attention_mask, index)
    hidden_states = residual + hidden_states
    return hidden_states


def layer(
    m: Bound,
    hidden_states: Sym,
    original_hidden_states: Sym,
    attention_mask: Sym | None,
    causal_mask: Sym | None,
    position_embeddings: Tables | None,
    position_ids: Sym,
    beside: tuple[Bound, int, Checkpointing] | None = None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror Zamba2HybridLayer.forward, or that of a layer without a block."""
    if beside is None:
        return mamba_layer(m, hidden_states, attention_mask, None, past_key_values, index)
    block, turn, checkpointing = beside
    transformer_hidden_states = transformer(
        block, hidden_states, original_hidden_states, turn, causal_mask, past_key_values, position_embeddings, index
    )  # fmt: skip
    transformer_hidden_states = m.linear(transformer_hidden_states)
    if checkpointing.takes(0):  # the layer within checkpoints whether or not the one around it does
        kept = {"transformer_hidden_states": transformer_hidden_states, "attention_mask": attention_mask}
        hidden_states = checkpointing(m.tape, partial(mamba_layer, m.mamba_decoder, **kept), hidden_states)
        return hidden_states
    hidden_states = mamba_layer(
        m.mamba_decoder, hidden_states, attention_mask, transformer_hidden_states, past_key_values, index
    )  # fmt: skip
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
    """Mirror Zamba2Model.forward."""
    kinds, blocks = kinds_of(m), iter(enumerate(shared_blocks(m)))
    inputs_embeds = m.embed_tokens(input_ids)
    hidden_states: Sym = inputs_embeds
    original_hidden_states = ops.clone(inputs_embeds)
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
    size = _heads(m).head_dim if _turns(m) else None
    position_embeddings = None if size is None else ops.rotary_tables(hidden_states, position_ids, size)
    for index, each in enumerate(m.layers):
        beside = None
        if kinds[index] is HYBRID:
            turn, block = next(blocks)
            if checkpointing.kind == "reentrant" and not checkpointing.takes(index):
                fix = "Say --checkpointing non-reentrant, or --checkpoint-every 1."
                raise UsageError("A reentrant checkpoint inside a layer that is none goes through a graph twice.", fix)
            beside = block, turn, checkpointing
        hidden_states = call(
            each, index, layer, checkpointing, past_key_values, hidden_states,
            original_hidden_states, causal_mask_mapping[LINEAR], causal_mask_mapping[None],
            position_embeddings=position_embeddings, position_ids=position_ids, beside=beside,
        )  # fmt: skip
    m.tape.end_layers()
    hidden_states = m.final_layernorm(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "model", "embed_tokens")
