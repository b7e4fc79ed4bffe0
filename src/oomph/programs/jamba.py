"""JambaForCausalLM.forward with its local variables: Mamba in most layers, attention in some, no rotary embedding.

Source: transformers 5.23, models/jamba/modeling_jamba.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.programs.bamba import kinds_of, sliding_windows
from oomph.programs.cache import LINEAR, Cache, dynamic_cache
from oomph.programs.frame import call, counted_positions, language_model, no_buffers
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

__all__ = ["buffers", "causal_lm", "sliding_windows"]
buffers = no_buffers


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_ids: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror JambaMambaDecoderLayer.forward and JambaAttentionDecoderLayer.forward."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    if "mamba" in m.parts:
        hidden_states = m.mamba(hidden_states, past_key_values, attention_mask, index)
    else:
        no_tables = position_ids, position_ids  # the class has no rotary embedding
        hidden_states, _ = m.self_attn(hidden_states, no_tables, attention_mask, past_key_values, index)
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.pre_ff_layernorm(hidden_states)
    hidden_states = m.feed_forward(hidden_states)
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
    """Mirror JambaModel.forward."""
    kinds = kinds_of(m)
    inputs_embeds = m.embed_tokens(input_ids)
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
    hidden_states = m.final_layernorm(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "model", "embed_tokens")
