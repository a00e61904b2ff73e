"""The viewer in a real Chromium, against the real server in a process of its own."""
