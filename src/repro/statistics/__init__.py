"""Intervals, resampling, comparisons and summaries of counts, without knowledge of the paper."""
