"""What programs of multimodal models ask of the towers beside the language model."""

from __future__ import annotations

from oomph.blocks.vision import ClipVision
from oomph.blocks.vision_native import Qwen3Vision, QwenVision
from oomph.tape.bound import Bound
from oomph.tape.sym import Sym

LANGUAGE_MODEL, HEAD = "model.language_model.", "lm_head."  # how the paths of what text passes through begin


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient: of text alone the language model's."""
    return [one for one in parameters if one.made_for.startswith((LANGUAGE_MODEL, HEAD))]


def tower_buffers(m: Bound) -> list[Sym]:
    """Return what is no parameter of a tower and not stored but on the device: ids of positions, inv_freq."""
    tape, block = m.tape, m.block
    if isinstance(block, ClipVision):
        return [tape.empty((1, block.num_positions), "int64", op="position_ids")]
    if isinstance(block, (QwenVision, Qwen3Vision)):  # frequencies for half of the channels, of rows and of columns
        return [tape.empty((block.hidden_size // block.num_heads // 4,), "fp32", op="inv_freq") for _ in range(2)]
    return []
