"""AlbertForMaskedLM and AlbertForSequenceClassification: one group of layers that the states pass through many times.

Source: transformers 5.23, models/albert/modeling_albert.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError, UsageError
from oomph.programs.bert import embeddings, layer_norm, sliding_windows
from oomph.programs.cache import Cache
from oomph.programs.classify import loss_of
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import settled
from oomph.tape.sym import Sym

__all__ = ["buffers", "causal_lm", "sliding_windows"]


def buffers(m: Bound) -> list[Sym]:
    """Return position_ids and token_type_ids, int64 for each position."""
    positions = m.albert.embeddings.position_embeddings.rows
    return [m.tape.empty((positions,), "int64", op=name) for name in ("position_ids", "token_type_ids")]


def attention(m: Bound, hidden_states: Sym, attention_mask: Sym | None) -> tuple[Sym, Sym | None]:
    """Mirror AlbertAttention.forward, whose norm lies within it."""
    inner = m["attention"]
    batch, length, hidden = hidden_states.shape
    shape = (batch, length, inner.num_heads, inner.head_dim)
    query_layer = ops.transpose(ops.view(inner["query"](hidden_states), shape), 1, 2)
    key_layer = ops.transpose(ops.view(inner["key"](hidden_states), shape), 1, 2)
    value_layer = ops.transpose(ops.view(inner["value"](hidden_states), shape), 1, 2)
    attn_output, attn_weights = ops.encoder_attention(
        query_layer, key_layer, value_layer, attention_mask, inner.dropout
    )  # fmt: skip
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, hidden)))
    attn_output = inner.dense(attn_output)
    attn_output = ops.dropout(attn_output, m.rate)
    attn_output = layer_norm(m[m.names.attention_norm], hidden_states + attn_output)
    return attn_output, attn_weights


def layer(m: Bound, hidden_states: Sym, attention_mask: Sym | None) -> Sym:
    """Mirror AlbertLayer.forward."""
    attention_output, _ = attention(m, hidden_states, attention_mask)
    ffn_output = ff_chunk(m, attention_output)
    hidden_states = layer_norm(m[m.names.mlp_norm], ffn_output + attention_output)
    return hidden_states


def ff_chunk(m: Bound, attention_output: Sym) -> Sym:
    """Mirror AlbertLayer.ff_chunk."""
    ffn_output: Sym = m.ffn(attention_output)
    ffn_output = ops.activate(m.mlp.activation, ffn_output)
    ffn_output = m.ffn_output(ffn_output)
    return ffn_output


def group(m: Bound, hidden_states: Sym, attention_mask: Sym | None) -> Sym:
    """Mirror AlbertLayerGroup.forward."""
    for each in m.albert_layers:
        hidden_states = layer(each, hidden_states, attention_mask)
    return hidden_states


def encoder(m: Bound, hidden_states: Sym, attention_mask: Sym | None) -> Sym:
    """Mirror AlbertTransformer.forward."""
    hidden_states = m.embedding_hidden_mapping_in(hidden_states)
    shared, *others = m.albert_layer_groups
    if others:
        raise UnsupportedError("oomph plays ALBERT with one group of layers only.", "Trace it: oomph trace.")
    for _ in range(settled(shared.times)):
        m.tape.begin_layer(0, shared.path)
        hidden_states = group(shared, hidden_states, attention_mask)
    m.tape.end_layers()
    return hidden_states


def model(m: Bound, input_ids: Sym, attention_mask: Sym | None, position_ids: Sym | None) -> tuple[Sym, Sym | None]:
    """Mirror AlbertModel.forward: all states and the pooled first one."""
    embedding_output = embeddings(m.embeddings, input_ids, position_ids=position_ids)
    attention_mask = ops.bidirectional_mask(embedding_output, attention_mask)
    sequence_output = encoder(m.encoder, embedding_output, attention_mask)
    pooled_output = None
    if m.parts.get("pooler") is not None:
        pooled_output = ops.tanh(m.pooler(ops.select(sequence_output, 1)))
    return sequence_output, pooled_output


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
    if checkpointing.kind != "none":
        raise UsageError("ALBERT's class supports no gradient checkpointing.", "Say --checkpointing none.")
    outputs = model(m.albert, input_ids, attention_mask, position_ids)
    if "classifier" in m.parts:
        pooled_output = outputs[1]
        m.tape.scope = "classifier"
        pooled_output = m.dropout(pooled_output)
        logits = m.classifier(pooled_output)
    else:
        m.tape.scope = "predictions"
        logits = predictions(m.predictions, outputs[0], m.albert.embeddings.word_embeddings.weight)
    return loss_of(logits, labels), logits, None


def predictions(m: Bound, hidden_states: Sym, table: Sym) -> Sym:
    """Mirror AlbertMLMHead.forward; tied, the decoder's bias is the head's own."""
    hidden_states = m.dense(hidden_states)
    hidden_states = ops.activate(m.activation, hidden_states)
    hidden_states = layer_norm(m.LayerNorm, hidden_states)
    hidden_states = ops.linear(hidden_states, table, m.parts["bias"])
    return hidden_states
