"""Unsloth's autograd functions: a norm, rotary embeddings, and adapters with the maps beneath them as one operation.

An adapted map saves its input and nothing of the adapter's; gradients are written over saved inputs where they can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from oomph.ops.elementwise import cast, grad
from oomph.ops.indexing import contiguous, reshaped, swapped
from oomph.ops.kernel import let_go, seen
from oomph.ops.quantised import FourBitWeight
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import product, yes
from oomph.tape.sym import Sym, new
from oomph.tape.tape import Tape


@dataclass(frozen=True)
class Adapted:
    """A frozen map [N, K], packed or not, with the two maps of its adapter, a [R, K] and b [N, R]."""

    weight: Sym | FourBitWeight
    a: Sym
    b: Sym


def unsloth_norm(x: Sym, weight: Sym) -> Sym:
    """Return Unsloth's Fast_RMS_Layernorm of x [.., H] with a frozen scale [H], as its decoder layers call it.

    Saves x as it came, the scale and an fp32 number per row. Backward writes x's gradient over the incoming one.
    Source: unsloth 2026.10.9, kernels/rms_layernorm.py, with reuse_grad.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(unsloth_norm, (4, 256), frozen(256))
    Cost(allocated=2064, saved=2576, backward=0)
    """
    node = record("Fast_RMS_Layernorm", (x,), _norm_backward)
    rows = product(x.shape[:-1])
    with x.tape.no_grad():
        kept = contiguous(reshaped(x, (rows, x.shape[-1])))
    out = new(x.tape, (rows, x.shape[-1]), x.dtype, op="empty")
    inverse = new(x.tape, (rows,), "fp32", op="empty")
    save(node, kept, weight, inverse)
    return made_by(seen(out, x.shape), node)


def _norm_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    rows = contiguous(reshaped(gradient, (product(gradient.shape[:-1]), gradient.shape[-1])))
    let_go(saved)
    return [seen(rows, gradient.shape)]


def unsloth_rotary_both(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Return Unsloth's rotary embedding of q [B, N, S, D] and k [B, K, S, D] with tables cos and sin [1, S, D]: both
    turned where they lie as [B, S, N, D].

    Saves no tensor; the tables live as long as the graph. Backward makes new gradients, laid out so. Source: unsloth
    2026.10.9, kernels/rope_embedding.py, Fast_RoPE_Embedding_QK_Positions.

    >>> from oomph.tape.testing import cost, transposed
    >>> turn = transposed(lambda q, k: unsloth_rotary_both(q, k, *[q.tape.empty((1, 4, 64), "bf16")] * 2))
    >>> cost(turn, (2, 4, 8, 64), (2, 4, 2, 64))
    Cost(allocated=512, saved=0, backward=10240)
    """
    node = record("Fast_RoPE_Embedding_QK_Positions", (q, k), _rotary_backward, outputs=2)
    turned = [one.detach() if swapped(one, 1, 2).is_contiguous() else _in_order(one) for one in (q, k)]
    if node is not None:
        node.context = {"cos": cos.detach(), "sin": sin.detach()}
    return made_by(turned[0], node), made_by(turned[1], node, 1)


def _in_order(x: Sym) -> Sym:
    batch, heads, length, size = x.shape
    found = swapped(new(x.tape, (batch, length, heads, size), x.dtype, op="empty"), 1, 2)
    found.is_view = False
    return found


def _rotary_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    turned: Gradients = [_in_order(grad(gradients, at)) for at in range(2)]
    while gradients:  # a tuple of arguments: the last dies first
        gradients.pop()
    return turned


def _whole(weight: Sym | FourBitWeight, tape: Tape, shared: bool) -> Sym:
    """Return a map as one tensor: itself, or dequantised, into the buffer all maps share or into a new one."""
    if isinstance(weight, Sym):
        return weight
    if not shared:
        return new(tape, weight.shape, weight.dtype, op="empty")
    count = weight.shape[0] * weight.shape[1]
    if tape.scratch is None or yes(tape.scratch.shape[0] < count):
        tape.scratch = tape.note(new(tape, (count,), weight.dtype, op="empty"), "kept by a module")
    return Sym(weight.shape, weight.dtype, (weight.shape[1], 1), tape.scratch.storage)


def _matmul_lora(x: Sym, one: Adapted, shared: bool = True) -> Sym:
    """Mirror matmul_lora: x [T, K] times the map, and the adapter's share added in place."""
    whole = _whole(one.weight, x.tape, shared)
    out = new(x.tape, (x.shape[0], whole.shape[0]), x.dtype, op="mm")
    del whole
    low = cast(one.a, x.dtype)
    narrow = new(x.tape, (x.shape[0], one.a.shape[0]), x.dtype, op="mm")
    del low
    low = cast(one.b, x.dtype)
    del low, narrow
    return out


def _flat(x: Sym) -> Sym:
    return reshaped(x, (product(x.shape[:-1]), x.shape[-1]))


def lora_qkv(x: Sym, maps: Sequence[Adapted]) -> tuple[Sym, ...]:
    """Return Unsloth's LoRA_QKV: x [B, S, H] through adapted maps for query, key and value.

    Saves x and the adapters. Backward makes the adapters' gradients in x's dtype, x's over x, with one map dequantised
    at a time. In the forward pass all maps are dequantised into one buffer, which stays. Source: unsloth 2026.10.9,
    kernels/fast_lora.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> def adapt(x, w, a, b):
    ...     q, k, v = lora_qkv(x, [Adapted(w, a, b)] * 3)
    ...     return q + k + v
    >>> cost(adapt, (1, 4, 256), frozen(256, 256), (8, 256), (256, 8))
    Cost(allocated=10432, saved=10240, backward=24960)
    """
    node = record("LoRA_QKV", (x, *(each for one in maps for each in (one.a, one.b))), _qkv_backward, outputs=len(maps))
    with x.tape.no_grad():
        rows = _flat(x)
        outs = [_matmul_lora(rows, one) for one in maps]
    del rows
    save(node, x, *(each for one in maps for each in (one.a, one.b)))
    if node is not None:
        node.context = tuple(maps)
    return tuple(made_by(seen(out, (*x.shape[:-1], out.shape[-1])), node, at) for at, out in enumerate(outs))


def _qkv_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    maps: tuple[Adapted, ...] = node.context
    x, tape = saved[0], saved[0].tape
    incoming = [_flat(grad(gradients, at)) for at in range(len(maps))]
    low = [cast(each, x.dtype) for each in saved[1:]]
    made = [new(tape, each.shape, each.dtype, op="empty_like") for each in low]
    narrow = [
        new(tape, (each.shape[0], one.a.shape[0]), x.dtype, op="mm") for each, one in zip(incoming, maps, strict=True)
    ]
    for one in maps:
        transient = new(tape, (one.a.shape[0], incoming[0].shape[0]), x.dtype, op="mm")
        del transient
    for one in maps:
        whole = _whole(one.weight, tape, shared=False)
        del whole
    found: Gradients = [seen(x, x.shape), *made]
    del made, x
    for locals_of_frame in (incoming, low, saved, narrow):
        let_go(locals_of_frame)
    while gradients:  # a tuple of arguments: the last dies first
        gradients.pop()
    return found


def lora_map(x: Sym, one: Adapted) -> Sym:
    """Return Unsloth's LoRA_W: x [B, S, K] through one adapted map to [B, S, N].

    Saves the adapter and x. Backward makes the adapter's gradients in x's dtype and a new one for x. Source: unsloth
    2026.10.9, kernels/fast_lora.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x, w, a, b: lora_map(x, Adapted(w, a, b)), (1, 4, 256), frozen(512, 256), (8, 256), (512, 8))
    Cost(allocated=4160, saved=14336, backward=14464)
    """
    node = record("LoRA_W", (x, one.a, one.b), _map_backward)
    with x.tape.no_grad():
        out = _matmul_lora(_flat(x), one)
    save(node, one.a, one.b, x)
    if node is not None:
        node.context = one
    return made_by(seen(out, (*x.shape[:-1], out.shape[-1])), node)


def _map_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    one: Adapted = node.context
    gradient, x = _flat(grad(gradients)), saved[2]
    tape = x.tape
    a, b = cast(saved[0], x.dtype), cast(saved[1], x.dtype)
    of_a = new(tape, a.shape, a.dtype, op="empty_like")
    of_b = new(tape, b.shape, b.dtype, op="empty_like")
    narrow = new(tape, (gradient.shape[0], a.shape[0]), x.dtype, op="mm")
    transient = new(tape, (a.shape[0], gradient.shape[0]), x.dtype, op="mm")
    del transient
    whole = _whole(one.weight, tape, shared=False)
    own = new(tape, (gradient.shape[0], x.shape[-1]), x.dtype, op="mm")
    del whole
    found: Gradients = [seen(own, x.shape), of_a, of_b]
    del own, of_a, of_b, x, gradient
    del a
    del b
    let_go(saved)
    del narrow
    gradients.clear()
    return found


def lora_mlp(x: Sym, gate: Adapted, up: Adapted, down: Adapted) -> Sym:
    """Return Unsloth's LoRA_MLP: down(silu(gate(x)) · up(x)) of x [B, S, H], all three maps adapted.

    Saves the adapters, x, and what gate and up made; their product is made again in backward, over the gradient, and
    gradients over both. x's gradient is written over x. Source: unsloth 2026.10.9, kernels/fast_lora.py, swiglu.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> def mlp(x, wide, a, b, narrow, c, d):
    ...     return lora_mlp(x, Adapted(wide, a, b), Adapted(wide, a, b), Adapted(narrow, c, d))
    >>> shapes = frozen(512, 256), (8, 256), (512, 8), frozen(256, 512), (8, 512), (256, 8)
    >>> cost(mlp, (1, 4, 256), *shapes)
    Cost(allocated=14528, saved=34816, backward=41408)
    """
    maps = (gate, up, down)
    adapters = [each for one in maps for each in (one.a, one.b)]
    node = record("LoRA_MLP", (x, *adapters), _mlp_backward)
    with x.tape.no_grad():
        rows = _flat(x)
        e = seen(_matmul_lora(rows, gate), (*x.shape[:-1], gate.b.shape[0]))
        g = seen(_matmul_lora(rows, up), (*x.shape[:-1], up.b.shape[0]))
        h = new(x.tape, e.shape, e.dtype, op="empty")
        out = _matmul_lora(_flat(h), down)
    save(node, *adapters, x, e, g)
    if node is not None:
        node.context = maps
    del rows, h
    if node is None:  # of a tuple that nothing takes over the last dies first
        del g
    return made_by(seen(out, (*x.shape[:-1], out.shape[-1])), node)


def _mlp_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gate, up, down = node.context
    gradient = _flat(grad(gradients))
    *adapters, x, e, g = saved
    tape, rows, rank = x.tape, gradient.shape[0], down.a.shape[0]
    low = [cast(each, x.dtype) for each in adapters]
    whole = _whole(down.weight, tape, shared=True)
    h = new(tape, (rows, down.a.shape[1]), x.dtype, op="mm")
    del whole
    transient = new(tape, (rows, rank), x.dtype, op="mm")
    del transient
    made = {}
    for at in (4, 5, 0, 1, 2, 3):  # down's, gate's, up's
        made[at] = new(tape, low[at].shape, low[at].dtype, op="empty_like")
    transient = new(tape, (rows, rank), x.dtype, op="mm")
    del transient
    transient = new(tape, (rank, rows), x.dtype, op="mm")
    del transient
    of_up = new(tape, (rows, up.a.shape[0]), x.dtype, op="mm")  # noqa: F841
    of_gate = new(tape, (rows, gate.a.shape[0]), x.dtype, op="mm")  # noqa: F841
    for one in (up, gate):
        transient = new(tape, (one.a.shape[0], rows), x.dtype, op="mm")
        del transient
    for one in (up, gate):
        whole = _whole(one.weight, tape, shared=False)
        del whole
    found: Gradients = [seen(x, x.shape), *(made[at] for at in range(6))]
    del made, gradient, adapters
    del x, e, g
    let_go(low)
    while len(saved) > 2:
        saved.pop(0)
    del h
    let_go(saved)  # what gate and up made: their gradients' names are the youngest
    gradients.clear()
    return found
