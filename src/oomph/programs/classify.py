"""The head that tells sequences apart on top of a decoder: the logits of each row's last token that is no padding.

Source: transformers 5.23, modeling_layers.py, GenericForSequenceClassification.forward; loss/loss_utils.py,
ForSequenceClassificationLoss.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.errors import UsageError
from oomph.programs.cache import Cache
from oomph.tape.bound import Bound
from oomph.tape.sizes import yes
from oomph.tape.sym import Sym

Outputs = tuple["Sym | None", Sym, "Cache | None"]


def classified(m: Bound, states: list[Sym], input_ids: Sym, labels: Sym | None, cache: Cache | None) -> Outputs:
    """Mirror what follows the model: loss, pooled logits [B, L] and cache. The last token is looked for, or the -1st.

    `states` holds the model's output, which is taken out of it.
    """
    hidden_states = states.pop()
    tape, batch = m.tape, hidden_states.shape[0]
    tape.scope = "score"
    logits = m.score(hidden_states)
    last_non_pad_token: Any = None  # the first of these locals to die
    if m.score.padded:
        non_pad_mask = ops.as_int32(input_ids)
        _token_indices = tape.empty((input_ids.shape[1],), "int32", op="arange")
        counted = ops.unary(non_pad_mask, "mul")
        last_non_pad_token = tape.empty((batch,), "int64", op="argmax")
        del counted
        pooled_logits = ops.index(logits, (tape.empty((batch,), "int64", op="arange"), last_non_pad_token))
    else:
        if not yes(batch == 1):
            fix = "Set pad_token_id in the config, or --batch 1."
            raise UsageError("A classifier without a padding token takes one sequence at a time.", fix)
        pooled_logits = ops.index(ops.select(logits, 1), (tape.empty((batch,), "int64", op="arange"),))
    return loss_of(pooled_logits, labels), pooled_logits, cache


def loss_of(logits: Sym, labels: Sym | None) -> Sym | None:
    """Mirror ForSequenceClassificationLoss on logits [.., L], in their own dtype; of one label the squared error."""
    if labels is None:
        return None
    logits.tape.scope = "loss"
    rows = ops.rows(logits)
    if yes(logits.shape[-1] == 1):
        squeezed = () if yes(rows == 1) else (rows,)
        return ops.mse_loss(ops.view(logits, squeezed), ops.view(labels, squeezed))
    return ops.cross_entropy(ops.view(logits, (rows, logits.shape[-1])), ops.view(labels, (rows,)))
