"""ALiBi: a bias for each head that grows with the distance, instead of position embeddings (BLOOM, Falcon-RW, MPT)."""

from __future__ import annotations

from oomph.ops.elementwise import result, unary
from oomph.ops.indexing import reshaped
from oomph.tape.autograd import like
from oomph.tape.sizes import Size, product, yes
from oomph.tape.sym import Sym, broadcast
from oomph.tape.tape import Tape


def alibi_slopes(tape: Tape, num_heads: Size) -> Sym:
    """Mirror _get_alibi_slopes: fp32 [N], powers of one number for the largest power of two of heads, of another for
    the rest. Nothing is saved.

    Source: transformers 5.23, models/bloom/modeling_bloom.py.

    One number of 4 B, 4 powers as int32 and as fp32; 6 heads take the same again for 2, and joined 6·4 B.
    >>> from oomph.tape.testing import cost, frozen
    >>> made = []
    >>> cost(lambda x: made.append(alibi_slopes(x.tape, 4)), frozen(1)).allocated
    36
    >>> cost(lambda x: made.append(alibi_slopes(x.tape, 6)), frozen(1)).allocated
    80
    """
    closest = _power_of_two(num_heads)
    _base, _exponents, slopes = _powers(tape, closest)
    if not yes(num_heads == closest):
        _extra_base, _extra_exponents, extra = _powers(tape, num_heads - closest)
        joined = tape.empty((num_heads,), "fp32", op="cat")
        del extra
        slopes = joined
        del joined
        return slopes
    return slopes


def _power_of_two(num_heads: Size) -> int:
    """Return the largest power of two of heads."""
    closest = 1
    while yes(num_heads >= 2 * closest):
        closest *= 2
    return closest


def _powers(tape: Tape, count: Size) -> tuple[Sym, Sym, Sym]:
    """Return a base, exponents as int32 and the powers as fp32; the first two are locals of the caller's frame."""
    base = tape.empty((), "fp32", op="full")
    exponents = tape.empty((count,), "int32", op="arange")
    return base, exponents, tape.empty((count,), "fp32", op="pow")


def alibi_mask(alibi: Sym, causal_mask: Sym) -> Sym:
    """Return Falcon's alibi [B, N, 1, T] with a causal mask [B, 1, S, T] worked in: [B, N, S, T] in alibi's dtype.

    Beside it alibi, scaled, and a comparison of one byte each. Nothing is saved. Source: transformers
    5.23, models/falcon/modeling_falcon.py, FalconModel.forward.

    The comparison 2·64·64 B, alibi scaled 2·4·64·2 B, the result 2·4·64·64·2 B.
    >>> from oomph.tape.testing import cost, frozen
    >>> made = []
    >>> cost(lambda x, mask: made.append(alibi_mask(x, mask)), frozen(2, 4, 1, 64), frozen(2, 1, 64, 64)).allocated
    74752
    """
    tape = alibi.tape
    scaled = unary(alibi, "div")
    below = result("lt", causal_mask.shape, "bool", causal_mask)
    return tape.empty(broadcast(scaled.shape, below.shape), scaled.dtype, op="masked_fill")


def alibi_of_mask(attention_mask: Sym, num_heads: Size, dtype: str) -> Sym:
    """Mirror BLOOM's build_alibi_tensor: a mask [B, T] int64 counted, times each head's slope: [B·N, 1, T] in a dtype.

    Nothing is saved. Source: transformers 5.23, models/bloom/modeling_bloom.py.

    36 B of slopes; counted, less one, times the mask: 2·8 int64 each; the product 2·4·8 fp32, and in bf16.
    >>> from oomph.tape.testing import cost, ids
    >>> made = []
    >>> cost(lambda mask: made.append(alibi_of_mask(mask, 4, "bf16")), ids(2, 8)).allocated
    804
    """
    slopes = alibi_slopes(attention_mask.tape, num_heads)
    arange_tensor = _counted(attention_mask)
    alibi = _spread(slopes, arange_tensor)
    return alibi if alibi.dtype == dtype else like(alibi, dtype)


def falcon_alibi(attention_mask: Sym, num_heads: Size, dtype: str) -> Sym:
    """Mirror Falcon's build_alibi_tensor: as BLOOM's, but the product is made in bf16.

    Nothing is saved. Source: transformers 5.23, models/falcon/modeling_falcon.py.

    36 B of slopes, the same in bf16; counted, less one, times the mask: 2·8 int64 each; the product 2·4·8 bf16.
    >>> from oomph.tape.testing import cost, ids
    >>> made = []
    >>> cost(lambda mask: made.append(falcon_alibi(mask, 4, "bf16")), ids(2, 8)).allocated
    556
    """
    tape, closest = attention_mask.tape, _power_of_two(num_heads)
    _base, _exponents, slopes = _powers(tape, closest)
    if not yes(num_heads == closest):
        _extra_base, _extra_exponents, extra = _powers(tape, num_heads - closest)
        joined = tape.empty((num_heads,), "fp32", op="cat")
        del extra
        slopes = joined
        del joined
    arange_tensor = _counted(attention_mask)
    alibi = _spread(like(slopes, "bf16"), arange_tensor)
    return alibi if alibi.dtype == dtype else like(alibi, dtype)


def counted_along(position_ids: Sym) -> Sym:
    """Mirror OPT's (position_ids * mask - 1).long(): positions [B, T] int64 of a mask's running sum in its dtype.

    Nothing is saved. Source: transformers 5.23, models/opt/modeling_opt.py, OPTDecoder.forward.

    Two products of 2·8 int64; from an fp32 mask half of that each, and int64 at last.
    >>> from oomph.tape.testing import cost, ids
    >>> cost(counted_along, ids(2, 8)).allocated
    256
    """
    times = unary(position_ids, "mul")
    less = unary(times, "sub")
    del times
    return less if less.dtype == "int64" else like(less, "int64")


def _counted(attention_mask: Sym) -> Sym:
    """Mirror (attention_mask.cumsum(dim=-1) - 1) * attention_mask."""
    counted = unary(attention_mask, "cumsum")
    less = unary(counted, "sub")
    del counted
    return unary(less, "mul")


def _spread(slopes: Sym, positions: Sym) -> Sym:
    """Return slopes times positions [B, T] as [B·N, 1, T]."""
    batch, length = positions.shape
    alibi = slopes.tape.empty((batch, *slopes.shape, length), slopes.dtype, op="mul")
    del slopes
    return reshaped(alibi, (product(alibi.shape[:2]), 1, length))


def alibi_of_length(slopes: Sym, batch: Size, length: Size) -> Sym:
    """Return BLOOM's alibi of one sequence without padding: slopes [N] times positions, fp32 [N, 1, T].

    Nothing is saved. Source: transformers 5.23, models/bloom/modeling_bloom.py, BloomModel.forward.

    8 positions as int64, the product 4·8 fp32.
    >>> from oomph.tape.testing import Given, cost
    >>> cost(lambda slopes: alibi_of_length(slopes, 2, 8), Given((4,), "fp32", trains=False)).allocated
    192
    """
    arange = slopes.tape.empty((length,), "int64", op="arange")
    alibi = slopes.tape.empty((*slopes.shape, 1, length), "fp32", op="mul")
    del arange
    return alibi


def repeated(alibi: Sym, batch: Size, dtype: str) -> Sym:
    """Return alibi [N, 1, T] once for each sequence, [B·N, 1, T], in a dtype: repeated in fp32, then cast.

    Nothing is saved. Source: transformers 5.23, models/bloom/modeling_bloom.py, BloomModel.forward.

    >>> from oomph.tape.testing import Given, cost
    >>> cost(lambda alibi: repeated(alibi, 2, "bf16"), Given((4, 1, 8), "fp32", trains=False)).allocated
    384
    """
    heads, _, length = alibi.shape
    whole = alibi.tape.empty((batch * heads, 1, length), "fp32", op="repeat")
    return whole if dtype == "fp32" else like(whole, dtype)


def mpt_alibi(tape: Tape, num_heads: Size, length: Size) -> Sym:
    """Mirror build_mpt_alibi_tensor: positions times each head's slope, fp32 [N, 1, T]. Nothing is saved.

    Slopes are those of the next power of two of heads, of which fewer are picked. Source: transformers 5.23,
    models/mpt/modeling_mpt.py.

    8 positions as int32; 4 numbers as int64 and fp32, scaled, as a power, its inverse twice; the product 4·8 fp32.
    Of 3 heads the slopes are joined, 4·4 B, and the product is smaller.
    >>> from oomph.tape.testing import cost, frozen
    >>> made = []
    >>> cost(lambda x: made.append(mpt_alibi(x.tape, 4, 8)), frozen(1)).allocated
    272
    >>> cost(lambda x: made.append(mpt_alibi(x.tape, 3, 8)), frozen(1)).allocated
    256
    """
    alibi = tape.empty((length,), "int32", op="arange")
    count = 1
    while yes(num_heads > count):
        count *= 2
    base = like(tape.empty((count,), "int64", op="arange"), "fp32")
    base = unary(base, "mul")
    powers = unary(base, "pow")
    slopes = unary(unary(powers, "reciprocal"), "mul")
    del powers
    if not yes(num_heads == count):
        slopes = unary(slopes, "cat")
    alibi = tape.empty((num_heads, 1, length), "fp32", op="mul")
    del base, slopes
    return alibi
