"""Companion to the EMNLP 2025 paper on what supervised fine-tuning does to model knowledge."""

__version__ = "0.1.0"
