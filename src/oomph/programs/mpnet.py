"""MPNetForMaskedLM and MPNetForSequenceClassification: RoBERTa with a bias of distances that all layers share.

Source: transformers 5.23, models/mpnet/modeling_mpnet.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.errors import UsageError
from oomph.programs.bert import added, intermediate, pooled, sliding_windows, updated
from oomph.programs.cache import Cache
from oomph.programs.classify import loss_of
from oomph.programs.frame import call, check_positions
from oomph.programs.roberta import classify, lm_head
from oomph.programs.t5 import near_and_far
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

__all__ = ["backbone", "buffers", "causal_lm", "sliding_windows", "updated"]


def base(m: Bound) -> Bound:
    """Return the model below the head, or the one without a head."""
    found: Bound = m if "embeddings" in m.parts else m.mpnet
    return found


def buffers(m: Bound) -> list[Sym]:
    """Return position_ids, int64 for each position."""
    return [m.tape.empty((base(m).embeddings.position_embeddings.rows,), "int64", op="position_ids")]


def embeddings(m: Bound, input_ids: Sym, position_ids: Sym | None) -> Sym:
    """Mirror MPNetEmbeddings.forward."""
    if position_ids is None:
        position_ids = position_ids_from_input_ids(input_ids)
    check_positions(m.position_embeddings, input_ids.shape[1])
    inputs_embeds = m.word_embeddings(input_ids)
    position_embeddings = m.position_embeddings(position_ids)
    states: Sym = inputs_embeds + position_embeddings
    states = m.LayerNorm(states)
    states = m.dropout(states)
    return states


def position_ids_from_input_ids(input_ids: Sym) -> Sym:
    """Mirror MPNet's create_position_ids_from_input_ids, RoBERTa's without tokens seen before: int64 [B, S]."""
    mask = ops.as_int32(input_ids)
    summed = ops.as_int64(mask)
    narrow = mask.tape.empty(mask.shape, "int32", op="to")
    del summed
    incremental_indices = ops.unary(narrow, "mul")
    del narrow
    counted = ops.as_int64(incremental_indices)
    shifted = ops.unary(counted, "add")
    del counted
    return shifted


def compute_position_bias(m: Bound, x: Sym) -> Sym:
    """Mirror MPNetEncoder.compute_position_bias: [B, N, S, S], a copy for each sequence."""
    tape, (batch, length) = m.tape, x.shape[:2]
    context_position = tape.empty((length, 1), "int64", op="arange")
    memory_position = tape.empty((1, length), "int64", op="arange")
    relative_position = tape.empty((length, length), "int64", op="sub")
    rp_bucket = relative_position_bucket(relative_position)
    values = m.relative_attention_bias(rp_bucket)
    values = ops.unsqueeze(ops.transpose(ops.transpose(values, 0, 2), 1, 2), 0)
    values = ops.contiguous(ops.expand(values, (batch, values.shape[1], length, length)))
    del context_position, memory_position
    return values


def relative_position_bucket(relative_position: Sym) -> Sym:
    """Mirror MPNetEncoder.relative_position_bucket: int64 [S, S] of each step."""
    tape, shape = relative_position.tape, relative_position.shape

    def made(dtype: str, op: str) -> Sym:
        return tape.empty(shape, dtype, op=op)

    n = made("int64", "neg")
    below = made("bool", "lt")
    counted = made("int64", "to")
    del below
    scaled = made("int64", "mul")
    del counted
    ret = made("int64", "add")
    del scaled
    n = made("int64", "abs")  # noqa: F841
    is_small, _, if_large = near_and_far(made)  # noqa: RUF059  live to the end
    chosen = made("int64", "where")
    del chosen
    return ret


def self_attention(m: Bound, hidden_states: Sym, attention_mask: Sym | None, position_bias: Sym) -> Sym:
    """Mirror MPNetSelfAttention.forward."""
    batch, length, hidden = hidden_states.shape
    shape = (batch, length, m.num_heads, m.head_dim)
    q = ops.transpose(ops.view(m.q(hidden_states), shape), 1, 2)
    k = ops.transpose(ops.view(m.k(hidden_states), shape), 1, 2)
    v = ops.transpose(ops.view(m.v(hidden_states), shape), 1, 2)
    attention_scores = ops.matmul(q, ops.transpose(k, 2, 3))
    attention_scores = attention_scores / 1.0
    attention_scores = ops.add_(attention_scores, position_bias)
    if attention_mask is not None:
        attention_scores = attention_scores + attention_mask
    attention_probs = ops.softmax(attention_scores)
    attention_probs = ops.dropout(attention_probs, m.dropout)
    c = ops.matmul(attention_probs, v)
    c = ops.contiguous(ops.transpose(c, 1, 2))
    c = ops.view(c, (batch, length, hidden))
    o: Sym = m.o(c)
    return o


def attention(m: Bound, hidden_states: Sym, attention_mask: Sym | None, position_bias: Sym) -> Sym:
    """Mirror MPNetAttention.forward, which drops out what comes from its attention."""
    self_outputs = self_attention(m[m.names.attention], hidden_states, attention_mask, position_bias)
    dropped = ops.dropout(self_outputs, m.rate)
    summed = dropped + hidden_states
    del dropped
    attention_output: Sym = m[m.names.attention_norm](summed)
    del summed
    return attention_output


def layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_bias: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror MPNetLayer.forward."""
    attention_output = attention(m, hidden_states, attention_mask, position_bias)
    intermediate_output = intermediate(m, attention_output)
    return added(m["output.dense"], m[m.names.mlp_norm], m.rate, intermediate_output, attention_output)


def encoder(m: Bound, hidden_states: Sym, checkpointing: Checkpointing, attention_mask: Sym | None) -> Sym:
    """Mirror MPNetEncoder.forward."""
    position_bias = compute_position_bias(m, hidden_states)
    for index, each in enumerate(m.layer):
        hidden_states = call(each, index, layer, checkpointing, None, hidden_states, attention_mask, position_bias)
    m.tape.end_layers()
    return hidden_states


def model(
    m: Bound, input_ids: Sym, checkpointing: Checkpointing, attention_mask: Sym | None, position_ids: Sym | None
) -> tuple[Sym, Sym | None]:
    """Mirror MPNetModel.forward: all states and the pooled first one."""
    embedding_output = embeddings(m.embeddings, input_ids, position_ids)
    attention_mask = ops.bidirectional_mask(embedding_output, attention_mask)
    sequence_output = encoder(m.encoder, embedding_output, checkpointing, attention_mask)
    pooled_output = pooled(m.pooler, sequence_output) if m.parts.get("pooler") is not None else None
    return sequence_output, pooled_output


def _prepare(m: Bound, checkpointing: Checkpointing) -> None:
    """Refuse what the class does not do, and attend as it does."""
    if checkpointing.kind != "none":
        raise UsageError("MPNet's class supports no gradient checkpointing.", "Say --checkpointing none.")
    m.tape.kernel = "eager"


def backbone(
    m: Bound,
    input_ids: Sym,
    model_type: str,
    attention_mask: Sym | None,
    position_ids: Sym | None,
    use_cache: bool,
    checkpointing: Checkpointing,
) -> tuple[Sym, Sym | None]:
    """Mirror the forward of the class without a head: all states and the pooled first one; there is no cache."""
    _prepare(m, checkpointing)
    return model(m, input_ids, checkpointing, attention_mask, position_ids)


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
    _prepare(m, checkpointing)
    outputs = model(m.mpnet, input_ids, checkpointing, attention_mask, position_ids)
    sequence_output = outputs[0]
    if "classifier" in m.parts:
        m.tape.scope = "classifier"
        logits = classify(m.classifier, sequence_output)
    else:
        m.tape.scope = "lm_head"
        logits = lm_head(m.lm_head, sequence_output, m.mpnet.embeddings.word_embeddings.weight)
    return loss_of(logits, labels), logits, None
