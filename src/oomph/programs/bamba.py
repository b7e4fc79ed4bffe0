"""BambaForCausalLM.forward and Granite 4's with their local variables: Mamba-2 in most layers, attention in some.

Both kinds of mask are made in any case. Source: transformers 5.23, models/bamba/modeling_bamba.py and
models/granitemoehybrid/modeling_granitemoehybrid.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.programs.cache import LINEAR, Cache, dynamic_cache
from oomph.programs.frame import call, counted_positions, language_model
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

Tables = tuple[Sym, Sym]
GRANITE = "granitemoehybrid"


def buffers(m: Bound) -> list[Sym]:
    """Return the frequencies of the rotary embedding, which are kept twice; nothing where positions are not told."""
    size = _rotary_size(m.model)
    return [] if size is None else ops.rotary_buffers(m.tape, size)


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: keys and values, or a state."""
    return kinds_of(m.model)


def kinds_of(m: Bound) -> list[Size | None]:
    """Return which layers of a model are linear; None stands for attention, which has no window."""
    return [LINEAR if "mamba" in layer.parts else None for layer in m.layers]


def _rotary_size(m: Bound) -> Size | None:
    """Return how many channels of a head are turned; None if no layer attends, or none is told positions."""
    turned = [layer.self_attn for layer in m.layers if "self_attn" in layer.parts and layer.self_attn.rotary]
    return next((one.rotary_dim if one.rotary_dim is not None else one.head_dim for one in turned), None)


def bamba_layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_ids: Sym,
    position_embeddings: Tables,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> tuple[Sym, Sym | None]:
    """Mirror BambaDecoderLayer.forward."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    if "mamba" in m.parts:
        hidden_states = m.mamba(hidden_states, past_key_values, attention_mask, index)
        self_attn_weights = None
    else:
        hidden_states, self_attn_weights = m.self_attn(
            hidden_states, position_embeddings, attention_mask, past_key_values, index
        )
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.pre_ff_layernorm(hidden_states)
    hidden_states = m.feed_forward(hidden_states)
    hidden_states = residual + hidden_states
    return hidden_states, self_attn_weights


def bamba(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
) -> tuple[Sym, Cache | None]:
    """Mirror BambaModel.forward."""
    kinds = kinds_of(m)
    inputs_embeds = m.embed_tokens(input_ids)
    hidden_states: Sym = inputs_embeds
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, kinds)
    packed = position_ids
    if position_ids is None:
        position_ids = ops.unsqueeze(m.tape.empty((input_ids.shape[1],), "int64", op="arange"), 0)
    causal_mask_mapping: dict[Size, Sym | None] = {}
    mask_kwargs = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}  # noqa: F841  lives to the end
    causal_mask_mapping |= {
        None: ops.causal_mask(inputs_embeds, attention_mask, past_key_values, packed=packed),
        LINEAR: ops.recurrent_mask(inputs_embeds, attention_mask),
    }
    position_embeddings = ops.rotary_tables(hidden_states, position_ids, _rotary_size(m))
    for index, decoder_layer in enumerate(m.layers):
        hidden_states, _weights = call(
            decoder_layer, index, bamba_layer, checkpointing, past_key_values, hidden_states,
            attention_mask=causal_mask_mapping[kinds[index]], position_ids=position_ids,
            position_embeddings=position_embeddings,
        )  # fmt: skip
    m.tape.end_layers()
    hidden_states = m.final_layernorm(hidden_states)
    return hidden_states, past_key_values


def granite_layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_embeddings: Tables | None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror GraniteMoeHybridDecoderLayer.forward."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    if "mamba" in m.parts:
        hidden_states = m.mamba(hidden_states, past_key_values, attention_mask, index)
    else:
        hidden_states, _ = m.self_attn(hidden_states, position_embeddings, attention_mask, past_key_values, index)
    hidden_states = residual + hidden_states * 1.0
    residual = hidden_states
    hidden_states = m.post_attention_layernorm(hidden_states)
    if m.block_sparse_moe is not None:
        moe_hidden_states = m.block_sparse_moe(hidden_states)
        hidden_states = moe_hidden_states + m.shared_mlp(hidden_states)
    else:
        hidden_states = m.shared_mlp(hidden_states)
    hidden_states = residual + hidden_states * 1.0
    return hidden_states


def granite(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
) -> tuple[Sym, Cache | None]:
    """Mirror GraniteMoeHybridModel.forward, whose masks are not told positions."""
    kinds = kinds_of(m)
    inputs_embeds = m.embed_tokens(input_ids)
    inputs_embeds = inputs_embeds * 1.0
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, kinds)
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    causal_mask_mapping: dict[Size, Sym | None] = {}
    mask_kwargs = {"inputs_embeds": inputs_embeds}  # noqa: F841  lives to the end
    causal_mask_mapping |= {
        None: ops.causal_mask(inputs_embeds, attention_mask, past_key_values, looks=False),
        LINEAR: ops.recurrent_mask(inputs_embeds, attention_mask),
    }
    hidden_states: Sym = inputs_embeds
    size = _rotary_size(m)
    position_embeddings = None if size is None else ops.rotary_tables(hidden_states, position_ids, size)
    for index, decoder_layer in enumerate(m.layers):
        hidden_states = call(
            decoder_layer, index, granite_layer, checkpointing, past_key_values, hidden_states,
            attention_mask=causal_mask_mapping[kinds[index]], position_embeddings=position_embeddings,
        )  # fmt: skip
    m.tape.end_layers()
    hidden_states = m.norm(hidden_states)
    return hidden_states, past_key_values


def causal_lm(
    m: Bound, input_ids: Sym, labels: Sym | None, checkpointing: Checkpointing, model_type: str, **given: Any
) -> Any:
    """Mirror BambaForCausalLM.forward, or GraniteMoeHybridForCausalLM.forward, whose logits are scaled."""
    if model_type == GRANITE:
        m.tape.head = "scaled"
    body = granite if model_type == GRANITE else bamba
    return language_model(body, "model", "embed_tokens")(m, input_ids, labels, checkpointing, model_type, **given)
