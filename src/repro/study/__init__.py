"""A study of one model: which runs there are, their records, what computes them, their results."""

from repro.study.study import Study, open_study

__all__ = ["Study", "open_study"]
