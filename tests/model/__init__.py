"""Tests of the model: pure, without a loop, a socket or a file but the vectors."""
