"""Tests of the command line: what is pure first, then the commands on a real server."""
