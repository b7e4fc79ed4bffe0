"""Labels as losses take them: token i is told by what stands before it."""

from __future__ import annotations

from oomph import ops
from oomph.tape.sym import Sym, view_of


def padded_and_shifted(labels: Sym) -> tuple[Sym, Sym]:
    """Return labels [B, S] padded by one [B, S + 1] and what is left of these without the first [B, S].

    The latter is a view for one sequence and a copy for more: axes of length 1 have no stride.
    """
    batch, length = labels.shape
    padded = labels.tape.empty((batch, length + 1), "int64", op="pad")
    return padded, ops.contiguous(view_of(padded, (batch, length), padded.strides))


def shifted(logits: Sym, labels: Sym) -> tuple[Sym, Sym]:
    """Return logits [B, S, V] without the last token and labels [B, S] without the first, as rows of [B·(S-1)].

    Copies for more than one sequence, views for one.
    """
    length = labels.shape[1]
    shift_logits = ops.contiguous(ops.slice_axis(logits, 1, 0, length - 1))
    shift_labels = ops.contiguous(ops.slice_axis(labels, 1, 1, length))
    shift_logits = ops.view(shift_logits, (ops.rows(shift_logits), shift_logits.shape[-1]))
    shift_labels = ops.view(shift_labels, (shift_labels.shape[0] * shift_labels.shape[1],))
    return shift_logits, shift_labels
