"""vLLM: its flags, its rules for weights, budget and cache, and the lines it prints."""
