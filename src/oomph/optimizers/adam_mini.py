"""Adam-mini: a first moment of every element, and a second one for each head, row, or parameter, which its name tells.

Source: adam-mini 1.1.1, adam_mini.py, for one GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.errors import UnsupportedError
from oomph.ops.elementwise import result
from oomph.optimizers.settings import Settings
from oomph.tape.sizes import Size, product, yes
from oomph.tape.sym import Sym, new

STATES = "within"
HEADS = ("k_proj", "q_proj", "wq", "wk", "query", "key")  # wqk_names
ROWS = (
    "embed", "embd", "wte", "lm_head", "output", "final_layer", "v_proj", "wv", "value", "o_proj", "wo", "attn.proj",
    "feed_forward", "linear", "mlp",
)  # fmt: skip  # embd_names, output_names, wv_names, attn_proj_names, mlp_names


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return m like the parameter, and in its dtype vmean: a number per head of queries and keys, per row of other
    maps and tables, one of anything else, and as many as elements of a bias (v).

    Raises UnsupportedError where the real one fails: rows of no matrix, queries and keys of no whole number of heads.
    Source: adam_mini/adam_mini.py, step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> cost(lambda one: state(named("adam-mini"), one), (4, 256)).allocated  # of no name: one block
    2050
    """
    tape, dtype = parameter.tape, parameter.dtype
    m = new(tape, parameter.shape, dtype, parameter.strides, op="m")
    if _part(parameter) == "bias":
        return [m, new(tape, parameter.shape, dtype, parameter.strides, op="v")]
    return [m, new(tape, _means(settings, parameter), dtype, op="vmean")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update of one parameter after another: its squared gradient, the means of it, the update, and that
    negated; update and means live until the next parameter's take their place.

    Source: adam_mini/adam_mini.py, step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     one.grad = one
    ...     step(named("adam-mini"), [one], [[one, one]])
    ...     one.grad = None
    >>> cost(update, frozen(4, 256)).allocated  # three times 2048, six scalars
    6156
    """
    h = stepsize = tmp_lr = update = block_numel = None
    for p, kept in zip(parameters, states, strict=True):
        if p.grad is None:
            continue
        part = _part(p)
        if not kept:
            if part == "block":
                block_numel = new(p.tape, (), "fp32", op="_to_copy")
                kept += _of_block(p)
            else:
                kept += state(settings, p)
        if part == "bias":
            h = result("div", p.shape, p.dtype, result("sqrt", p.shape, p.dtype, kept[1]))
            stepsize = None  # a number
            continue
        means = _means(settings, p)
        tmp_lr = _mean(p, means)
        if part == "block":
            tmp_lr = result("div", (), p.dtype, tmp_lr)
        h = result("div", means, p.dtype, new(p.tape, means, p.dtype, op="sqrt"))
        stepsize = result("mul", means, p.dtype, result("reciprocal", means, p.dtype, h))
        update = result("mul", p.shape, p.dtype, kept[0])
        result("neg", p.shape, p.dtype, update)
    del h, stepsize, tmp_lr, update, block_numel


def _part(parameter: Sym) -> str:
    """Tell by its name how a parameter is divided."""
    name = parameter.made_for.lower()
    if "bias" in name:
        return "bias"
    if any(one in name for one in HEADS):
        return "heads"
    return "rows" if any(one in name for one in ROWS) else "block"


def _means(settings: Settings, p: Sym) -> tuple[Size, ...]:
    """Return the shape of second moments."""
    part = _part(p)
    if part == "block":
        return ()
    elements = product(p.shape)
    if part == "rows" and len(p.shape) == 2:
        return (p.shape[0], 1)
    if part == "heads" and yes(elements % settings.head_numel == 0):
        return (elements // settings.head_numel, 1)
    raise UnsupportedError(f"Adam-mini fails on {p.made_for}: it is not made of {part}.", "Choose another optimizer.")


def _mean(p: Sym, means: Sequence[Size]) -> Sym:
    squared = result("mul", p.shape, p.dtype, p)
    made = new(p.tape, means, p.dtype, op="mean")
    del squared
    return made


def _of_block(p: Sym) -> list[Sym]:
    m = new(p.tape, p.shape, p.dtype, p.strides, op="m")
    total = _mean(p, ())
    vmean = result("zeros_like", (), p.dtype, total)
    return [m, vmean]
