"""MiniMaxM3SparseForConditionalGeneration.forward of text: a decoder that is handed embeddings, as LLaVA's is.

Source: transformers 5.23, models/minimax_m3_vl/modeling_minimax_m3_vl.py.
"""

from __future__ import annotations

from oomph.programs.llava import buffers, causal_lm, sliding_windows
from oomph.programs.towers import updated

__all__ = ["buffers", "causal_lm", "sliding_windows", "updated"]
