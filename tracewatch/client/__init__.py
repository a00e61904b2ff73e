"""The client, which users import: record a trace, watch a trace, call the server. It has no server code.

Rule 1: ``watch_core``, ``outbox`` and ``encode`` hold the rules and do no I/O; the modules around them are thin edges.
Rule 2: nothing of the recorder may raise into the agent or block it because of the network, the disk or a bad value.
"""
