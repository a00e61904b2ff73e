"""The model: events, the goal tree's rules, the fold and the wire's words.

Rule 1: pure. No asyncio, no I/O, no clock, no randomness: ids and times come in as arguments.
Rule 2: everything else in tracewatch agrees on the protocol by calling this, never by copying it.
"""
