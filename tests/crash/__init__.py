"""``kill -9`` in the middle of everything: what was acknowledged is there once, and the file is whole."""
