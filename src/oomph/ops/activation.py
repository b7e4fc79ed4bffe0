"""Activation functions by the names configs give them (transformers 5.23, activations.py, ACT2FN)."""

from __future__ import annotations

from collections.abc import Callable

from oomph.errors import UnsupportedError
from oomph.ops.elementwise import gelu_new, result, silu, tanh, with_saved
from oomph.tape.autograd import made_by, record, save
from oomph.tape.sym import Sym


def gelu(x: Sym) -> Sym:
    """Return F.gelu(x), shaped like x, exact or with tanh: one kernel each way, unlike gelu_new.

    Saves x, from which backward computes the slope. Source: torch tools/autograd/derivatives.yaml (gelu).

    >>> from oomph.tape.testing import cost
    >>> cost(gelu, (4, 256))
    Cost(allocated=2048, saved=2048, backward=2048)
    """
    node = record("Gelu", (x,), with_saved)
    save(node, x)
    return made_by(result("gelu", x.shape, x.dtype, x), node)


def relu(x: Sym) -> Sym:
    """Return relu(x), shaped like x.

    Saves the result, not x: backward is g where it is above 0. Source: torch tools/autograd/derivatives.yaml (relu).

    >>> from oomph.tape.testing import cost
    >>> cost(relu, (4, 256))
    Cost(allocated=2048, saved=2048, backward=2048)
    """
    node = record("Relu", (x,), with_saved)
    out = result("relu", x.shape, x.dtype, x)
    save(node, out)
    return made_by(out, node)


ACTIVATIONS: dict[str, Callable[[Sym], Sym]] = {
    "gelu": gelu,
    "gelu_new": gelu_new,
    "gelu_python_tanh": gelu,
    "gelu_pytorch_tanh": gelu,
    "relu": relu,
    "silu": silu,
    "swish": silu,
    "tanh": tanh,
}


def activate(name: str, x: Sym) -> Sym:
    """Return x through the activation of that name, shaped like x; refused where there is no rule for it.

    Saves what that activation saves. Source: transformers 5.23, activations.py, ACT2FN.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: activate("swish", x), (4, 256))
    Cost(allocated=2048, saved=2048, backward=2048)
    """
    if name not in ACTIVATIONS:
        raise UnsupportedError(f"oomph cannot play the activation {name[:40]!r} yet.", "Trace it instead: oomph trace.")
    return ACTIVATIONS[name](x)
