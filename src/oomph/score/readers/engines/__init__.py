"""One file per engine: what its rows ask. `question(row, subject)` in each; imported when a row needs it."""

from __future__ import annotations

# What rows call the engine, and the module that reads them.
READERS = {
    "mlx-lm": "mlx",
    "sglang": "sglang",
    "tensorrt-llm": "trtllm",
    "transformers": "transformers",
    "vllm": "vllm",
}
REFUSED: dict[str, str] = {}
