"""ElectraForMaskedLM and ElectraForSequenceClassification: BERT on a narrow embedding, with heads of its own.

Source: transformers 5.23, models/electra/modeling_electra.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.programs.bert import backbone, layer_norm, model, sliding_windows
from oomph.programs.cache import Cache
from oomph.programs.classify import loss_of
from oomph.programs.roberta import classify
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

__all__ = ["backbone", "buffers", "causal_lm", "sliding_windows"]


def base(m: Bound) -> Bound:
    """Return the model below the head, or the one without a head."""
    found: Bound = m if "embeddings" in m.parts else m.electra
    return found


def buffers(m: Bound) -> list[Sym]:
    """Return position_ids and token_type_ids, int64 for each position."""
    positions = base(m).embeddings.position_embeddings.rows
    return [m.tape.empty((positions,), "int64", op=name) for name in ("position_ids", "token_type_ids")]


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
    outputs = model(m.electra, input_ids, checkpointing, attention_mask, position_ids)
    sequence_output = outputs[0]
    if "classifier" in m.parts:
        m.tape.scope = "classifier"
        logits = classify(m.classifier, sequence_output, "gelu")
    else:
        m.tape.scope = "generator_lm_head"
        prediction_scores = predictions(m.generator_predictions, sequence_output)
        weight = m.generator_lm_head.parts["weight"]
        table = m.electra.embeddings.word_embeddings.weight if weight is None else weight
        prediction_scores = ops.linear(prediction_scores, table, m.generator_lm_head.parts["bias"])
        logits = prediction_scores
    return loss_of(logits, labels), logits, None


def predictions(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror ElectraGeneratorPredictions.forward."""
    hidden_states = m.dense(hidden_states)
    hidden_states = ops.activate("gelu", hidden_states)
    hidden_states = layer_norm(m.LayerNorm, hidden_states)
    return hidden_states
