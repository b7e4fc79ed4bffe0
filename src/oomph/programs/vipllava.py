"""VipLlavaForConditionalGeneration.forward of text: as in LLaVA.

Source: transformers 5.23, models/vipllava/modeling_vipllava.py.
"""

from __future__ import annotations

from oomph.programs.llava import buffers, causal_lm, sliding_windows
from oomph.programs.towers import updated

__all__ = ["buffers", "causal_lm", "sliding_windows", "updated"]
