"""fms-acceleration's fused adapters beside 4-bit maps: Unsloth's of 2024 with dropout, which keeps what was dropped.

Shape letters: T tokens, K width of the input, N of the output, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oomph.ops.elementwise import cast, dropout, grad
from oomph.ops.indexing import reshaped, swapped
from oomph.ops.kernel import let_go, seen
from oomph.ops.quantised import FourBitWeight
from oomph.ops.unsloth import Adapted
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import product
from oomph.tape.sym import Sym, new
from oomph.tape.tape import Tape


def dropped_lora_qkv(x: Sym, maps: Sequence[Adapted], rate: float) -> tuple[Sym, ...]:
    """Return LoRA_QKV of fms-acceleration: x [B, S, K] through adapted 4-bit maps for query, key and value.

    Saves x, the adapters and for each map what its dropout left of x, which without dropout is x. Backward makes the
    adapters' gradients in x's dtype and x's over x; each map adds a mask of what was dropped and two products as large
    as x. Source: fms-acceleration-foak 0.7, fused_ops/unsloth_lora/bnb/fast_lora.py, utils.py, matmul_lora.

    >>> from oomph.tape.testing import cost, frozen
    >>> def adapt(x, absmax, a, b):
    ...     q, k, v = dropped_lora_qkv(x, [Adapted(FourBitWeight((256, 256), absmax, "bf16"), a, b)] * 3, 0.1)
    ...     return q + k + v
    >>> cost(adapt, (1, 4, 256), frozen(1024), (8, 256), (256, 8))
    Cost(allocated=443584, saved=16384, backward=462400)
    """
    node = record("LoRA_QKV", (x, *(each for one in maps for each in (one.a, one.b))), _qkv_backward, outputs=len(maps))
    with x.tape.no_grad():
        outs, dropped = [], []
        for one in maps:
            out, left = _matmul_lora(x, one, rate)
            outs.append(out)
            dropped.append(left)
            del out, left
    save(node, x, *(each for one in maps for each in (one.a, one.b)), *dropped)
    if node is not None:
        node.context = tuple(maps)
    return tuple(made_by(out, node, at) for at, out in enumerate(outs))


def dropped_lora_map(x: Sym, one: Adapted, rate: float) -> Sym:
    """Return LoRA_W of fms-acceleration: x [B, S, K] through one adapted 4-bit map to [B, S, N].

    Saves the adapter, x and what dropout left of it. Backward makes the adapter's gradients in x's dtype and a new one
    for x, to which a masked product is added. Source: fms-acceleration-foak 0.7,
    fused_ops/unsloth_lora/bnb/fast_lora.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> def adapt(x, absmax, a, b):
    ...     return dropped_lora_map(x, Adapted(FourBitWeight((512, 256), absmax, "bf16"), a, b), 0.1)
    >>> cost(adapt, (1, 4, 256), frozen(2048), (8, 256), (512, 8))
    Cost(allocated=289856, saved=16384, backward=294080)
    """
    node = record("LoRA_W", (x, one.a, one.b), _map_backward)
    with x.tape.no_grad():
        out, dropped = _matmul_lora(x, one, rate)
    save(node, one.a, one.b, x, dropped)
    if node is not None:
        node.context = one
    return made_by(out, node)


def _dequantised(weight: Sym | FourBitWeight, tape: Tape) -> Sym:
    """Mirror fast_dequantize: the whole map, its scales in fp32 beside it while it is made."""
    if isinstance(weight, Sym):
        raise TypeError("these operations are for 4-bit maps")
    out = new(tape, weight.shape, weight.dtype, op="empty")
    scales = new(tape, weight.absmax.shape, "fp32", op="empty")
    del scales
    return out


def _matmul_lora(x: Sym, one: Adapted, rate: float) -> tuple[Sym, Sym]:
    """Mirror matmul_lora: x [B, S, K] times the map and the adapter's share added to it, and what dropout left."""
    whole = _dequantised(one.weight, x.tape)
    rows = reshaped(x, (product(x.shape[:-1]), x.shape[-1]))
    out = new(x.tape, (rows.shape[0], whole.shape[0]), x.dtype, op="mm")
    del whole
    left = dropout(rows, rate)
    share = _low_rank(left, one.a, one.b)
    del share
    return seen(out, (*x.shape[:-1], out.shape[-1])), left


def _low_rank(x: Sym, a: Sym, b: Sym) -> Sym:
    """Return (x Aᵀ) (scale Bᵀ) [T, N] of x [T, K], A [R, K] and B [N, R], as the expression is written."""
    low = cast(a, x.dtype)
    narrow = new(x.tape, (x.shape[0], a.shape[0]), x.dtype, op="mm")
    del low
    low = cast(b, x.dtype)
    scaled = new(x.tape, b.shape, x.dtype, op="mul")
    del low
    out = new(x.tape, (x.shape[0], b.shape[0]), x.dtype, op="mm")
    del narrow, scaled
    return out


def _of_adapter(x: Sym, gradient: Sym, a: Sym, b: Sym) -> tuple[Sym, Sym]:
    """Return the gradients [R, K] and [N, R] of an adapter, of what it was given x [T, K] and its output's [T, N]."""
    low = cast(b, x.dtype)
    narrow = new(x.tape, (x.shape[0], a.shape[0]), x.dtype, op="mm")
    del low
    of_a = _turned(new(x.tape, a.shape[::-1], x.dtype, op="mm"))
    del narrow
    low = cast(a, x.dtype)
    narrow = new(x.tape, (x.shape[0], a.shape[0]), x.dtype, op="mm")
    del low
    of_b = _turned(new(x.tape, b.shape[::-1], x.dtype, op="mm"))
    del narrow
    return of_a, of_b


def _turned(x: Sym) -> Sym:
    """Return a gradient as the transpose that its parameter's gradient cannot lie as."""
    found = swapped(x, 0, 1)
    found.is_view = False
    return found


def _add_dropped(x: Sym, gradient: Sym, a: Sym, b: Sym) -> None:
    """Play dX += (x != 0) * (dY B (scale A)), all but the sum as large as x [T, K]."""
    kept = new(x.tape, x.shape, "bool", op="ne")
    low = cast(b, x.dtype)
    narrow = new(x.tape, (gradient.shape[0], a.shape[0]), x.dtype, op="mm")
    del low
    low = cast(a, x.dtype)
    scaled = new(x.tape, a.shape, x.dtype, op="mul")
    del low
    share = new(x.tape, x.shape, x.dtype, op="mm")
    del narrow, scaled
    masked = new(x.tape, x.shape, x.dtype, op="mul")
    del kept, share
    del masked


def _rows(x: Sym) -> Sym:
    return reshaped(x, (product(x.shape[:-1]), x.shape[-1]))


def _qkv_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    maps: tuple[Adapted, ...] = node.context
    count = len(maps)
    x, adapters, dropped = saved[0], saved[1 : 1 + 2 * count], saved[1 + 2 * count :]
    tape = x.tape
    incoming = [_rows(grad(gradients, at)) for at in range(count)]
    made: list[Sym] = []
    for at in range(count):
        made.extend(_of_adapter(dropped[at], incoming[at], adapters[2 * at], adapters[2 * at + 1]))
    for at, one in enumerate(maps):
        whole = _dequantised(one.weight, tape)
        if at:  # the first product is written over x
            product_of_map = new(tape, (incoming[at].shape[0], x.shape[-1]), x.dtype, op="mm")
            del product_of_map
        del whole
        _add_dropped(dropped[at], incoming[at], adapters[2 * at], adapters[2 * at + 1])
    found: Gradients = [seen(x, x.shape), *made]
    del made, x
    for locals_of_frame in (incoming, adapters, dropped, saved):
        let_go(locals_of_frame)
    while gradients:  # a tuple of arguments: the last dies first
        gradients.pop()
    return found


def _map_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    one: Adapted = node.context
    a, b, x, dropped = saved
    gradient = _rows(grad(gradients))
    of_a, of_b = _of_adapter(dropped, gradient, a, b)
    whole = _dequantised(one.weight, x.tape)
    own = new(x.tape, (gradient.shape[0], x.shape[-1]), x.dtype, op="mm")
    del whole
    _add_dropped(dropped, gradient, a, b)
    found: Gradients = [seen(own, x.shape), of_a, of_b]
    del own, of_a, of_b, x, dropped, gradient
    let_go(saved)
    gradients.clear()
    return found
