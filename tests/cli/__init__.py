"""Tests of the command line: its pure parts by themselves, and the commands on a real server."""
