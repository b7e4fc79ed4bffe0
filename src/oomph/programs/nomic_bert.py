"""NomicBertForMaskedLM and NomicBertForSequenceClassification: BERT whose heads are turned, with a gated MLP.

Source: transformers 5.23, models/nomic_bert/modeling_nomic_bert.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.programs.bert import layer_norm, pooled, sliding_windows
from oomph.programs.cache import Cache
from oomph.programs.classify import loss_of
from oomph.programs.frame import call
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

__all__ = ["backbone", "buffers", "causal_lm", "sliding_windows"]
Tables = tuple[Sym, Sym]


def base(m: Bound) -> Bound:
    """Return the model below the head, or the one without a head."""
    found: Bound = m if "embeddings" in m.parts else m.nomic_bert
    return found


def buffers(m: Bound) -> list[Sym]:
    """Return position_ids and token_type_ids, int64 for each position, and the frequencies, which are kept twice."""
    attention = next(iter(base(m)["layers"])).attention
    rows = (attention.positions,)
    ids = [m.tape.empty(rows, "int64", op=name) for name in ("position_ids", "token_type_ids")]
    return [*ids, *ops.rotary_buffers(m.tape, attention.head_dim)]


def embeddings(
    m: Bound,
    input_ids: Sym,
    token_type_ids: Sym | None = None,
    position_ids: Sym | None = None,
    inputs_embeds: Sym | None = None,
) -> Sym:
    """Mirror NomicBertEmbeddings.forward."""
    states: Sym = m.word_embeddings(input_ids)
    if token_type_ids is None:
        token_type_ids = m.tape.empty(input_ids.shape, "int64", op="zeros")
    token_type_embeddings = m.token_type_embeddings(token_type_ids)
    states = states + token_type_embeddings
    states = m.LayerNorm(states)
    states = m.dropout(states)
    return states


def attention(
    m: Bound, hidden_states: Sym, attention_mask: Sym | None, position_embeddings: Tables
) -> tuple[Sym, Sym | None]:
    """Mirror NomicBertAttention.forward."""
    batch, length = hidden_states.shape[:2]
    shape = (batch, length, m.num_heads, m.head_dim)
    query_states = ops.transpose(ops.view(m.q_proj(hidden_states), shape), 1, 2)
    key_states = ops.transpose(ops.view(m.k_proj(hidden_states), shape), 1, 2)
    value_states = ops.transpose(ops.view(m.v_proj(hidden_states), shape), 1, 2)
    cos, sin = position_embeddings
    query_states, key_states = ops.apply_rotary(query_states, key_states, cos, sin)
    attn_output, attn_weights = ops.encoder_attention(query_states, key_states, value_states, attention_mask, m.dropout)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * m.head_dim)))
    attn_output = m.o_proj(attn_output)
    return attn_output, attn_weights


def layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_embeddings: Tables,
    position_ids: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror NomicBertLayer.forward, whose attention has no use for position_ids: a checkpoint keeps them alive."""
    names, residual = m.names, hidden_states
    attention_output, _ = attention(m[names.attention], hidden_states, attention_mask, position_embeddings)
    hidden_states = residual + ops.dropout(attention_output, m.rate)
    hidden_states = m[names.attention_norm](hidden_states)
    residual = hidden_states
    hidden_states = m[names.mlp](hidden_states)
    hidden_states = residual + ops.dropout(hidden_states, m.rate)
    hidden_states = m[names.mlp_norm](hidden_states)
    return hidden_states


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    position_ids: Sym | None,
    token_type_ids: Sym | None = None,
) -> tuple[Sym, Sym | None]:
    """Mirror NomicBertModel.forward: all states and the pooled first one."""
    layers = m["layers"]
    if position_ids is None:
        position_ids = ops.unsqueeze(m.tape.empty((input_ids.shape[1],), "int64", op="arange"), 0)
    embedding_output = embeddings(m.embeddings, input_ids, token_type_ids, position_ids)
    attention_mask = ops.bidirectional_mask(embedding_output, attention_mask)
    hidden_states = embedding_output
    position_embeddings = ops.rotary_tables(hidden_states, position_ids, next(iter(layers)).attention.head_dim)
    for index, each in enumerate(layers):
        hidden_states = call(
            each, index, layer, checkpointing, None, hidden_states,
            attention_mask=attention_mask, position_embeddings=position_embeddings, position_ids=position_ids,
        )  # fmt: skip
    m.tape.end_layers()
    return hidden_states, pooled(m.pooler, hidden_states) if m.parts.get("pooler") is not None else None


def backbone(
    m: Bound,
    input_ids: Sym,
    model_type: str,
    attention_mask: Sym | None,
    position_ids: Sym | None,
    use_cache: bool,
    checkpointing: Checkpointing,
    token_type_ids: Sym | None = None,
) -> tuple[Sym, Sym | None]:
    """Mirror the forward of the class without a head: all states; there is no cache."""
    return model(base(m), input_ids, checkpointing, attention_mask, position_ids, token_type_ids)


def causal_lm(
    m: Bound,
    input_ids: Sym,
    labels: Sym | None,
    checkpointing: Checkpointing,
    model_type: str,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    **options: Any,
) -> tuple[Sym | None, Sym, Cache | None]:
    """Mirror the forward of the class whose head the model has: loss and logits; there is no cache."""
    outputs = model(base(m), input_ids, checkpointing, attention_mask, position_ids)
    if "classifier" in m.parts:
        pooled_output = outputs[1]
        m.tape.scope = "classifier"
        pooled_output = m.dropout(pooled_output)
        logits = m.classifier(pooled_output)
    else:
        sequence_output = outputs[0]
        m.tape.scope = "cls"
        logits = predictions(m.cls.predictions, sequence_output, base(m).embeddings.word_embeddings.weight)
    return loss_of(logits, labels), logits, None


def predictions(m: Bound, hidden_states: Sym, table: Sym) -> Sym:
    """Mirror NomicBertLMPredictionHead.forward; the decoder's bias is the head's own."""
    hidden_states = transform(m, hidden_states)
    hidden_states = ops.linear(hidden_states, table, m.parts["bias"])
    return hidden_states


def transform(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror NomicBertPredictionHeadTransform.forward."""
    hidden_states = m["transform.dense"](hidden_states)
    hidden_states = ops.activate(m.activation, hidden_states)
    hidden_states = layer_norm(m["transform.layer_norm"], hidden_states)
    return hidden_states
