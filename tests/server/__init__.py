"""Tests of the server over real sockets: they see only the things that a client sees."""
