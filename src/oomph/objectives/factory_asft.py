"""ASFT, LLaMA-Factory's: DFT's loss, and a divergence from a reference over all tokens.

The reference runs first; its logits, and a cache that nothing switches off, lie there while the policy runs. The model
computes its own loss as well, which is held to the end of the forward pass. Shifted logits of both are copies; the
divergence makes a log-softmax, a softmax and three more tensors of their size. Source: LLaMA-Factory 0.9.5,
train/sft/trainer.py, compute_loss; train/trainer_utils.py (asft_loss_func, _kl_divergence).
"""

from __future__ import annotations

from oomph import ops
from oomph.objectives.factory_sft import dft_cross_entropy, scored_of
from oomph.objectives.passes import Passes
from oomph.ops.divergence import kl_div_of
from oomph.ops.loss import log_softmax
from oomph.ops.routing import sum_over
from oomph.ops.scores import compared
from oomph.ops.softmax import softmax
from oomph.tape.sizes import Shapes, Size
from oomph.tape.sym import Sym


def inputs(passes: Passes) -> Shapes:
    """Return a batch of labelled sequences."""
    names = ("input_ids", *(("attention_mask",) if passes.job.padding else ()), "labels")
    return dict.fromkeys(names, ((passes.job.batch, passes.job.seq_len), "int64"))


def compute_loss(passes: Passes, inputs: dict[str, Sym]) -> tuple[Sym, None]:
    """Mirror CustomSeq2SeqTrainer.compute_loss with use_asft_loss."""
    mask = inputs.get("attention_mask")
    ref_outputs = passes.of_reference(inputs["input_ids"], None, mask, (), use_cache=True)
    ref_logits: Sym = ref_outputs[1]
    outputs = passes.of_policy(inputs["input_ids"], inputs["labels"], mask, ())
    return _asft_loss_func(passes, outputs[0], inputs["labels"], ref_logits), None


def _asft_loss_func(passes: Passes, logits: Sym, labels: Sym, ref_logits: Sym) -> Sym:
    """Mirror asft_loss_func: logits without the last token, as rows."""
    logits = ops.cast(logits, "fp32")
    length = labels.shape[1]
    shift_logits = ops.contiguous(ops.slice_axis(logits, 1, 0, length - 1))
    shift_labels = ops.contiguous(ops.slice_axis(labels, 1, 1, length))
    shift_ref_logits = ops.contiguous(ops.slice_axis(ref_logits, 1, 0, length - 1))
    shift_logits = _rows(shift_logits)
    shift_ref_logits = _rows(shift_ref_logits)
    shift_labels = ops.view(shift_labels, (shift_labels.shape[0] * shift_labels.shape[1],))
    return _asft_cross_entropy(shift_logits, shift_labels, shift_ref_logits, scored_of(passes))


def _asft_cross_entropy(policy_logits: Sym, policy_labels: Sym, ref_logits: Sym, scored: Size) -> Sym:
    """Mirror _asft_cross_entropy of logits [T, V]."""
    dft_loss = dft_cross_entropy(policy_logits, policy_labels, scored)
    kl_loss = _kl_divergence(policy_logits, ref_logits, policy_labels)
    return dft_loss + kl_loss * 1.0


def _rows(logits: Sym) -> Sym:
    return ops.view(logits, (ops.rows(logits), logits.shape[-1]))


def _kl_divergence(policy_logits: Sym, ref_logits: Sym, labels: Sym) -> Sym:
    """Mirror _kl_divergence of logits [T, V]: over the tokens that are scored."""
    log_p = log_softmax(policy_logits)
    q = softmax(ref_logits)
    kl = sum_over(kl_div_of(log_p, q), -1)
    mask = ops.cast(compared("ne", labels), "fp32")
    return ops.divided(ops.total(kl * mask), ops.total(mask))
