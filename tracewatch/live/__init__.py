"""Fan-out: watchers, the head of each watched trace, and hints between processes."""
