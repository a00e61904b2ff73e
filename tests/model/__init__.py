"""Tests of the model: pure, without a loop or a socket, and with the vectors as their only files."""
