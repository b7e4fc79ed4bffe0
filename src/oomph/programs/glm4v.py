"""Glm4vForConditionalGeneration.forward of text, and that of GLM-4.5V and GLM-4.6V: as in Qwen2.5-VL.

Source: transformers 5.23, models/glm4v/modeling_glm4v.py, models/glm4v_moe, models/glm46v.
"""

from __future__ import annotations

from oomph.programs.llava import sliding_windows
from oomph.programs.qwen_vl import buffers, causal_lm
from oomph.programs.towers import updated

__all__ = ["buffers", "causal_lm", "sliding_windows", "updated"]
