"""The tables of cosines and sines that vLLM computes once for each distinct rotary embedding and keeps on every device.

Source: model_executor/layers/rotary_embedding/ of vLLM 0.19.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, descend
from oomph.families.layer_types import FULL, SLIDING
from oomph.structure import decoder_stack

if TYPE_CHECKING:
    from oomph.model import Model

_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
VIDEO_TIMES = 4  # MRotaryEmbedding makes its table so many times as long
VIDEO = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v", "glm4_1v", "qwen2_5_omni", "qwen3_omni")
IN_FP32 = frozenset({"gpt_oss"})  # models/gpt_oss.py asks for it
USUAL_POSITIONS = 8192  # what vLLM's model classes take where a config names none


@dataclass(frozen=True)
class Table:
    """`rows` positions of `width` numbers: cosines, then sines; in the weights' dtype, or always `fp32`."""

    rows: int
    width: int
    fp32: bool = False


def tables(model: Model, config: Mapping[str, Any]) -> tuple[Table, ...]:
    """Return the tables of a model, distinct ones once; none where positions are not turned.

    >>> from oomph import load
    >>> tables(load("llama-3-8b"), {"max_position_embeddings": 8192})
    (Table(rows=8192, width=128, fp32=False),)
    """
    widths = tuple(dict.fromkeys(_widths(model)))
    if not widths:
        return ()
    text = next((config[key] for key in _NESTED if isinstance(config.get(key), Mapping)), config)
    said = text.get("rope_parameters") or text.get("rope_scaling") or {}
    said = said if isinstance(said, Mapping) else {}
    positions = _size(text.get("max_position_embeddings"), model.context_length or USUAL_POSITIONS)
    video = model.model_type.startswith(VIDEO)
    kinds = {name: each for name, each in said.items() if isinstance(each, Mapping)}
    if kinds:  # by kind of layer, of which one may have wider heads or turn fewer of their channels
        by_kind = _widths_by_kind(model)
        return tuple(_table(each, text, positions, by_kind.get(name, widths[0]), video) for name, each in kinds.items())
    if model.decoder_type in IN_FP32:
        return tuple(replace(_table(said, text, positions, width, video), fp32=True) for width in widths)
    found = [_table(said, text, positions, width, video) for width in widths]
    if text.get("rope_local_base_freq") is not None:  # Gemma 3: windows turn by another base, never scaled
        found.append(Table(positions, widths[0]))
    return tuple(found)


def _widths(model: Model) -> Iterator[int]:
    """Yield how many numbers of a head are turned, for each distinct layer."""
    _, stack = decoder_stack(model)
    for layer, _ in stack.groups():
        for block in descend({"": layer}):
            width = _width(block)
            if width:
                yield width


def _widths_by_kind(model: Model) -> dict[str, int]:
    """Return how many numbers of a head are turned where attention sees all, and where it has a window."""
    _, stack = decoder_stack(model)
    found: dict[str, int] = {}
    for layer, _ in stack.groups():
        for block in descend({"": layer}):
            if isinstance(block, Attention) and (width := _width(block)):
                found.setdefault(FULL if block.sliding_window is None else SLIDING, width)
    return found


def _width(block: Block) -> int:
    if isinstance(block, Attention):
        return (block.rotary_dim or block.head_dim) if block.rotary else 0
    for name in ("rotary_dim", "qk_rope_head_dim", "rope_head_dim", "rope_dim"):
        found = getattr(block, name, None)
        if isinstance(found, int) and found:
            return found
    return 0


def _table(said: Mapping[str, Any], text: Mapping[str, Any], positions: int, width: int, video: bool) -> Table:
    kind = said.get("rope_type") or said.get("type") or "default"
    factor = _number(said.get("factor"), 1.0)
    original = _size(said.get("original_max_position_embeddings"), positions)
    if video or "mrope_section" in said:
        return Table((original if kind == "yarn" else positions) * VIDEO_TIMES, width)
    if kind in ("yarn", "deepseek_yarn"):
        return Table(int(original * factor), width)
    if kind in ("linear", "dynamic", "ntk"):
        return Table(int(positions * factor), width)
    if kind in ("longrope", "su"):
        original = _size(text.get("original_max_position_embeddings"), original)
        return Table(original + positions, width)
    return Table(positions, width)


def _size(value: Any, other: int) -> int:
    good = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 2**31
    return value if good else other


def _number(value: Any, other: float) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 2**20
    return float(value) if good else other
