"""The CPU engine: LLaMA, Qwen2 and Gemma 3 in compiled kernels, over trees of shared prefixes."""
