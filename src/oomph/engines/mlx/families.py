"""Which decoders mlx-lm 0.32.2 has a class for (models/, MODEL_REMAPPING of utils.py), and what those classes keep."""

FAMILIES = frozenset({
    "afmoe", "apertus", "cohere", "cohere2", "dbrx", "deepseek", "deepseek_v2", "deepseek_v3", "deepseek_v32",
    "dots1", "ernie4_5", "ernie4_5_moe", "exaone", "exaone4", "exaone_moe", "falcon_h1", "falcon_mamba", "gemma",
    "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "glm", "glm4", "glm4_moe",
    "glm4_moe_lite", "glm_moe_dsa", "gpt2", "gpt_bigcode", "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe",
    "granitemoehybrid", "helium", "hunyuan_v1_dense", "internlm2", "internlm3", "jamba", "kimi_k2",
    "iquestcoder", "kimi_k25",
    "kimi_linear", "lfm2", "lfm2_moe", "llama", "llama4", "llama4_text", "llava", "longcat_flash", "mamba", "mamba2",
    "mellum", "mimo", "mimo_v2_flash", "minicpm", "minimax", "minimax_m2", "minimax_m3_vl", "ministral3", "mistral",
    "mistral3", "mistral4", "mixtral", "nanochat", "nemotron", "nemotron-nas", "nemotron_h", "olmo", "olmo2",
    "olmo3", "olmo_hybrid", "olmoe", "phi", "phi3", "phimoe", "qwen", "qwen2", "qwen2_5_vl", "qwen2_5_vl_text",
    "qwen2_moe", "qwen2_vl", "qwen2_vl_text", "qwen3", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text",
    "qwen3_moe", "qwen3_next", "qwen3_vl", "qwen3_vl_moe", "qwen3_vl_moe_text", "qwen3_vl_text", "recurrent_gemma",
    "seed_oss", "smollm3", "solar_open", "stablelm", "starcoder2", "step3p5",
})  # fmt: skip
# Those whose class keeps a RotatingKVCache for its windows; all others keep every token.
WINDOWED = frozenset({
    "afmoe", "cohere2", "exaone4", "exaone_moe", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4",
    "gemma4_text", "gpt_oss", "llama", "llama4_text", "mistral", "mimo_v2_flash", "ministral3", "olmo3",
    "recurrent_gemma", "step3p5",
})  # fmt: skip
