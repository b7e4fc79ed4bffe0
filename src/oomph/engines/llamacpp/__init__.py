"""llama.cpp: what its server takes, by its own rules."""
