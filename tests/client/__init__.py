"""Tests of the recorder, the watch client and the REST calls."""
