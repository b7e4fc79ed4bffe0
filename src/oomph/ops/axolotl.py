"""axolotl's autograd functions for adapters and the maps beneath them: gradients are new tensors, dropout is outside.

Shape letters: T tokens, K width of the input, N of the output, F of an MLP, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oomph.errors import UnsupportedError
from oomph.ops.elementwise import cast, grad, zeros_like
from oomph.ops.indexing import reshaped
from oomph.ops.kernel import end_kept, let_go, seen
from oomph.ops.quantised import FourBitWeight
from oomph.ops.unsloth import Adapted
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import product
from oomph.tape.sym import Sym, new
from oomph.tape.tape import Tape


def adapted_qkv(x: Sym, dropped: Sym | None, maps: Sequence[Adapted]) -> tuple[Sym, ...]:
    """Return axolotl's LoRA_QKV: x [B, S, K] through adapted maps for query, key and value.

    `dropped` is what dropout left of x for all three, None without. Saves both and the adapters in x's dtype. Backward
    makes the adapters' gradients in x's dtype and new ones for x and what was dropped, with one map dequantised at a
    time. Source: axolotl 0.19, kernels/lora.py, kernels/quantize.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> def adapt(x, w, a, b):
    ...     q, k, v = adapted_qkv(x, None, [Adapted(w, a, b)] * 3)
    ...     return q + k + v
    >>> cost(adapt, (1, 4, 256), frozen(256, 256), (8, 256), (256, 8))
    Cost(allocated=10432, saved=10240, backward=27008)
    """
    inputs = (x, *([] if dropped is None else [dropped]), *_adapters(maps))
    node = record("LoRA_QKV", inputs, _qkv_backward, outputs=len(maps))
    with x.tape.no_grad():
        outs = [_matmul_lora(x, one, dropped) for one in maps]
        low = [cast(each, x.dtype) for each in _adapters(maps)]
    save(node, x, x if dropped is None else dropped, *low)
    if node is not None:
        node.context, node.in_python = (tuple(maps), dropped is not None), True
    end_kept(low, node)
    return tuple(made_by(out, node, at) for at, out in enumerate(outs))


def adapted_map(x: Sym, dropped: Sym | None, one: Adapted) -> Sym:
    """Return axolotl's LoRA_O: x [B, S, K] through one adapted map to [B, S, N].

    Saves the adapter in x's dtype, x and what dropout left of it, if any. Backward makes the adapter's gradients in x's
    dtype and new ones for x and for what was dropped. Source: axolotl 0.19, kernels/lora.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> adapt = lambda x, w, a, b: adapted_map(x, None, Adapted(w, a, b))
    >>> cost(adapt, (1, 4, 256), frozen(512, 256), (8, 256), (512, 8))
    Cost(allocated=4160, saved=14336, backward=14464)
    """
    inputs = (x, *([] if dropped is None else [dropped]), one.a, one.b)
    node = record("LoRA_O", inputs, _map_backward)
    with x.tape.no_grad():
        out = _matmul_lora(x, one, dropped)
        low = [cast(one.a, x.dtype), cast(one.b, x.dtype)]
    save(node, *low, x, x if dropped is None else dropped)
    if node is not None:
        node.context, node.in_python = (one, dropped is not None), True
    end_kept(low, node)
    return made_by(out, node)


def adapted_mlp(x: Sym, dropped: Sym | None, gate: Adapted, up: Adapted, down: Adapted) -> Sym:
    """Return axolotl's LoRA_MLP: down(act(gate(x)) · up(x)) of x [B, S, K], all three maps adapted.

    `dropped` is what dropout left of x for gate and up; down's adapter has no dropout. Saves x, what was dropped, what
    gate and up made, and the adapters in x's dtype. Backward makes the product again over the gradient, gradients over
    what gate and up made, and new ones for x and what was dropped. Source: axolotl 0.19, kernels/lora.py, swiglu.py,
    geglu.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> def mlp(x, wide, a, b, narrow, c, d):
    ...     return adapted_mlp(x, None, Adapted(wide, a, b), Adapted(wide, a, b), Adapted(narrow, c, d))
    >>> shapes = frozen(512, 256), (8, 256), (512, 8), frozen(256, 512), (8, 512), (256, 8)
    >>> cost(mlp, (1, 4, 256), *shapes)
    Cost(allocated=14528, saved=34816, backward=43456)
    """
    maps = (gate, up, down)
    inputs = (x, *([] if dropped is None else [dropped]), *_adapters(maps))
    node = record("LoRA_MLP", inputs, _mlp_backward)
    with x.tape.no_grad():
        made = [_matmul_lora(x, one, dropped) for one in (gate, up)]
        hidden = new(x.tape, made[0].shape, made[0].dtype, op="empty")
        out = _matmul_lora(hidden, down, None)
        low = [cast(each, x.dtype) for each in _adapters(maps)]
    save(node, x, x if dropped is None else dropped, *made, *low)
    if node is not None:
        node.context, node.in_python = (maps, dropped is not None), True
    del hidden
    kept = made + low
    del made, low
    end_kept(kept, node)
    return made_by(out, node)


def _adapters(maps: Sequence[Adapted]) -> list[Sym]:
    return [each for one in maps for each in (one.a, one.b)]


def _whole(weight: Sym | FourBitWeight, tape: Tape) -> Sym:
    """Mirror dequantize: the map itself, or a new tensor, and fp32 scales beside it where those are quantised."""
    if isinstance(weight, Sym):
        return weight
    out = new(tape, weight.shape, weight.dtype, op="empty")
    if weight.nested:
        scales = new(tape, weight.absmax.shape, "fp32", op="empty")
        del scales
    return out


def _matmul_lora(x: Sym, one: Adapted, dropped: Sym | None) -> Sym:
    """Mirror matmul_lora: x [B, S, K] times the map, and the adapter's share added in place.

    Raises UnsupportedError where torch refuses it: under autocast the product is in 16 bits, the adapter in x's dtype.
    """
    autocast = x.tape.autocast
    if autocast is not None and not x.tape.autocast_paused and x.dtype != autocast.dtype:
        raise UnsupportedError(
            f"axolotl's LoRA kernels stop at an input in {x.dtype} under autocast: they add it to {autocast.dtype}.",
            "Say --kernels torch, which is lora_mlp_kernel, lora_qkv_kernel and lora_o_kernel: false.",
        )
    whole = _whole(one.weight, x.tape)
    rows = product(x.shape[:-1])
    out = new(x.tape, (rows, whole.shape[0]), x.dtype, op="mm")
    del whole
    low, high = cast(one.a, x.dtype), cast(one.b, x.dtype)
    narrow = new(x.tape, (rows, one.a.shape[0]), x.dtype, op="mm")
    del narrow
    del low
    del high
    return seen(out, (*x.shape[:-1], out.shape[-1]))


def _of_adapter(x: Sym, a: Sym, b: Sym) -> tuple[Sym, Sym, Sym]:
    """Return the output's gradient times B [T, R], and the gradients of A [R, K] and of B [N, R], given x [.., K]."""
    rows, rank = product(x.shape[:-1]), a.shape[0]
    narrow = new(x.tape, (rows, rank), x.dtype, op="mm")
    of_a = new(x.tape, a.shape, x.dtype, op="empty_like")
    of_b = new(x.tape, b.shape, x.dtype, op="empty_like")
    transient = new(x.tape, (rank, rows), x.dtype, op="mm")
    del transient
    return narrow, of_a, of_b


def _flat(x: Sym) -> Sym:
    return reshaped(x, (product(x.shape[:-1]), x.shape[-1]))


def _through(maps: Sequence[Adapted], x: Sym) -> Sym:
    """Return x's gradient [B, S, K], a new tensor to which every map adds its share."""
    whole = _whole(maps[0].weight, x.tape)
    own = new(x.tape, x.shape, x.dtype, op="mm")
    del whole
    for one in maps[1:]:
        whole = _whole(one.weight, x.tape)
        del whole
    return own


def _qkv_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    maps, with_dropout = node.context
    incoming = [_flat(grad(gradients, at)) for at in range(len(maps))]
    x, dropped, *adapters = saved
    let_go(saved)
    narrow, made = [], []
    for at in range(len(maps)):
        of_out, *both = _of_adapter(dropped, adapters[2 * at], adapters[2 * at + 1])
        narrow.append(of_out)
        made.extend(both)
        del of_out, both
    own = _through(maps, x)
    found: Gradients = [own, *([zeros_like(dropped)] if with_dropout else []), *made]
    del own, made
    let_go(incoming)
    del x
    let_go(adapters)
    del dropped  # its transpose is a younger name than the adapters
    let_go(narrow)
    while gradients:  # a tuple of arguments: the last dies first
        gradients.pop()
    return found


def _map_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    one, with_dropout = node.context
    gradient = _flat(grad(gradients))
    a, b, x, dropped = saved
    let_go(saved)
    narrow, of_a, of_b = _of_adapter(dropped, a, b)
    own = _through([one], x)
    found: Gradients = [own]
    if with_dropout:
        share = new(x.tape, x.shape, x.dtype, op="mm")
        found.append(new(x.tape, x.shape, x.dtype, op="mul"))
        del share
    found += [of_a, of_b]
    del own, of_a, of_b, gradient, a
    del b
    del x
    del narrow
    del dropped  # its transpose is a younger name than that product
    gradients.clear()
    return found


def _mlp_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    (gate, up, down), with_dropout = node.context
    gradient = _flat(grad(gradients))
    x, dropped, e, g, *adapters = saved
    let_go(saved)
    tape, rows = x.tape, product(x.shape[:-1])
    whole = _whole(down.weight, tape)
    h = new(tape, (rows, down.a.shape[1]), x.dtype, op="mm")
    del whole
    transient = new(tape, (rows, down.a.shape[0]), x.dtype, op="mm")
    del transient
    of_down, *of_downs = _of_adapter(h, adapters[4], adapters[5])
    of_up, *of_ups = _of_adapter(dropped, adapters[2], adapters[3])
    of_gate, *of_gates = _of_adapter(dropped, adapters[0], adapters[1])
    found: Gradients = [None, *([None] if with_dropout else []), *of_gates, *of_ups, *of_downs]
    if node.needs(0):
        found[0] = _through([up, gate], x)
        if with_dropout:
            found[1] = zeros_like(dropped)
    del of_gates, of_ups, of_downs
    del gradient, x, dropped
    let_go(adapters)
    del h
    del e  # their gradients' names are younger than the product's
    del g
    del of_up
    del of_gate
    del of_down
    gradients.clear()
    return found
