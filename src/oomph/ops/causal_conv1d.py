"""The package causal-conv1d: a depthwise convolution over time and the activation behind it in one kernel.

Shape letters: B batch, C channels, S sequence, K kernel.
"""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import cast, grad
from oomph.ops.indexing import contiguous
from oomph.ops.kernel import end_kept, let_go
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save
from oomph.tape.sizes import yes
from oomph.tape.sym import Sym, new


def causal_conv1d(x: Sym, weight: Sym, bias: Sym | None = None, seq_idx: Sym | None = None) -> Sym:
    """Return CausalConv1dFn of x [B, C, S] with weight [C, K] and bias [C], if any: a new tensor in x's layout and
    dtype, whatever the weight's dtype; autocast passes it by.

    Saves x, copied first if neither its channels nor its tokens lie side by side, and the weight, and
    `seq_idx` [B, S] int32, to which sequence each token belongs, if it is told. Backward makes x's
    gradient and fp32 sums for weight and bias, cast where these are narrower; all of them also where nobody wants
    them. Source: causal-conv1d 1.7, causal_conv1d_interface.py, cpp_functions.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(causal_conv1d, (2, 16, 64), (16, 4)), cost(causal_conv1d, (2, 16, 64), frozen(16, 4), frozen(16))
    (Cost(allocated=4096, saved=4224, backward=4480), Cost(allocated=4096, saved=4256, backward=4576))
    """
    node = record("CausalConv1dFn", (x, weight) if bias is None else (x, weight, bias), _conv_backward)
    with x.tape.no_grad():
        kept: list[Any] = [_lined_up(x), weight, bias, seq_idx]
        out = like(kept[0], x.dtype, "empty_like")
    save(node, *kept)
    if node is not None:
        node.in_python = True
    end_kept(kept, node)
    return made_by(out, node)


def _lined_up(x: Sym) -> Sym:
    """Return x [B, C, S] if channels or tokens lie side by side, else a copy in order."""
    return x if yes(x.strides[2] == 1) or yes(x.strides[1] == 1) else contiguous(x)


def _conv_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = _lined_up(grad(gradients))
    x, weight, bias, seq_idx = saved
    own = like(x, x.dtype, "empty_like")
    sums = [new(x.tape, one.shape, "fp32", op="zeros_like") for one in (weight, bias) if one is not None]
    found: Gradients = [own]
    found += [cast(sums.pop(0), dtype) for _, dtype in node.inputs[1:]]
    del own
    let_go(saved)
    del x, weight, bias, seq_idx
    del gradient
    gradients.clear()
    return found


def causal_conv1d_update(x: Sym, conv_state: Sym, weight: Sym, bias: Sym | None = None) -> Sym:
    """Return causal_conv1d_update of tokens x [B, C, S] behind those of conv_state [B, C, K], which is written in
    place: one tensor like x, no gradients. Source: causal-conv1d 1.7, cpp_functions.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(causal_conv1d_update, frozen(2, 16, 1), frozen(2, 16, 4), frozen(16, 4))
    Cost(allocated=64, saved=0, backward=0)
    """
    return like(x, x.dtype, "empty_like")
