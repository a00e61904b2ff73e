"""The model: events, the rules of the goal tree, the fold of events into a state, and the frames of the wire.

Rule 1: pure. No asyncio, no I/O, no clock, no randomness: ids and times come in as arguments.
Rule 2: every other part of tracewatch follows the protocol by calling this room, never by copying from it.
"""
