"""Models whose forward graph AOTAutograd's partitioner has cut: heads are not shared, as a CPU repeats shared ones."""

from __future__ import annotations

from typing import Any

from oomph.job import TrainJob

SIZES: dict[str, Any] = {
    "vocab_size": 1000, "num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 160, "max_position_embeddings": 128, "head_dim": 16, "pad_token_id": 0,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "llama": SIZES | {"model_type": "llama"},
    "qwen2": SIZES | {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": SIZES | {"model_type": "qwen3"},
    "gemma2": SIZES | {"model_type": "gemma2", "num_hidden_layers": 4},
    "gpt_neox": SIZES | {"model_type": "gpt_neox"},
    "olmo2": SIZES | {"model_type": "olmo2"},
}
JOB = TrainJob(2, 64, dropout=False)
