"""Cross entropy as torch computes it: log-softmax, then negative log-likelihood."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import in_fp32
from oomph.ops.kernel import run
from oomph.ops.softmax import keep_input, same_as_input
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import yes
from oomph.tape.sym import Sym, new
from oomph.workspaces import OUTPUTS, Buffer


def log_softmax(x: Sym) -> Sym:
    """Return log_softmax of logits [T, V] over V, contiguous, in x's dtype, in fp32 under autocast.

    Saves the result, as large as the logits: backward is g - exp(result) · sum(g), another tensor of that size. Source:
    torch tools/autograd/derivatives.yaml (_log_softmax), ATen/native/cuda/SoftMax.cu.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(log_softmax, fp32(4, 1000))
    Cost(allocated=16000, saved=16000, backward=16000)
    """
    return log_softmax_as_is(in_fp32(x))


def log_softmax_as_is(x: Sym) -> Sym:
    """Return log_softmax(x, dtype=x.dtype), contiguous, of x's shape and dtype, under autocast too.

    Saves the result, as log_softmax does. CUDA's kernel copies what does not lie in order, as logits without their last
    token. Source: AT_FORALL_FP32_SET_OPT_DTYPE in ATen/autocast_mode.h: a dtype that is asked for stays;
    ATen/native/cuda/SoftMax.cu, host_softmax.

    >>> from oomph.tape.testing import cost
    >>> cost(log_softmax_as_is, (4, 1000))
    Cost(allocated=8000, saved=8000, backward=8000)
    """
    node = record("LogSoftmax", (x,), same_as_input)
    keep_input(node, x)
    steps = (OUTPUTS,) if x.is_contiguous() else (OUTPUTS, Buffer("input", x.shape, x.dtype))
    out = run(x.tape, steps, lambda: new(x.tape, x.shape, x.dtype, op="log_softmax"))
    save(node, out)
    return made_by(out, node)


def nll_loss(x: Sym, target: Sym) -> Sym:
    """Return the mean negative log-likelihood of x [T, V] at labels [T]: two scalars, the loss and its total weight.

    Saves x, in fp32 under autocast, labels (8 bytes each) and the total weight: backward divides by it and writes
    -1/weight at each label into zeros as large as x. Source: ATen/native/cuda/Loss.cu (nll_loss_forward), torch
    tools/autograd/derivatives.yaml.

    >>> from oomph.tape.testing import cost, fp32, ids
    >>> cost(nll_loss, fp32(4, 1000), ids(4))
    Cost(allocated=8, saved=16036, backward=16000)
    """
    x = in_fp32(x)
    node = record("NllLoss", (x,), same_as_input)
    save(node, x, target)
    out = new(x.tape, (), x.dtype, op="nll_loss")
    total_weight = new(x.tape, (), x.dtype, op="nll_loss")
    save(node, total_weight)
    return made_by(out, node)


def cross_entropy(x: Sym, target: Sym) -> Sym:
    """Return F.cross_entropy of logits [T, V] and labels [T]: log_softmax, then nll_loss.

    Both share one saved tensor of the logits' size; backward makes two (the gradients of nll_loss and of log_softmax).
    Under autocast logits of 16 bit keep their dtype in log_softmax, which is asked for it, and are copied to fp32 for
    nll_loss: 2 and 4 bytes saved for each. Source: ATen/native/LossNLL.cpp, cross_entropy_loss_symint.

    >>> from oomph.tape.testing import cost, fp32, ids
    >>> cost(cross_entropy, fp32(4, 1000), ids(4))
    Cost(allocated=16008, saved=16036, backward=32000)
    >>> from oomph.tape.tape import Tape, autocast
    >>> tape = Tape()
    >>> with autocast(tape, "bf16"):
    ...     cost(cross_entropy, (4, 1000), ids(4), tape=tape)
    Cost(allocated=24008, saved=24036, backward=32000)
    """
    scores = log_softmax_as_is(x)
    return nll_loss(scores, target)


def cross_entropy_of_rows(x: Sym, target: Sym) -> Sym:
    """Return F.cross_entropy(x, target, reduction="none") of logits [T, V] and labels [T]: a number per row.

    Saves what cross_entropy saves, and backward makes the same two tensors. Source: ATen/native/cuda/Loss.cu,
    nll_loss_forward_out_cuda_template.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(cross_entropy_of_rows, (4, 1000), ids(4))
    Cost(allocated=8010, saved=8034, backward=16000)
    """
    x = in_fp32(log_softmax_as_is(x))
    node = record("NllLoss", (x,), same_as_input)
    save(node, x, target)
    out = new(x.tape, (x.shape[0],), x.dtype, op="nll_loss")
    total_weight = new(x.tape, (), x.dtype, op="nll_loss")
    save(node, total_weight)
    return made_by(out, node)


def mse_loss(x: Sym, target: Sym) -> Sym:
    """Return F.mse_loss(x, target), the mean of the squared differences: a scalar, in fp32 under autocast.

    Saves x and the target; backward makes one tensor of x's size. The differences are a tensor for a moment, which a
    trace does not see. Source: ATen/native/Loss.cpp, mse_loss_out; torch tools/autograd/derivatives.yaml (mse_loss).

    >>> from oomph.tape.testing import Given, cost
    >>> cost(mse_loss, (8,), Given((8,), trains=False))
    Cost(allocated=18, saved=32, backward=16)
    """
    target = in_fp32(target)
    x = in_fp32(x)
    node = record("MseLoss", (x,), same_as_input)
    save(node, x, target)
    squares = (Buffer("squares", x.shape, x.dtype), OUTPUTS)
    return made_by(run(x.tape, squares, lambda: new(x.tape, (), x.dtype, op="mse_loss")), node)


MOST_FUSED = 2**16  # columns that one program of the Triton kernel takes: MAX_FUSED_SIZE


def fused_cross_entropy(logits: Sym, target: Sym) -> Sym:
    """Return Unsloth's Fast_CrossEntropyLoss of logits [T, V] and labels [T]: losses [T], fp32.

    Saves the logits, log-sum-exps [T] fp32 and the labels; backward writes the gradient over the logits, so it makes
    nothing. More than 65536 columns are done in parts: a log-sum-exp for each and their sum, and a boolean per token.
    Source: fms-acceleration-foak 0.7, kernels/unsloth/cross_entropy_loss.py, Fast_CrossEntropyLoss.

    >>> from oomph.tape.testing import cost, fp32, ids
    >>> cost(fused_cross_entropy, fp32(4, 1000), ids(4)), cost(fused_cross_entropy, fp32(4, 70000), ids(4)).allocated
    (Cost(allocated=32, saved=16048, backward=0), 68)
    """
    tape, (tokens, vocab) = logits.tape, logits.shape
    node = record("FastCrossEntropyLoss", (logits,), _written_over)
    losses = new(tape, (tokens,), "fp32", op="empty")
    if yes(vocab <= MOST_FUSED):
        logsumexp = new(tape, (tokens,), "fp32", op="empty")
    else:
        logsumexp = new(tape, (tokens, (vocab + MOST_FUSED - 1) // MOST_FUSED), "fp32", op="empty")
        logsumexp = new(tape, (tokens,), "fp32", op="logsumexp")
        ignored = new(tape, (tokens,), "bool", op="eq")
        del ignored
    save(node, logits, logsumexp, target)
    return made_by(losses, node)


def _written_over(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    logits: Sym = saved[0]
    return [logits]
