"""RobertaForMaskedLM and RobertaForSequenceClassification: BERT with positions counted from the ids, its own heads.

Source: transformers 5.23, models/roberta/modeling_roberta.py, models/xlm_roberta/modeling_xlm_roberta.py,
models/camembert/modeling_camembert.py.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from oomph import ops
from oomph.programs.bert import layer_norm, model, updated
from oomph.programs.cache import Cache
from oomph.programs.classify import loss_of
from oomph.programs.frame import check_positions
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

__all__ = ["backbone", "buffers", "causal_lm", "sliding_windows", "updated"]


def base(m: Bound) -> Bound:
    """Return the model below the head, or the one without a head."""
    found: Bound = m if "embeddings" in m.parts else m.roberta
    return found


def buffers(m: Bound) -> list[Sym]:
    """Return position_ids and token_type_ids, int64 for each position."""
    positions = base(m).embeddings.position_embeddings.rows
    return [m.tape.empty((positions,), "int64", op=name) for name in ("position_ids", "token_type_ids")]


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return no windows: there is no cache."""
    return []


def embeddings(
    m: Bound,
    input_ids: Sym,
    token_type_ids: Sym | None = None,
    position_ids: Sym | None = None,
    inputs_embeds: Sym | None = None,
    table: Sym | None = None,
) -> Sym:
    """Mirror RobertaEmbeddings.forward; `table` is the vocabulary's where a class stores it with its head."""
    batch, length = input_ids.shape
    if position_ids is None:
        position_ids = position_ids_from_input_ids(input_ids)
    check_positions(m.position_embeddings, input_ids.shape[1])
    buffered_token_type_ids = m.tape.empty((batch, length), "int64", op="gather")
    token_type_ids = ops.expand(buffered_token_type_ids, (batch, length))
    inputs_embeds = m.word_embeddings(input_ids) if table is None else looked_up(m, table, input_ids)
    token_type_embeddings = m.token_type_embeddings(token_type_ids)
    states: Sym = inputs_embeds + token_type_embeddings
    position_embeddings = m.position_embeddings(position_ids)
    states = states + position_embeddings
    states = m.LayerNorm(states)
    states = m.dropout(states)
    return states


def looked_up(m: Bound, table: Sym, input_ids: Sym) -> Sym:
    """Mirror nn.Embedding.forward on a table that lies elsewhere, and the hook that lets checkpointed layers train."""
    inputs_embeds = ops.embedding(table, input_ids)
    if m.tape.inputs_train:
        inputs_embeds.requires_grad = True
    return inputs_embeds


def position_ids_from_input_ids(input_ids: Sym) -> Sym:
    """Mirror create_position_ids_from_input_ids: int32 sums of what is no padding, int64 [B, S] at last."""
    mask = ops.as_int32(input_ids)
    incremental_indices = ops.positions_of(mask)
    counted = ops.as_int64(incremental_indices)
    shifted = ops.unary(counted, "add")
    del counted
    return shifted


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
    return model(m, input_ids, checkpointing, attention_mask, position_ids, embeddings)


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
    own = m.roberta.embeddings.parts.get("word_embeddings")
    embed = embeddings if own is not None else partial(embeddings, table=m.lm_head.decoder.weight)
    outputs = model(m.roberta, input_ids, checkpointing, attention_mask, position_ids, embed)
    sequence_output = outputs[0]
    if "classifier" in m.parts:
        m.tape.scope = "classifier"
        logits = classify(m.classifier, sequence_output)
    else:
        m.tape.scope = "lm_head"
        logits = lm_head(m.lm_head, sequence_output, m.lm_head.decoder.weight if own is None else own.weight)
    return loss_of(logits, labels), logits, None


def classify(m: Bound, features: Sym, activation: str = "tanh") -> Sym:
    """Mirror RobertaClassificationHead.forward, and with "gelu" ElectraClassificationHead.forward."""
    x: Sym = ops.select(features, 1)
    x = m.dropout(x)
    x = m.dense(x)
    x = ops.activate(activation, x)
    x = m.dropout(x)
    x = m.out_proj(x)
    return x


def lm_head(m: Bound, features: Sym, table: Sym) -> Sym:
    """Mirror RobertaLMHead.forward; tied, the decoder's bias is the head's own."""
    x: Sym = m["dense"](features)
    x = ops.activate("gelu", x)
    x = layer_norm(m["layer_norm"], x)
    x = ops.linear(x, table, m.parts["bias"])
    return x
