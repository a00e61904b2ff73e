"""Between the wires and the log: what foreign tracers send becomes items (items.py), and these events (ingester.py)."""
