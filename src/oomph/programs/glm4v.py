"""Glm4vForConditionalGeneration.forward, and that of GLM-4.5V and GLM-4.6V: as in Qwen2.5-VL, with a tower of its own.

Source: transformers 5.23, models/glm4v/modeling_glm4v.py, models/glm4v_moe, models/glm46v.
"""

from __future__ import annotations

from oomph.programs.llava import sliding_windows
from oomph.programs.qwen_vl import buffers, causal_lm, image_features, inputs_of_images, leave_behind, updated

__all__ = ["buffers", "causal_lm", "image_features", "inputs_of_images", "leave_behind", "sliding_windows", "updated"]
