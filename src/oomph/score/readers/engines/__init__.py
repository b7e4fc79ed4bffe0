"""One file per engine: what its rows ask. `question(row, subject)` in each; imported when a row needs it."""

from __future__ import annotations

# What rows call the engine, and the module that reads them.
READERS = {
    "ik_llama.cpp": "llamacpp",
    "llama-cpp-python (llama.cpp)": "llamacpp",
    "llama.cpp": "llamacpp",
    "mlx-lm": "mlx",
    "ollama (llama.cpp runner)": "llamacpp",
    "sglang": "sglang",
    "tensorrt-llm": "trtllm",
    "transformers": "transformers",
    "vllm": "vllm",
}
REFUSED: dict[str, str] = {}
