"""``kill -9`` at any moment: every acknowledged event is in the log once, and the file is whole."""
