"""Answers of a model: sampling, greedy decoding and first-token logits, by several engines."""
