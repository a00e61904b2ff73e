"""The contract suite: tests that any storage engine must pass."""
