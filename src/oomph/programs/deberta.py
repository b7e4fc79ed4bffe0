"""DebertaV2ForMaskedLM and DebertaV2ForSequenceClassification: forward with its local variables.

Attention adds scores of contents with relative positions, and of these with contents. Scales are tensors in host
memory, which only a trace sees. Source: transformers 5.23, models/deberta_v2/modeling_deberta_v2.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.errors import UsageError
from oomph.programs.bert import added, intermediate, predictions, sliding_windows
from oomph.programs.cache import Cache
from oomph.programs.classify import loss_of
from oomph.programs.frame import call, check_positions
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

__all__ = ["buffers", "causal_lm", "sliding_windows"]


def buffers(m: Bound) -> list[Sym]:
    """Return position_ids, int64 for each position."""
    positions = m.deberta.embeddings.position_ids
    return [m.tape.empty(positions.shape, positions.dtype, op="position_ids")]


def scaled_size_sqrt(tape: Tape) -> Sym | None:
    """Mirror scaled_size_sqrt: a scalar in host memory, of which a GPU knows nothing."""
    if tape.on == "gpu":
        return None
    size = tape.empty((), "fp32", op="lift_fresh")
    scaled = tape.empty((), "fp32", op="mul")
    del size
    root = tape.empty((), "fp32", op="sqrt")
    del scaled
    return root


def over(x: Sym, scale: Sym | None) -> Sym:
    """Mirror x / scale.to(dtype=x.dtype)."""
    return x / 1.0 if scale is None else ops.divided(x, ops.cast(scale, x.dtype))


def transpose_for_scores(m: Bound, x: Sym) -> Sym:
    """Mirror DisentangledSelfAttention.transpose_for_scores: [B, S, H] to a copy [B·N, S, D]."""
    batch, length, _ = x.shape
    x = ops.view(x, (batch, length, m.num_heads, m.head_dim))
    x = ops.contiguous(ops.transpose(x, 1, 2))
    return ops.view(x, (batch * m.num_heads, length, m.head_dim))


def self_attention(
    m: Bound, hidden_states: Sym, attention_mask: Sym, relative_pos: Sym | None, rel_embeddings: Sym | None
) -> tuple[Sym, None]:
    """Mirror DisentangledSelfAttention.forward."""
    batch, length, hidden = hidden_states.shape
    query_layer = transpose_for_scores(m, m["self.query_proj"](hidden_states))
    key_layer = transpose_for_scores(m, m["self.key_proj"](hidden_states))
    value_layer = transpose_for_scores(m, m["self.value_proj"](hidden_states))
    rel_att = None
    scale = scaled_size_sqrt(m.tape)
    attention_scores = ops.bmm(query_layer, over(ops.transpose(key_layer, 1, 2), scale))
    if rel_embeddings is not None and relative_pos is not None:
        rel_embeddings = ops.dropout(rel_embeddings, m.position_rate)
        rel_att = disentangled_attention_bias(m, query_layer, key_layer, relative_pos, rel_embeddings, batch)
    if rel_att is not None:
        attention_scores = attention_scores + rel_att
    attention_scores = ops.view(attention_scores, (batch, m.num_heads, length, length))
    attention_mask = m.tape.empty(attention_mask.shape, "bool", op="to")
    attention_scores = masked(attention_scores, attention_mask)
    attention_probs = ops.softmax(attention_scores)
    attention_probs = ops.dropout(attention_probs, m.dropout)
    context_layer = ops.bmm(ops.view(attention_probs, (batch * m.num_heads, length, length)), value_layer)
    context_layer = ops.view(context_layer, (batch, m.num_heads, length, m.head_dim))
    context_layer = ops.contiguous(ops.transpose(context_layer, 1, 2))
    context_layer = ops.view(context_layer, (batch, length, hidden))
    return context_layer, None


def masked(attention_scores: Sym, attention_mask: Sym) -> Sym:
    """Mirror attention_scores.masked_fill(~attention_mask, ...)."""
    ignored = attention_mask.tape.empty(attention_mask.shape, "bool", op="bitwise_not")
    return ops.masked_fill(attention_scores, ignored)


def disentangled_attention_bias(
    m: Bound, query_layer: Sym, key_layer: Sym, relative_pos: Sym, rel_embeddings: Sym, batch: Size
) -> Sym | None:
    """Mirror DisentangledSelfAttention.disentangled_attention_bias: [B·N, S, S], None where nothing is scored."""
    rel_embeddings = ops.unsqueeze(rel_embeddings, 0)
    pos_query_layer = pos_key_layer = None
    if m.shares_maps:
        pos_query_layer = repeated(transpose_for_scores(m, m["self.query_proj"](rel_embeddings)), batch)
        pos_key_layer = repeated(transpose_for_scores(m, m["self.key_proj"](rel_embeddings)), batch)
    else:
        if m.content_to_position:
            pos_key_layer = repeated(transpose_for_scores(m, m["self.pos_key_proj"](rel_embeddings)), batch)
        if m.position_to_content:
            pos_query_layer = repeated(transpose_for_scores(m, m["self.pos_query_proj"](rel_embeddings)), batch)
    score: Sym | None = None
    if m.scores_content_to_position and pos_key_layer is not None:
        scale = scaled_size_sqrt(m.tape)
        c2p_att = ops.bmm(query_layer, ops.transpose(pos_key_layer, 1, 2))
        shifted = ops.unary(relative_pos, "add")
        c2p_pos = ops.unary(shifted, "clamp")
        del shifted
        c2p_att = ops.gather(c2p_att, of_all_heads(c2p_pos, query_layer))
        score = over(c2p_att, scale) + 0.0
    if m.scores_position_to_content and pos_query_layer is not None:
        scale = scaled_size_sqrt(m.tape)
        turned = ops.unary(relative_pos, "neg")
        shifted = ops.unary(turned, "add")
        del turned
        p2c_pos = ops.unary(shifted, "clamp")
        del shifted
        p2c_att = ops.bmm(key_layer, ops.transpose(pos_query_layer, 1, 2))
        p2c_att = ops.transpose(ops.gather(p2c_att, of_all_heads(p2c_pos, key_layer)), 1, 2)
        score = over(p2c_att, scale) + 0.0 if score is None else ops.add_(score, over(p2c_att, scale))
    return score


def repeated(heads: Sym, batch: Size) -> Sym:
    """Return what heads know of positions [N, P, D] once for each sequence: [B·N, P, D]."""
    found = ops.repeat_first(ops.unsqueeze(heads, 0), batch)
    return ops.view(found, (batch * heads.shape[0], *heads.shape[1:]))


def of_all_heads(positions: Sym, layer: Sym) -> Sym:
    """Return positions [1, 1, S, S] as those of every head: [B·N, S, S], a view."""
    length = layer.shape[1]
    return ops.expand(ops.view(positions, (1, length, length)), (layer.shape[0], length, length))


def layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym,
    relative_pos: Sym | None,
    rel_embeddings: Sym | None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> tuple[Sym, None]:
    """Mirror DebertaV2Layer.forward."""
    attention_output, _ = attention(m, hidden_states, attention_mask, relative_pos, rel_embeddings)
    intermediate_output = intermediate(m, attention_output)
    layer_output = added(m["output.dense"], m[m.names.mlp_norm], m.rate, intermediate_output, attention_output)
    return layer_output, None


def attention(
    m: Bound, hidden_states: Sym, attention_mask: Sym, relative_pos: Sym | None, rel_embeddings: Sym | None
) -> tuple[Sym, None]:
    """Mirror DebertaV2Attention.forward."""
    self_output, _ = self_attention(m["attention"], hidden_states, attention_mask, relative_pos, rel_embeddings)
    output = m["attention"]["output.dense"]
    attention_output = added(output, m[m.names.attention_norm], m.rate, self_output, hidden_states)
    return attention_output, None


def embeddings(m: Bound, input_ids: Sym, token_type_ids: Sym, position_ids: Sym | None, mask: Sym) -> Sym:
    """Mirror DebertaV2Embeddings.forward, which makes zeros where it knows no positions."""
    length = input_ids.shape[1]
    inputs_embeds: Sym = m.word_embeddings(input_ids)
    table = m.parts.get("position_embeddings")
    if table is None:
        position_embeddings = m.tape.empty(inputs_embeds.shape, inputs_embeds.dtype, op="zeros_like")
    else:
        check_positions(table, length)
        found = ops.embedding_at(table.weight, (1, length)) if position_ids is None else table(position_ids)
        position_embeddings = found
        del found
    embedded: Sym = inputs_embeds
    if table is not None:
        embedded = embedded + position_embeddings
    if m.parts.get("token_type_embeddings") is not None:
        token_type_embeddings = m.token_type_embeddings(token_type_ids)
        embedded = embedded + token_type_embeddings
    if m.parts.get("embed_proj") is not None:
        embedded = m.embed_proj(embedded)
    embedded = m.LayerNorm(embedded)
    mask = ops.cast(ops.unsqueeze(mask, 2), embedded.dtype)
    embedded = embedded * mask
    embedded = m.dropout(embedded)
    return embedded


def build_relative_position(tape: Tape, length: Size, bucketed: bool) -> Sym:
    """Mirror build_relative_position: int64 [1, 1, S, S], distances or the buckets they fall into."""
    q_ids = tape.empty((length,), "int64", op="arange")
    k_ids = tape.empty((length,), "int64", op="arange")
    rel_pos_ids = tape.empty((length, length), "int64", op="sub")
    if bucketed:
        rel_pos_ids = make_log_bucket_position(rel_pos_ids)
        rel_pos_ids = tape.empty((length, length), "int64", op="to")
    del q_ids, k_ids
    return ops.unsqueeze(ops.unsqueeze(rel_pos_ids, 0), 0)


def make_log_bucket_position(relative_pos: Sym) -> Sym:
    """Mirror make_log_bucket_position: fp32 [S, S]."""
    tape, shape = relative_pos.tape, relative_pos.shape

    def made(dtype: str, op: str) -> Sym:
        return tape.empty(shape, dtype, op=op)

    sign = made("int64", "sign")
    less, more = made("bool", "lt"), made("bool", "gt")
    inside = made("bool", "bitwise_and")
    del less, more
    most = tape.empty((), "int64", op="to")
    distance = made("int64", "abs")
    abs_pos = made("int64", "where")
    del inside, most, distance
    share = made("fp32", "div")
    logarithm = made("fp32", "log")
    del share
    number = tape.empty((), "fp32", op="lift_fresh") if tape.on != "gpu" else None
    longest = tape.empty((), "fp32", op="log") if tape.on != "gpu" else None
    del number
    share = made("fp32", "div")
    del logarithm, longest
    scaled = made("fp32", "mul")
    del share
    whole = made("fp32", "ceil")
    del scaled
    log_pos = made("fp32", "add")
    del whole
    near = made("bool", "le")
    plain, signed = made("fp32", "to"), made("fp32", "mul")
    bucket_pos = made("fp32", "where")
    del near, plain, signed
    del sign, abs_pos, log_pos
    return bucket_pos


def encoder(m: Bound, hidden_states: Sym, checkpointing: Checkpointing, attention_mask: Sym) -> list[Sym]:
    """Mirror DebertaV2Encoder.forward: the states after every layer, all of which are kept."""
    tape, (batch, length) = m.tape, attention_mask.shape
    first = next(iter(m.layer))["attention"]
    input_mask = attention_mask  # noqa: F841
    attention_mask = tape.empty((batch, 1, length, length), attention_mask.dtype, op="mul")
    relative_pos = rel_embeddings = None
    if m.parts.get("rel_embeddings") is not None:
        relative_pos = build_relative_position(tape, length, first.bucketed)
    all_hidden_states = [hidden_states]
    next_kv = hidden_states
    if m.parts.get("rel_embeddings") is not None:
        rel_embeddings = m.rel_embeddings.weight
        if m.parts.get("LayerNorm") is not None:
            rel_embeddings = m.LayerNorm(rel_embeddings)
    for index, each in enumerate(m.layer):
        output_states, _ = call(
            each, index, layer, checkpointing, None, next_kv, attention_mask,
            relative_pos=relative_pos, rel_embeddings=rel_embeddings,
        )  # fmt: skip
        all_hidden_states.append(output_states)
        next_kv = output_states
    tape.end_layers()
    return all_hidden_states


def model(
    m: Bound, input_ids: Sym, checkpointing: Checkpointing, attention_mask: Sym | None, position_ids: Sym | None
) -> Sym:
    """Mirror DebertaV2Model.forward."""
    if attention_mask is None:
        attention_mask = m.tape.empty(input_ids.shape, "fp32", op="ones")
    token_type_ids = m.tape.empty(input_ids.shape, "int64", op="zeros")
    embedding_output = embeddings(m.embeddings, input_ids, token_type_ids, position_ids, attention_mask)
    encoded_layers = encoder(m.encoder, embedding_output, checkpointing, attention_mask)
    sequence_output = encoded_layers[-1]
    return sequence_output


def refuse(m: Bound, checkpointing: Checkpointing) -> None:
    """Refuse what fails in the real class: a second way back through the positions' norm."""
    norm = m.deberta.encoder.parts.get("LayerNorm")
    if checkpointing.kind == "reentrant" and norm is not None and any(one.requires_grad for one in norm.parameters()):
        fix = "Say --checkpointing non-reentrant."
        raise UsageError("DeBERTa's layers share normed positions: a reentrant checkpoint fails on the second.", fix)


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
    refuse(m, checkpointing)
    outputs = (model(m.deberta, input_ids, checkpointing, attention_mask, position_ids),)
    if "classifier" not in m.parts:
        m.tape.scope = "cls"
        prediction_scores = predictions(m.cls.predictions, outputs[0], m.deberta.embeddings.word_embeddings.weight)
        return loss_of(prediction_scores, labels), prediction_scores, None
    m.tape.scope = "classifier"
    pooled_output = pooled(m.pooler, outputs[0])
    pooled_output = m["dropout"](pooled_output)
    logits = m.classifier(pooled_output)
    if labels is None:
        return None, logits, None
    m.tape.scope = "loss"
    if yes(logits.shape[-1] == 1):
        logits = ops.cast(ops.view(logits, labels.shape), labels.dtype)
        return ops.mse_loss(logits, labels), logits, None
    return classified_loss(logits, labels), logits, None


def classified_loss(logits: Sym, labels: Sym) -> Sym:
    """Mirror the loss of DebertaV2ForSequenceClassification, which looks for rows that have a label, and takes all."""
    tape, (rows, classes) = logits.tape, logits.shape
    found = tape.empty((rows,), "bool", op="ge")
    label_index = tape.empty((rows, 1), "int64", op="nonzero")
    del found
    labeled_logits = ops.gather(logits, ops.expand(label_index, (rows, classes)))
    labels = tape.empty((rows,), "int64", op="gather")
    return ops.cross_entropy(ops.cast(labeled_logits, "fp32"), labels)


def pooled(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror ContextPooler.forward."""
    context_token: Sym = ops.select(hidden_states, 1)
    context_token = m["dropout"](context_token)
    pooled_output: Sym = m.dense(context_token)
    pooled_output = ops.activate(m.activation, pooled_output)
    return pooled_output
