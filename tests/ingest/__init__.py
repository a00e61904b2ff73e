"""Tests of the room between foreign tracers and the log."""
