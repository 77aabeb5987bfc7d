"""The CPU engine: LLaMA and Gemma 3 in compiled kernels, each shared prefix computed once."""
