"""Tests with hostile clients: the server serves all other clients as before."""
