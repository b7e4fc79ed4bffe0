"""Cross entropy as torch computes it: log-softmax, then negative log-likelihood."""

from __future__ import annotations

from oomph.ops.elementwise import in_fp32, same_as_input
from oomph.tape.autograd import made_by, record, save
from oomph.tape.sym import Sym, new


def log_softmax(x: Sym) -> Sym:
    """Return log_softmax of logits [T, V] over V, contiguous, in x's dtype.

    Saves the result, as large as the logits: backward is g - exp(result) · sum(g), another tensor of that size. Source:
    torch tools/autograd/derivatives.yaml (_log_softmax), ATen/native/cuda/SoftMax.cu.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(log_softmax, fp32(4, 1000))
    Cost(allocated=16000, saved=16000, backward=16000)
    """
    node = record("LogSoftmax", (x,), same_as_input)
    out = new(x.tape, x.shape, x.dtype, op="log_softmax")
    save(node, out)
    return made_by(out, node)


def nll_loss(x: Sym, target: Sym) -> Sym:
    """Return the mean negative log-likelihood of x [T, V] at labels [T]: two scalars, the loss and its total weight.

    Saves x, labels (8 bytes each) and the total weight: backward divides by it and writes -1/weight at each label into
    zeros as large as x. Source: ATen/native/cuda/Loss.cu (nll_loss_forward), torch tools/autograd/derivatives.yaml.

    >>> from oomph.tape.testing import cost, fp32, ids
    >>> cost(nll_loss, fp32(4, 1000), ids(4))
    Cost(allocated=8, saved=16036, backward=16000)
    """
    node = record("NllLoss", (x,), same_as_input)
    save(node, x, target)
    out = new(x.tape, (), x.dtype, op="nll_loss")
    total_weight = new(x.tape, (), x.dtype, op="nll_loss")
    save(node, total_weight)
    return made_by(out, node)


def cross_entropy(x: Sym, target: Sym) -> Sym:
    """Return F.cross_entropy of logits [T, V] and labels [T]: log_softmax, then nll_loss, in fp32 under autocast.

    Both share one saved tensor of the logits' size; backward makes two (the gradients of nll_loss and of log_softmax).
    Source: ATen/native/LossNLL.cpp, cross_entropy_loss.

    >>> from oomph.tape.testing import cost, fp32, ids
    >>> cost(cross_entropy, fp32(4, 1000), ids(4))
    Cost(allocated=16008, saved=16036, backward=32000)
    """
    x = in_fp32(x)
    return nll_loss(log_softmax(x), target)
