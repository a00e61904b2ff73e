"""Tests of the log: the contract suite, which every storage engine must pass, and tests of SQLite's own parts."""
