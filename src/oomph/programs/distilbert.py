"""DistilBertForMaskedLM and DistilBertForSequenceClassification: forward with its local variables.

Source: transformers 5.23, models/distilbert/modeling_distilbert.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.programs.bert import layer_norm, sliding_windows
from oomph.programs.cache import Cache
from oomph.programs.classify import loss_of
from oomph.programs.frame import call, check_positions
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

__all__ = ["backbone", "buffers", "causal_lm", "sliding_windows"]


def base(m: Bound) -> Bound:
    """Return the model below the head, or the one without a head."""
    found: Bound = m if "embeddings" in m.parts else m.distilbert
    return found


def buffers(m: Bound) -> list[Sym]:
    """Return position_ids, int64 for each position."""
    return [m.tape.empty((base(m).embeddings.position_embeddings.rows,), "int64", op="position_ids")]


def embeddings(m: Bound, input_ids: Sym, position_ids: Sym | None) -> Sym:
    """Mirror Embeddings.forward: plain positions are a slice of a buffer."""
    length = input_ids.shape[1]
    check_positions(m.position_embeddings, length)
    inputs_embeds = m.word_embeddings(input_ids)
    if position_ids is None:
        position_embeddings = ops.embedding_at(m.position_embeddings.weight, (1, length))
    else:
        position_embeddings = m.position_embeddings(position_ids)
    states: Sym = inputs_embeds + position_embeddings
    states = m.LayerNorm(states)
    states = m.dropout(states)
    return states


def self_attention(m: Bound, hidden_states: Sym, attention_mask: Sym | None) -> tuple[Sym, Sym | None]:
    """Mirror DistilBertSelfAttention.forward."""
    batch, length, hidden = hidden_states.shape
    shape = (batch, length, m.num_heads, m.head_dim)
    query_layer = ops.transpose(ops.view(m.q_lin(hidden_states), shape), 1, 2)
    key_layer = ops.transpose(ops.view(m.k_lin(hidden_states), shape), 1, 2)
    value_layer = ops.transpose(ops.view(m.v_lin(hidden_states), shape), 1, 2)
    attn_output, attn_weights = ops.encoder_attention(
        query_layer, key_layer, value_layer, attention_mask, m.dropout, positions=False
    )
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, hidden)))
    attn_output = m.out_lin(attn_output)
    return attn_output, attn_weights


def layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror TransformerBlock.forward."""
    attention_output, _ = self_attention(m.attention, hidden_states, attention_mask)
    attention_output = layer_norm(m.sa_layer_norm, attention_output + hidden_states)
    ffn_output = m.ffn(attention_output)
    ffn_output = layer_norm(m.output_layer_norm, ffn_output + attention_output)
    return ffn_output


def model(
    m: Bound, input_ids: Sym, checkpointing: Checkpointing, attention_mask: Sym | None, position_ids: Sym | None
) -> Sym:
    """Mirror DistilBertModel.forward and Transformer.forward."""
    hidden_states = embeddings(m.embeddings, input_ids, position_ids)
    attention_mask = ops.bidirectional_mask(hidden_states, attention_mask)
    return transformer(m.transformer, hidden_states, checkpointing, attention_mask)


def transformer(m: Bound, hidden_states: Sym, checkpointing: Checkpointing, attention_mask: Sym | None) -> Sym:
    """Mirror Transformer.forward."""
    for index, each in enumerate(m.layer):
        hidden_states = call(each, index, layer, checkpointing, None, hidden_states, attention_mask)
    m.tape.end_layers()
    return hidden_states


def backbone(
    m: Bound,
    input_ids: Sym,
    model_type: str,
    attention_mask: Sym | None,
    position_ids: Sym | None,
    use_cache: bool,
    checkpointing: Checkpointing,
) -> tuple[Sym, None]:
    """Mirror the forward of the class without a head; there is no cache."""
    return model(m, input_ids, checkpointing, attention_mask, position_ids), None


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
    hidden_states = model(m.distilbert, input_ids, checkpointing, attention_mask, position_ids)
    if "classifier" in m.parts:
        m.tape.scope = "classifier"
        pooled_output = ops.select(hidden_states, 1)
        pooled_output = m.pre_classifier(pooled_output)
        pooled_output = ops.activate("relu", pooled_output)
        pooled_output = m["dropout"](pooled_output)
        logits = m.classifier(pooled_output)
    else:
        m.tape.scope = "vocab_projector"
        logits = predictions(m, hidden_states, m.distilbert.embeddings.word_embeddings.weight)
    return loss_of(logits, labels), logits, None


def predictions(m: Bound, hidden_states: Sym, table: Sym) -> Sym:
    """Mirror what DistilBertForMaskedLM does to the states; tied, only the bias is the projector's."""
    prediction_logits = m.vocab_transform(hidden_states)
    prediction_logits = ops.activate(next(iter(m.distilbert.transformer.layer)).ffn.activation, prediction_logits)
    prediction_logits = m.vocab_layer_norm(prediction_logits)
    weight = m.vocab_projector.parts["weight"]
    prediction_logits = ops.linear(
        prediction_logits, table if weight is None else weight, m.vocab_projector.parts["bias"]
    )
    return prediction_logits
