"""Step3p7ForConditionalGeneration.forward of text: a decoder that is handed embeddings, as LLaVA's is.

Source: transformers 5.23, models/step3p7/modeling_step3p7.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.programs import llama
from oomph.programs.llava import causal_lm, sliding_windows
from oomph.programs.towers import updated
from oomph.tape.bound import Bound
from oomph.tape.sym import Sym

__all__ = ["buffers", "causal_lm", "sliding_windows", "updated"]


def buffers(m: Bound) -> list[Sym]:
    """Return the tower's buffers, positions and frequencies of a quarter of the channels, then the language model's."""
    tower, tape = m.model.vision_model.block, m.tape
    places = tape.empty((1, (tower.image_size // tower.patch_size) ** 2), "int64", op="position_ids")
    turned = ops.rotary_buffers(tape, tower.hidden_size // tower.num_heads // 2)
    return [places, *turned, *llama.model_buffers(m.model.language_model)]
