"""What LLaMA-Factory's trainers of preferences share: a batch that is cloned, log-probabilities of logits in fp32.

Its own get_batch_logps takes a log-softmax of all logits but the last token's, prompts included, where TRL's fused head
makes none. Source: LLaMA-Factory 0.9.5, train/trainer_utils.py (nested_detach, get_batch_logps).
"""

from __future__ import annotations

from oomph import ops
from oomph.objectives.passes import written
from oomph.ops.indexing import unsqueeze
from oomph.ops.loss import log_softmax
from oomph.ops.routing import gather
from oomph.ops.scores import compared, sum_rows
from oomph.ops.slices import squeeze_last
from oomph.tape.autograd import like
from oomph.tape.sym import Sym


def cloned(batch: dict[str, Sym]) -> dict[str, Sym]:
    """Mirror nested_detach(batch, clone=True)."""
    return {name: like(each, each.dtype, "clone") for name, each in batch.items()}


def get_batch_logps(logits: Sym, labels: Sym) -> tuple[Sym, Sym]:
    """Mirror get_batch_logps of logits [B, S, V] in fp32: sums [B] of log-probabilities, and how many they are of."""
    length = labels.shape[1]
    labels = like(ops.slice_axis(labels, 1, 1, length), "int64", "clone")
    logits = ops.slice_axis(logits, 1, 0, length - 1)
    loss_mask = compared("ne", labels)
    ignore(labels)
    per_token_logps = squeeze_last(gather(log_softmax(logits), unsqueeze(labels, 2)))
    valid_length = sum_rows(loss_mask)
    logps = sum_rows(per_token_logps * loss_mask)
    return logps, valid_length


def ignore(labels: Sym) -> None:
    """Mirror labels[labels == -100] = 0."""
    marked = compared("eq", labels)
    written(labels)
    del marked
