"""Intervals, resampling, comparisons and summaries of counts. Nothing here knows the paper."""
