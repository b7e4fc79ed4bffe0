"""One file per engine: what its rows ask. `question(row, subject)` in each; imported when a row needs it."""

from __future__ import annotations

# What rows call the engine, and the module that reads them.
READERS = {
    "transformers": "transformers", "vllm": "vllm", "llama.cpp": "llamacpp", "llama-cpp-python (llama.cpp)": "llamacpp",
    "ollama (llama.cpp runner)": "llamacpp", "ik_llama.cpp": "llamacpp",
}  # fmt: skip
REFUSED = {"sglang": "prints what the device has less after loading, which is more than the weights"}
