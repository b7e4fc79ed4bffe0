"""What quantises keys and values [B, K, T, D] to integer codes in groups, and makes them wide again.

Variables are those of the real functions and end where theirs do. Source: optimum-quanto 0.2.7, tensor/optimizers,
tensor/weights/qbits.py, tensor/packed.py, library/quantize.py, library/extensions/cuda/unpack.cu; hqq 0.2.8,
core/quantize.py, core/optimize.py, core/bitpack.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.ops.hqq import IN_A_WORD, HqqWeight, dequantise_hqq
from oomph.tape.autograd import like
from oomph.tape.sizes import Size, number, product, yes
from oomph.tape.sym import Sym, row_major

BYTE = 8  # bits
WORD_BITS = 3  # of codes that HQQ puts into words
SEARCHES = 2  # of HQQ's steps towards better zeros: the first always helps, the next one is played as the last


class Codes:
    """Codes, a scale and a zero for each group, and the shape of what they are of; they die in this order."""

    def __init__(self, codes: Sym, scale: Sym, zero: Sym, shape: tuple[Size, ...]) -> None:
        self.codes, self.scale, self.zero = codes, scale, zero
        self.shape = shape


class HqqCodes(Codes):
    """The same of HQQ: a pair, whose second part with scale and zero dies first."""

    def __init__(self, codes: Sym, scale: Sym, zero: Sym, shape: tuple[Size, ...]) -> None:
        self.scale, self.zero, self.codes = scale, zero, codes
        self.shape = shape


def _groups(shape: tuple[Size, ...], each: Size, group: int) -> Size:
    """Return how many groups there are. Raises UnsupportedError where they do not part `each` numbers evenly."""
    if not yes(each % group == 0):
        raise UnsupportedError(
            f"Keys or values of shape {[number(size) for size in shape]} are no whole groups of {group}.",
            "Take another --cache-group, or a --context and --concurrency that it divides.",
        )
    return product(shape) // group


@dataclass(frozen=True)
class Quanto:
    """optimum-quanto's MaxOptimizer and packing: scale and shift in the dtype of what is quantised."""

    bits: int
    group: int
    axis: int

    def quantise(self, base: Sym) -> Codes:
        """Mirror QuantoQuantizedLayer._quantize."""
        scale, shift = self._extremes(base)
        return Codes(self._packed(self._affine(base, scale, shift)), scale, shift, base.shape)

    def _grouped(self, base: Sym) -> Sym:
        """Mirror group(): [groups, group], a view, or along the last axis [group, groups], a copy."""
        batch, last = base.shape[0], base.shape[-1]
        each = product(base.shape) // (last if self.axis else batch)
        groups = _groups(base.shape, each, self.group)
        if not self.axis:
            return ops.view(base, (groups, self.group))
        grouped = ops.permute(ops.view(base, (each // self.group, self.group, last)), (1, 2, 0))
        return ops.view(grouped, (self.group, groups))

    def _extremes(self, base: Sym) -> tuple[Sym, Sym]:
        """Mirror AffineOptimizer.__call__ and MaxOptimizer.optimize: scale and shift of each group."""
        base = self._grouped(base)
        tape, (rows, columns) = base.tape, base.shape
        whole = yes((columns if self.axis else rows) == 1)  # then there is one scale for each number's place
        down = (self.axis == 0) == whole
        shape = (1, columns) if down else (rows, 1)
        rmin = tape.empty(shape, base.dtype, op="amin")
        rmax = tape.empty(shape, base.dtype, op="amax")
        scale = ops.unary(ops.sub(rmax, rmin), "div")
        shift = ops.neg(rmin)
        del rmin, rmax
        return scale, shift

    def _affine(self, base: Sym, scale: Sym, shift: Sym) -> Sym:
        """Mirror quantize_affine."""
        base = self._grouped(base)
        data = ops.add(base, shift)
        data = ops.unary(data, "div")
        data = ops.unary(data, "round")
        return like(ops.unary(data, "clamp"), "uint8")

    def _packed(self, intweights: Sym) -> Sym:
        """Mirror pack_weights: codes of rows far apart share a byte."""
        (rows, columns), together = intweights.shape, BYTE // self.bits
        row_dim = (rows + together - 1) // together
        packed = intweights.tape.empty((row_dim, columns), "uint8", op="zeros")
        for place in range(together):
            left = rows - place * row_dim
            if yes(left > 0):
                some = row_dim if yes(left >= row_dim) else left
                shifted = intweights.tape.empty((some, columns), "uint8", op="lshift")
                del shifted
        return packed

    def dequantise(self, codes: Codes) -> Sym:
        """Mirror QBitsDequantizer and ungroup."""
        rows, columns = codes.codes.shape
        together = BYTE // self.bits
        data = codes.codes.tape.empty((together * rows, columns), "uint8", op="unpack")
        numbers = product(codes.shape) // self.group
        shape = (self.group, numbers) if self.axis else (numbers, self.group)
        dqt = codes.codes.tape.empty(shape, codes.scale.dtype, op="mul")
        if not self.axis:
            return Sym(codes.shape, dqt.dtype, row_major(codes.shape), dqt.storage)
        last = codes.shape[-1]
        ungrouped = ops.permute(ops.view(dqt, (self.group, last, numbers // last)), (2, 0, 1))
        made = ops.view(ungrouped, codes.shape)
        del data
        return made


@dataclass(frozen=True)
class Hqq:
    """HQQ's Quantizer: numbers in fp32 are brought to codes, zeros are searched for in fp16 (on a CPU in fp32)."""

    bits: int
    group: int
    axis: int

    def quantise(self, tensor: Sym) -> Codes:
        """Mirror HQQQuantizedLayer._quantize: scale and zero are brought to the dtype of the cache at the end."""
        codes, scale, zero = self._quantised(tensor)
        scale = ops.cast(scale, tensor.dtype)
        zero = ops.cast(zero, tensor.dtype)
        return HqqCodes(codes, scale, zero, tensor.shape)

    def _quantised(self, tensor: Sym) -> tuple[Sym, Sym, Sym]:
        """Mirror Quantizer.quantize."""
        groups = _groups(tensor.shape, product(tensor.shape), self.group)
        wide = ops.cast(tensor, "fp32")
        wide = ops.view(wide, (groups, self.group) if self.axis else (self.group, groups))
        shape = (groups, 1) if self.axis else (1, groups)
        tape = tensor.tape
        least, _ = tape.empty(shape, "fp32", op="min"), tape.empty(shape, "int64", op="min")
        del _
        most, _ = tape.empty(shape, "fp32", op="max"), tape.empty(shape, "int64", op="max")
        del _
        denominator = ops.sub(most, least)
        scale = ops.unary(ops.unary(denominator, "reciprocal"), "mul")
        scale = _not_small(denominator, scale)
        scale = ops.unary(scale, "clamp")
        zero = ops.unary(ops.neg(least), "mul")
        codes, zero = self._searched(wide, scale, zero)
        del wide, least, most
        scale = ops.unary(ops.unary(scale, "reciprocal"), "mul")
        codes = self._packed(codes)
        return codes, scale, zero

    def _searched(self, tensor: Sym, scale: Sym, zero: Sym) -> tuple[Sym, Sym]:
        """Mirror optimize_weights_proximal_legacy: codes, and zeros that bring them nearer to the numbers."""
        narrow = "fp16" if tensor.tape.on == "gpu" else "fp32"
        wide, scale, zero = ops.cast(tensor, narrow), ops.cast(scale, narrow), ops.cast(zero, narrow)
        best_error = tensor.tape.empty((), "fp32", op="lift_fresh")
        near: Sym | None = None
        codes: Sym | None = None
        for step in range(SEARCHES):
            near, codes, zero = _search(wide, scale, zero)
            current_error = _error(wide, near)
            better = tensor.tape.empty((), "bool", op="lt")
            del better
            if step + 1 < SEARCHES:
                best_error = current_error
        del wide, codes, near
        final = ops.add(ops.mul(tensor, scale), zero)
        final = ops.unary(final, "round")
        del best_error
        return final, zero

    def _packed(self, numbers: Sym) -> Sym:
        """Mirror BitPack: codes of rows far apart share a byte, ten of three bits a word."""
        if self.bits not in IN_A_WORD:
            return like(numbers, "uint8", "to")
        rows, columns = numbers.shape
        places = IN_A_WORD[self.bits]
        if self.bits == WORD_BITS:
            words = -(-rows // places)
            spread = numbers.tape.empty((places * words, columns), "int32", op="zeros")
        else:
            if not yes(rows % places == 0):
                raise UnsupportedError(
                    f"HQQ cannot pack {number(rows)} rows, {places} to a byte.", "Take another --cache-group or axis."
                )
            words = rows // places
            spread = like(numbers, "uint8", "to")
        del numbers
        kept = spread.tape.empty((words, columns), spread.dtype, op="lshift")
        for place in range(1, places):
            if place < places - 1:
                shifted = spread.tape.empty((words, columns), spread.dtype, op="lshift")
                kept = ops.unary(kept, "bitwise_or")
                del shifted
            else:
                kept = ops.unary(kept, "bitwise_or")
        return kept

    def dequantise(self, codes: Codes) -> Sym:
        """Mirror Quantizer.dequantize."""
        count = product(codes.shape)
        shape = (count // self.group, self.group) if self.axis else (self.group, count // self.group)
        made = dequantise_hqq(HqqWeight(shape, self.bits, codes.codes, codes.scale))
        return Sym(codes.shape, made.dtype, row_major(codes.shape), made.storage)


def _not_small(denominator: Sym, scale: Sym) -> Sym:
    """Return scales, or 1 where what they were divided by is next to nothing."""
    small = like(ops.unary(denominator, "abs"), "bool", "le")
    ones = ops.unary(scale, "full_like")
    made = ops.unary(scale, "where")
    del small, ones
    return made


def _search(wide: Sym, scale: Sym, zero: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror optimize_weights_proximal_legacy_step: numbers as they would come back, their codes, new zeros."""
    codes = ops.unary(ops.add(ops.mul(wide, scale), zero), "round")
    near = ops.unary(ops.sub(codes, zero), "div")
    shrunk = _shrunk(ops.sub(wide, near))
    moved = ops.sub(codes, ops.mul(ops.sub(wide, shrunk), scale))
    zero = wide.tape.empty(zero.shape, zero.dtype, op="mean")
    del moved
    return near, codes, zero


def _shrunk(x: Sym) -> Sym:
    """Mirror shrink_lp_op."""
    out = ops.unary(x, "abs")
    power = ops.unary(out, "pow")
    scaled = ops.unary(power, "mul")
    del power, scaled
    sign = ops.unary(x, "sign")
    del sign
    return out


def _error(wide: Sym, near: Sym) -> Sym:
    """Return the mean of how far numbers are from what would come back, in fp32."""
    far = ops.unary(ops.sub(wide, near), "abs")
    mean = far.tape.empty((), far.dtype, op="mean")
    del far
    return ops.cast(mean, "fp32")
