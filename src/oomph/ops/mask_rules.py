"""What masks are made of: rules about positions, each a small comparison, as transformers joins functions of indices.

Source: transformers 5.23, masking_utils.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from oomph.ops.elementwise import result, unary
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, broadcast, view_of
from oomph.tape.tape import Tape


class Indices(NamedTuple):
    """Numbers of sequences [B] and heads [1], positions as [1, 1, S, 1] and [1, 1, 1, T], all int64.

    A tuple dies from the back, queries before keys: as the arguments of a mask function do.
    """

    rows: Sym
    heads: Sym
    keys: Sym
    queries: Sym


Rule = Callable[[Indices], Sym]


def all_of(*rules: Rule, vmapped: bool = False) -> Rule:
    """Mirror and_masks."""
    return _joined("new_ones", "bitwise_and", rules, vmapped)


def any_of(*rules: Rule, vmapped: bool = False) -> Rule:
    """Mirror or_masks."""
    return _joined("new_zeros", "bitwise_or", rules, vmapped)


def _joined(first: str, op: str, rules: Sequence[Rule], vmapped: bool) -> Rule:
    """Return rules joined one after the other, beginning with a boolean; `vmapped` with one for each query."""

    def rule(at: Indices) -> Sym:
        allowed = at.queries.tape.empty(at.queries.shape[2:3] * vmapped, "bool", op=first)
        for each in rules:
            allowed = _compared(op, allowed, each(at))
        return allowed

    return rule


def in_same_block(block_sequence_ids: Sym) -> Rule:
    """Mirror blockwise_overlay: tokens of the same numbered block."""

    def rule(at: Indices) -> Sym:
        q_group = _looked_up(block_sequence_ids, at.queries)
        kv_group = _looked_up(block_sequence_ids, at.keys)
        same = _compared("eq", q_group, kv_group)
        numbered = result("ge", q_group.shape, "bool", q_group)
        allowed = _compared("bitwise_and", same, numbered)
        del same, numbered
        return allowed

    return rule


def causal(at: Indices) -> Sym:
    """Mirror causal_mask_function: kv_idx <= q_idx."""
    return _compared("le", at.keys, at.queries)


def everywhere(at: Indices) -> Sym:
    """Mirror bidirectional_mask_function: q_idx >= 0."""
    return result("ge", at.queries.shape, "bool", at.queries)


def within(at: Indices) -> Sym:
    """Mirror sliding_window_overlay: kv_idx > q_idx - sliding_window."""
    return _compared("gt", at.keys, unary(at.queries, "sub"))


def around(at: Indices) -> Sym:
    """Mirror sliding_window_bidirectional_overlay: abs(q_idx - kv_idx) <= sliding_window."""
    apart = unary(result("sub", broadcast(at.queries.shape, at.keys.shape), "int64", at.queries, at.keys), "abs")
    return result("le", apart.shape, "bool", apart)


def left_padding(tape: Tape, batch: Size, attention_mask: Sym | None) -> Sym:
    """Return how many tokens of padding come first in each sequence, int64 [B]."""
    if attention_mask is None:
        return tape.empty((batch,), "int64", op="zeros")
    counted = tape.empty(attention_mask.shape, "int64", op="cumsum")
    zeros = tape.empty(attention_mask.shape, "bool", op="zeros_like")
    first = result("eq", attention_mask.shape, "bool", counted)
    del counted, zeros
    left_padding = tape.empty((batch,), "int64", op="sum")
    del first
    return left_padding


def in_chunk(left_padding: Sym) -> Rule:
    """Mirror chunked_overlay: (kv_idx - left_padding) // size == (q_idx - left_padding) // size."""
    return lambda at: _compared("eq", _chunk(left_padding, at, at.keys), _chunk(left_padding, at, at.queries))


def _chunk(left_padding: Sym, at: Indices, positions: Sym) -> Sym:
    """Return the number of each position's chunk, int64 [B, 1, S, 1] or [B, 1, 1, T]."""
    first = left_padding.tape.empty((at.rows.shape[0], 1, 1, 1), "int64", op="index")
    within = result("sub", broadcast(positions.shape, first.shape), "int64", positions, first)
    del first
    return unary(within, "floor_divide")


def unpadded(padding_mask: Sym) -> Rule:
    """Mirror padding_mask_function: padding_mask[batch_idx, kv_idx]."""
    return lambda at: padding_mask.tape.empty((at.rows.shape[0], 1, 1, at.keys.shape[-1]), "bool", op="index")


def in_same_sequence(packed_sequence_mask: Sym) -> Rule:
    """Mirror packed_sequence_mask_function."""
    return lambda at: _compared(
        "eq", _looked_up(packed_sequence_mask, at.queries), _looked_up(packed_sequence_mask, at.keys)
    )


def at_positions(rule: Rule, position_ids: Sym) -> Rule:
    """Mirror remap_positions_for_packed_sequence: a rule about positions within each sequence."""
    return lambda at: rule(
        at._replace(queries=_looked_up(position_ids, at.queries), keys=_looked_up(position_ids, at.keys))
    )


def _looked_up(table: Sym, at: Sym) -> Sym:
    """Return table[rows, at] of a table [B, S]: int64 [B, 1, S, 1] or [B, 1, 1, S]."""
    return table.tape.empty((table.shape[0], *at.shape[1:]), table.dtype, op="index")


def _compared(op: str, a: Sym, b: Sym) -> Sym:
    """Return what a comparison of two tensors makes: booleans of their common shape."""
    return result(op, broadcast(a.shape, b.shape), "bool", a, b)


def standing(positions: Sym) -> Sym:
    """Return positions [S] as a view [1, 1, S, 1]."""
    (length,) = positions.shape
    return view_of(positions, (1, 1, length, 1), (length, length, 1, 1))


def lying(positions: Sym) -> Sym:
    """Return positions [T] as a view [1, 1, 1, T]."""
    (length,) = positions.shape
    return view_of(positions, (1, 1, 1, length), (length, length, length, 1))
