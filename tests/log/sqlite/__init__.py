"""Tests of the parts that only a log in a SQLite file has: its file, and the tools for it."""
