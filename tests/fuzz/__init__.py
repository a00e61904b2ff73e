"""Tests with random and damaged input, for the API, the sockets and the importers."""
