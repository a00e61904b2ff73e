"""Tests with real faults of disks, files, locks and descriptors."""
