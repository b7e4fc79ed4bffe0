"""The math kernel of scaled_dot_product_attention, which always works: composed of plain operations, in fp32.

Source: ATen/native/transformers/attention.cpp, _scaled_dot_product_attention_math.
"""

from __future__ import annotations

from oomph.ops.elementwise import cast, dropout, pass_through, result
from oomph.ops.indexing import repeat_heads, transpose
from oomph.ops.matmul import matmul
from oomph.ops.softmax import same_as_input
from oomph.tape.autograd import made_by, record, save
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

HALF = ("fp16", "bf16")


def math_attention(
    query: Sym, key: Sym, value: Sym, mask: Sym | None, rate: float, is_causal: bool, grouped: bool
) -> Sym:
    """Return attention [B, N, S, D] of q [B, N, S, D] and k, v [B, K, T, D] from its parts: scores and weights
    [B, N, S, T] in fp32.

    fp16 and bf16 inputs are computed in fp32. Saves the scaled queries and keys (each copied to where a batched
    product wants it), the values, and the softmax; the weights once more in the inputs' dtype are made and dropped.
    Source: ATen/native/transformers/attention.cpp, _scaled_dot_product_attention_math.

    Saved: 64·2·128·4 B each for queries, keys and values, softmax 2·64·64·4 B. Made: these, q and k once more before
    they are scaled, the scores, what safe_softmax looks with, weights of 2·64·64·2 B, the output in fp32 and bf16.
    >>> from oomph.tape.testing import attending, cost
    >>> cost(attending(math_attention, None, 0.0, False, False), *[(1, 64, 2, 128)] * 3)
    Cost(allocated=516224, saved=229376, backward=557056)
    """
    tape, dtype = query.tape, query.dtype
    query_acc, key_acc, value_acc = (cast(each, "fp32") if dtype in HALF else each for each in (query, key, value))
    scaled = query_acc * 1.0
    if is_causal:
        mask = _lower_triangle(tape, query.shape[2], key.shape[2], scaled.dtype)
    times = query.shape[1] // key.shape[1]
    key_expanded = repeat_heads(key_acc, times) if grouped else key_acc
    value_expanded = repeat_heads(value_acc, times) if grouped else value_acc
    attn = matmul(scaled, transpose(key_expanded, 2, 3) * 1.0)
    if mask is not None:
        attn = _add_mask(attn, mask)
    attn = safe_softmax(attn)
    attn = dropout(attn, rate)
    weights = cast(attn, dtype)
    out = cast(matmul(attn, value_expanded), dtype)
    del attn, key_expanded, value_expanded  # a std::tuple destroys its first element first, locals die in reverse
    del scaled, mask, value_acc, key_acc, query_acc
    del weights
    return out


def _lower_triangle(tape: Tape, length: Size, keys: Size, dtype: str) -> Sym:
    """Return the causal mask [S, T] as numbers."""
    ones = tape.empty((length, keys), "bool", op="ones")
    allowed = tape.empty((length, keys), "bool", op="tril")
    del ones
    infinity = tape.empty((), dtype, op="scalar_tensor")
    zero = tape.empty((), dtype, op="scalar_tensor")
    mask = tape.empty((length, keys), dtype, op="where")
    del zero, infinity, allowed
    return mask


def _add_mask(attn: Sym, mask: Sym) -> Sym:
    """Return scores + mask: in place in a real run, out of place under a trace (areAnyTensorSubclassLike)."""
    if attn.tape.on == "trace":
        return attn + mask
    return made_by(attn.detach(), record("Add", (attn,), pass_through))


def safe_softmax(x: Sym) -> Sym:
    """Return _safe_softmax of scores [.., S, T] over T: softmax with rows of nothing but minus infinity set to 0.

    Saves the result, for softmax's own backward, one tensor. It looks for such rows in a comparison as large as the
    scores, one byte each, and a byte a row, which a trace does not see. Source:
    ATen/native/transformers/attention.cpp, _safe_softmax.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(safe_softmax, fp32(2, 64, 64))
    Cost(allocated=41088, saved=32768, backward=32768)
    """
    node = record("SafeSoftmax", (x,), same_as_input)
    out = result("_safe_softmax", x.shape, x.dtype, x)
    if x.tape.on != "trace":
        masked = result("eq", x.shape, "bool", x)
        rows = result("all", (*x.shape[:-1], 1), "bool", x)
        del rows, masked
    save(node, out)
    return made_by(out, node)
