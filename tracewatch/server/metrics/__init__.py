"""What the server's edge counts and writes down, and ``/metrics``."""
