"""DeepseekV32ForCausalLM.forward and GlmMoeDsaForCausalLM's with their local variables: an indexer in their layers.

Their masks are always made, for what the indexer scores; GLM-5's layers hand on which tokens were picked. Source:
transformers 5.23, models/deepseek_v32/modeling_deepseek_v32.py, models/glm_moe_dsa/modeling_glm_moe_dsa.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.programs.cache import INDEXED, Cache, dynamic_cache
from oomph.programs.frame import call, counted_positions, language_model
from oomph.programs.layers import Tables
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym


def buffers(m: Bound) -> list[Sym]:
    """Return the frequencies of the rotary embedding, which are kept twice."""
    return ops.rotary_buffers(m.tape, _first(m.model).qk_rope_head_dim)


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: an indexer's keys too."""
    return [INDEXED] * len(m.model.layers.stacked)


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient: not an indexer's, which runs without."""
    return [one for one in parameters if ".indexer." not in one.made_for]


def _first(m: Bound) -> Bound:
    """Return the attention of the first layer."""
    found: Bound = next(iter(m.layers)).self_attn
    return found


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym,
    position_embeddings: Tables,
    position_ids: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror DeepseekV32DecoderLayer.forward."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    hidden_states, _ = m.self_attn(hidden_states, position_embeddings, attention_mask, past_key_values, index)
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.post_attention_layernorm(hidden_states)
    hidden_states = m.mlp(hidden_states)
    hidden_states = residual + hidden_states
    return hidden_states


def sharing_block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym,
    position_embeddings: Tables,
    position_ids: Sym,
    prev_topk_indices: Sym | None = None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> tuple[Sym, Sym]:
    """Mirror GlmMoeDsaDecoderLayer.forward: the hidden states, and int32 which tokens were picked [B, S, k]."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    hidden_states, _, topk_indices = m.self_attn(
        hidden_states, position_embeddings, attention_mask, past_key_values, index, prev_topk_indices
    )
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.post_attention_layernorm(hidden_states)
    hidden_states = m.mlp(hidden_states)
    hidden_states = residual + hidden_states
    return hidden_states, topk_indices


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
    """Mirror DeepseekV32Model.forward or GlmMoeDsaModel's."""
    inputs_embeds = m.embed_tokens(input_ids)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, [INDEXED] * len(m.layers.stacked))
    packed = position_ids
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    causal_mask_mapping: list[Any] = []
    mask_kwargs = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}  # noqa: F841  lives to the end
    causal_mask_mapping.append(
        ops.causal_mask(inputs_embeds, attention_mask, past_key_values, packed=packed, may_skip=False)
    )
    hidden_states: Sym = inputs_embeds
    position_embeddings = ops.rotary_tables(hidden_states, position_ids, _first(m).qk_rope_head_dim)
    topk_indices: Sym | None = None
    for index, layer in enumerate(m.layers):
        given: dict[str, Any] = {
            "attention_mask": causal_mask_mapping[0],
            "position_embeddings": position_embeddings,
            "position_ids": position_ids,
        }
        if layer.self_attn.shares:
            found = call(
                layer, index, sharing_block, checkpointing, past_key_values, hidden_states,
                **given, prev_topk_indices=topk_indices,
            )  # fmt: skip
            hidden_states, topk_indices = found
            del found
            m.tape.hand_out(hidden_states)
        else:
            hidden_states = call(layer, index, block, checkpointing, past_key_values, hidden_states, **given)
        del given
    m.tape.end_layers()
    hidden_states = m.norm(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "model", "embed_tokens")
