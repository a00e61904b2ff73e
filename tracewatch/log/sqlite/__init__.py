"""The log in one SQLite file: the engine behind ``open_log("sqlite:///…")``, and the tools for its file."""
