"""Rotary embedding by complex numbers, as DeepSeek-V2 writes it."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import cast, grad, result, unary
from oomph.ops.indexing import view
from oomph.ops.rotary import unsqueeze_heads
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, broadcast, new, view_of


def complex_tables(x: Sym, position_ids: Sym, head_dim: Size) -> Sym:
    """Mirror DeepseekV2RotaryEmbedding.forward: turns as complex numbers [P, S, D / 2], 8 B each, without gradient.

    Saves nothing itself; the table lives as long as a layer's products keep it. Source: transformers 5.23,
    models/deepseek_v2/modeling_deepseek_v2.py.

    Positions of 4·4 B, angles and ones of 4·32·4 B, the numbers twice.
    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda x, positions: complex_tables(x, positions, 64), (2, 4, 512), ids(1, 4))
    Cost(allocated=3088, saved=0, backward=0)
    """
    tape, (rows, length) = x.tape, position_ids.shape
    positions = tape.empty((rows, length, 1), "fp32", op="_to_copy")
    freqs = tape.empty((rows, length, head_dim // 2), "fp32", op="mul")
    del positions
    ones = tape.empty(freqs.shape, "fp32", op="ones_like")
    freqs_cis = tape.empty(freqs.shape, "complex64", op="polar")
    del ones
    freqs_cis = unary(freqs_cis, "mul")
    return freqs_cis


def apply_rotary_complex(q: Sym, k: Sym, freqs_cis: Sym) -> tuple[Sym, Sym]:
    """Mirror DeepSeek-V2's apply_rotary_emb: q [B, N, S, D] and k [B, 1, S, D] as complex numbers times [P, S, D / 2].

    Each of q and k takes an fp32 copy, a product as large and a cast back. Saves only the table; backward needs its
    conjugate as a copy. Source: transformers 5.23, models/deepseek_v2/modeling_deepseek_v2.py.

    >>> from oomph.tape.testing import Given, cost
    >>> table = Given((1, 4, 32), "complex64", trains=False)
    >>> cost(apply_rotary_complex, (2, 8, 4, 64), (2, 1, 4, 64), table)
    Cost(allocated=46080, saved=1024, backward=48128)
    """
    xq_ = _as_complex(q)
    xk_ = _as_complex(k)
    freqs_cis = unsqueeze_heads(freqs_cis)
    xq_out = cast(_as_real(_turned(xq_, freqs_cis)), q.dtype)
    xk_out = cast(_as_real(_turned(xk_, freqs_cis)), k.dtype)
    return xq_out, xk_out


def apply_rotary_complex_heads(q: Sym, k: Sym, freqs_cis: Sym) -> tuple[Sym, Sym]:
    """Mirror Llama 4's apply_rotary_emb: the same of q [B, S, N, D] and k [B, S, K, D], both cast back at the end.

    Saves only the table. Source: transformers 5.23, models/llama4/modeling_llama4.py.

    >>> from oomph.tape.testing import Given, cost
    >>> table = Given((1, 4, 32), "complex64", trains=False)
    >>> cost(apply_rotary_complex_heads, (2, 4, 8, 64), (2, 4, 1, 64), table)
    Cost(allocated=46080, saved=1024, backward=48128)
    """
    xq_ = _as_complex(q)
    xk_ = _as_complex(k)
    rows, length, pairs = freqs_cis.shape
    table = view_of(freqs_cis, (rows, length, 1, pairs), (*freqs_cis.strides[:2], pairs, freqs_cis.strides[2]))
    xq_out = _as_real(_turned(xq_, table))
    xk_out = _as_real(_turned(xk_, table))
    return cast(xq_out, q.dtype), cast(xk_out, k.dtype)


def _turned(x: Sym, table: Sym) -> Sym:
    """Return a complex product whose second factor wants no gradient."""
    node = record("Mul", (x,), _turned_backward)
    save(node, table)
    return made_by(result("mul", broadcast(x.shape, table.shape), x.dtype, x, table), node)


def _turned_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, table = grad(gradients), saved[0]
    conjugate = new(table.tape, table.shape, table.dtype, op="clone")
    own = result("mul", gradient.shape, gradient.dtype, gradient, conjugate)
    del conjugate, table
    return [own]


def _as_complex(x: Sym) -> Sym:
    """Return x [.., D] in fp32 as complex numbers [.., D / 2]: torch.view_as_complex of pairs."""
    x = cast(x, "fp32")
    pairs = view(x, (*x.shape[:-1], x.shape[-1] // 2, 2))
    node = record("ViewAsComplex", (pairs,), _pairs_backward)
    return made_by(_complex_view(pairs), node)


def _as_real(x: Sym) -> Sym:
    """Return complex numbers [.., D / 2] as [.., D] in fp32: torch.view_as_real, flattened."""
    node = record("ViewAsReal", (x,), _complex_backward)
    pairs = made_by(_real_view(x), node)
    return view(pairs, (*x.shape[:-1], x.shape[-1] * 2))


def _complex_view(pairs: Sym) -> Sym:
    return Sym(pairs.shape[:-1], "complex64", [stride // 2 for stride in pairs.strides[:-1]], pairs.storage)


def _real_view(x: Sym) -> Sym:
    return Sym((*x.shape, 2), "fp32", [*(stride * 2 for stride in x.strides), 1], x.storage)


def _pairs_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return [_viewed(_real_view(_dense(grad(gradients))))]


def _complex_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return [_viewed(_complex_view(_dense(grad(gradients))))]


def _viewed(x: Sym) -> Sym:
    return view_of(x, x.shape, x.strides)


def _dense(x: Sym) -> Sym:
    """Return gradient.contiguous()."""
    return x if x.is_contiguous() else new(x.tape, x.shape, x.dtype, op="clone")
