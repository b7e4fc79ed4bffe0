"""BertForMaskedLM and BertForSequenceClassification, and ERNIE's: forward with its local variables.

Source: transformers 5.23, models/bert/modeling_bert.py, models/ernie/modeling_ernie.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from oomph import ops
from oomph.programs.cache import Cache
from oomph.programs.classify import loss_of
from oomph.programs.frame import call, check_positions
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym


def buffers(m: Bound) -> list[Sym]:
    """Return position_ids and token_type_ids, int64 for each position."""
    positions = base(m).embeddings.position_embeddings.rows
    return [m.tape.empty((positions,), "int64", op=name) for name in ("position_ids", "token_type_ids")]


def base(m: Bound) -> Bound:
    """Return the model below the head, or the one without a head."""
    if "embeddings" in m.parts:
        return m
    found: Bound = m["ernie" if "ernie" in m.parts else "bert"]
    return found


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return no windows: there is no cache."""
    return []


def layer_norm(m: Bound, x: Sym) -> Sym:
    """Mirror nn.LayerNorm.forward."""
    return ops.layer_norm(x, m.parts["weight"], m.parts["bias"])


def embeddings(
    m: Bound,
    input_ids: Sym,
    token_type_ids: Sym | None = None,
    task_type_ids: Sym | None = None,
    position_ids: Sym | None = None,
    inputs_embeds: Sym | None = None,
) -> Sym:
    """Mirror BertEmbeddings.forward, or ErnieEmbeddings.forward, which knows tasks.

    Token types that do not come with the batch are gathered from a buffer, positions are a slice of one.
    """
    tape, (batch, length) = m.tape, input_ids.shape
    ids = position_ids
    rows = 1 if ids is None else batch
    check_positions(m.position_embeddings, input_ids.shape[1])
    if token_type_ids is None:
        buffered_token_type_ids = tape.empty((rows, length), "int64", op="gather")
        token_type_ids = ops.expand(buffered_token_type_ids, (batch, length))
    inputs_embeds = m.word_embeddings(input_ids)
    token_type_embeddings = m.token_type_embeddings(token_type_ids)
    states: Sym = inputs_embeds + token_type_embeddings
    if ids is None:  # positions lie in the buffer: nothing is allocated for them
        position_embeddings = ops.embedding_at(m.position_embeddings.weight, (1, length))
    else:
        position_embeddings = m.position_embeddings(ids)
    states = states + position_embeddings
    if m.parts.get("task_type_embeddings") is not None:
        task_type_ids = tape.empty((batch, length), "int64", op="zeros")
        task_type_embeddings = m.task_type_embeddings(task_type_ids)
        states = ops.add_(states, task_type_embeddings)
    states = m.LayerNorm(states)
    states = m.dropout(states)
    return states


def self_attention(m: Bound, hidden_states: Sym, attention_mask: Sym | None) -> tuple[Sym, Sym | None]:
    """Mirror BertSelfAttention.forward."""
    batch, length, hidden = hidden_states.shape
    shape = (batch, length, m.num_heads, m.head_dim)
    query_layer = ops.transpose(ops.view(m["self.query"](hidden_states), shape), 1, 2)
    key_layer = ops.transpose(ops.view(m["self.key"](hidden_states), shape), 1, 2)
    value_layer = ops.transpose(ops.view(m["self.value"](hidden_states), shape), 1, 2)
    attn_output, attn_weights = ops.encoder_attention(query_layer, key_layer, value_layer, attention_mask, m.dropout)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, hidden)))
    return attn_output, attn_weights


def added(dense: Bound, norm: Bound, rate: float, hidden_states: Sym, input_tensor: Sym) -> Sym:
    """Mirror BertSelfOutput.forward and BertOutput.forward."""
    hidden_states = dense(hidden_states)
    hidden_states = ops.dropout(hidden_states, rate)
    summed = hidden_states + input_tensor  # a module's call holds its arguments to its end
    normed = layer_norm(norm, summed)
    del summed
    hidden_states = normed
    return hidden_states


def attention(m: Bound, hidden_states: Sym, attention_mask: Sym | None) -> tuple[Sym, Sym | None]:
    """Mirror BertAttention.forward."""
    attention_output, attn_weights = self_attention(m["attention"], hidden_states, attention_mask)
    inner = attention_output
    attention_output = added(m["attention"]["output.dense"], m[m.names.attention_norm], m.rate, inner, hidden_states)
    del inner
    return attention_output, attn_weights


def layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    encoder_hidden_states: None,
    position_ids: Sym | None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror BertLayer.forward, which has no use for position_ids: a checkpoint keeps them alive."""
    self_attention_output, _ = attention(m, hidden_states, attention_mask)
    attention_output = self_attention_output
    layer_output = feed_forward_chunk(m, attention_output)
    return layer_output


def feed_forward_chunk(m: Bound, attention_output: Sym) -> Sym:
    """Mirror BertLayer.feed_forward_chunk."""
    intermediate_output = intermediate(m, attention_output)
    layer_output = added(m["output.dense"], m[m.names.mlp_norm], m.rate, intermediate_output, attention_output)
    return layer_output


def intermediate(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror BertIntermediate.forward."""
    hidden_states = m["intermediate.dense"](hidden_states)
    hidden_states = ops.activate(m.mlp.activation, hidden_states)
    return hidden_states


def encoder(
    m: Bound, hidden_states: Sym, checkpointing: Checkpointing, attention_mask: Sym | None, position_ids: Sym | None
) -> Sym:
    """Mirror BertEncoder.forward."""
    for index, each in enumerate(m.layer):
        hidden_states = call(
            each, index, layer, checkpointing, None, hidden_states, attention_mask, None, position_ids=position_ids
        )
    m.tape.end_layers()
    return hidden_states


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    position_ids: Sym | None,
    embed: Callable[..., Sym] = embeddings,
) -> tuple[Sym, Sym | None]:
    """Mirror BertModel.forward: all states and the pooled first one."""
    embedding_output = embed(m.embeddings, input_ids, position_ids=position_ids)
    if m.parts.get("embeddings_project") is not None:  # of ELECTRA
        embedding_output = m.embeddings_project(embedding_output)
    attention_mask = ops.bidirectional_mask(embedding_output, attention_mask)
    sequence_output = encoder(m.encoder, embedding_output, checkpointing, attention_mask, position_ids)
    pooled_output = pooled(m.pooler, sequence_output) if m.parts.get("pooler") is not None else None
    return sequence_output, pooled_output


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
    """Mirror the forward of the class without a head: all states and the pooled first one; there is no cache."""
    embed = partial(embeddings, token_type_ids=token_type_ids)
    return model(base(m), input_ids, checkpointing, attention_mask, position_ids, embed)


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return the parameters that get a gradient: without a head nobody uses what a pooler makes."""
    return [one for one in parameters if "embeddings" not in m.parts or not one.made_for.startswith("pooler.")]


def pooled(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror BertPooler.forward."""
    first_token_tensor = ops.select(hidden_states, 1)
    pooled_output = m.dense(first_token_tensor)
    pooled_output = ops.tanh(pooled_output)
    return pooled_output


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
    """Mirror BertLMPredictionHead.forward; tied, the decoder's bias is the head's own."""
    hidden_states = transform(m, hidden_states)
    decoder = m["decoder"].parts
    weight, bias = decoder["weight"], decoder["bias"]
    hidden_states = ops.linear(
        hidden_states, table if weight is None else weight, m.parts["bias"] if bias is None else bias
    )
    return hidden_states


def transform(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror BertPredictionHeadTransform.forward."""
    hidden_states = m["transform.dense"](hidden_states)
    hidden_states = ops.activate(m.activation, hidden_states)
    hidden_states = layer_norm(m["transform.LayerNorm"], hidden_states)
    return hidden_states
