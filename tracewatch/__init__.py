"""Record AI agents' runs in a replayable event log and watch them live."""

__version__ = "0.1.0"
