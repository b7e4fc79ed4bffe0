"""Attention of classes that keep tables of cos and sin for all positions in each layer, as Llama's did until 2024."""

from __future__ import annotations

from dataclasses import dataclass, fields

from oomph.blocks.attention import Attention

POSITIONS = 2048  # the default of max_position_embeddings in those classes


@dataclass(frozen=True)
class TabledAttention(Attention):
    """Attention whose tables of cos and sin are made for `positions`."""

    positions: int = POSITIONS


def with_tables(attention: Attention, positions: int) -> TabledAttention:
    """Return the same attention with tables for so many positions.

    >>> with_tables(Attention(64, 4, 4, 16, qkv_bias=True), 128).positions
    128
    """
    same = {field.name: getattr(attention, field.name) for field in fields(Attention)}
    return TabledAttention(**same, positions=positions)
