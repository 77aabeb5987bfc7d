"""A study of one model: its runs, its records, how they are computed, and their results."""

from repro.study.study import Study, open_study

__all__ = ["Study", "open_study"]
