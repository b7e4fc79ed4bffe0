"""Distillation: the model that trains against a teacher beside it, over the whole vocabulary.

`gkd` is the generalised Jensen-Shannon divergence with GKDConfig's beta 0.5, `gkd-kl` the same trainer's beta 0, the
plain KL divergence. Logits of both exist at once, and log-softmaxes, a mixture and divergences as large; both fill
caches of keys and values, the student unless it is checkpointed. Batches are there already: with GKDConfig's lmbda some
are generated before a step, which is not in it. Source: trl 1.16, experimental/gkd/gkd_trainer.py; its empty_cache at
the end is not played.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.losses.fused_head import counted
from oomph.objectives.passes import Passes
from oomph.ops.divergence import kl_div, logsumexp
from oomph.ops.elementwise import add_scalar
from oomph.ops.fused_head import take_where
from oomph.ops.joining import stack_first
from oomph.ops.loss import log_softmax
from oomph.ops.scores import compared, log, log1p
from oomph.tape.sizes import Shapes
from oomph.tape.sym import Sym


def inputs(passes: Passes) -> Shapes:
    """Return a batch as DataCollatorForChatML makes it, and the number of tokens that count, which the Trainer adds."""
    tokens = ((passes.job.batch, passes.job.seq_len), "int64")
    return {**dict.fromkeys(("input_ids", "attention_mask", "labels"), tokens), "num_items_in_batch": ((), "int64")}


def compute_loss(passes: Passes, inputs: dict[str, Sym]) -> tuple[Sym, None]:
    """Mirror GKDTrainer.compute_loss with its local variables."""
    length = inputs["labels"].shape[1]
    cached = passes.job.checkpointing == "none"  # nobody switches it off otherwise
    tokens = inputs["input_ids"], None, inputs["attention_mask"], ()
    student_outputs: Any = passes.of_policy(*tokens, use_cache=cached)
    teacher_outputs: Any = passes.of_reference(*tokens, use_cache=True)
    shifted_student_logits = ops.slice_axis(student_outputs[-2], 1, 0, length - 1)
    shifted_teacher_logits = ops.slice_axis(teacher_outputs[-2], 1, 0, length - 1)
    shifted_labels = ops.slice_axis(inputs["labels"], 1, 1, length)
    divergence = _kl if passes.job.objective == "gkd-kl" else _jsd
    loss = divergence(shifted_student_logits, shifted_teacher_logits, shifted_labels, inputs["num_items_in_batch"])
    return loss, None


def _kl(student_logits: Sym, teacher_logits: Sym, labels: Sym, num_items_in_batch: Sym) -> Sym:
    """Mirror generalized_jsd_loss with beta 0."""
    student_logits = student_logits / 1.0
    teacher_logits = teacher_logits / 1.0
    student_log_probs = log_softmax(student_logits)
    teacher_log_probs = log_softmax(teacher_logits)
    jsd = kl_div(student_log_probs, teacher_log_probs)
    mask = compared("ne", labels)
    jsd = take_where(jsd, mask, counted(labels))
    jsd_sum = ops.total(jsd)
    return ops.divided(jsd_sum, num_items_in_batch)


def _jsd(
    student_logits: Sym, teacher_logits: Sym, labels: Sym, num_items_in_batch: Sym, beta: Sym | None = None
) -> Sym:
    """Mirror generalized_jsd_loss with a beta between 0 and 1, which becomes a tensor."""
    student_logits = student_logits / 1.0
    teacher_logits = teacher_logits / 1.0
    student_log_probs = log_softmax(student_logits)
    teacher_log_probs = log_softmax(teacher_logits)
    jsd: Any = None  # it dies before what follows
    beta = student_logits.tape.empty((), student_log_probs.dtype, op="lift_fresh")
    mixture_log_probs = logsumexp(
        stack_first([_plus(student_log_probs, log1p(-beta)), _plus(teacher_log_probs, log(beta))])
    )
    kl_teacher = kl_div(mixture_log_probs, teacher_log_probs)
    kl_student = kl_div(mixture_log_probs, student_log_probs)
    jsd = beta * kl_teacher + add_scalar(beta) * kl_student
    mask = compared("ne", labels)
    jsd = take_where(jsd, mask, counted(labels))
    jsd_sum = ops.total(jsd)
    return ops.divided(jsd_sum, num_items_in_batch)


def _plus(x: Sym, scalar: Sym) -> Sym:
    """Return a sum with a tensor of no axes, which changes no dtype."""
    return add_scalar(x)
