"""The contract suite: what every log must keep, whatever it stores its events in; and what is SQLite's own."""
