"""Measurements: ours beside the raw limit of this machine, and the ratio. ``python -m benchmarks``; see README.md.

Rule 1: no figure fails a run. What was delivered is checked (counts, ids, bytes), and a wrong delivery does.
Rule 2: a ratio is of two measurements made one right after the other; what is told is the median of several.
"""
