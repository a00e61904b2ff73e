"""Benchmarks: tracewatch beside the raw limit of this machine, and the ratio. ``python -m benchmarks``; see README.md.

Rule 1: no figure fails a run. Deliveries are checked (counts, ids, bytes), and a wrong one fails it.
Rule 2: a ratio compares two measurements made right after each other. The report has the median of several ratios.
"""
