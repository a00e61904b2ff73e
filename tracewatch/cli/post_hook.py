"""A program of its own, for agents without HTTP hooks: sends a hook's input to a server, and prints the answer.

    python post_hook.py http://127.0.0.1:8400/api/hooks/codex?hold=590 600

Rule 1: it loads nothing of tracewatch and next to nothing of Python, as it runs for each hook of an agent.
Rule 2: it never fails: without an answer it prints nothing, and the agent goes on as if there were no hook.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import sys
from urllib.parse import urlsplit

CONNECT_S = 1.0


def main(url: str, timeout_s: float) -> None:
    """Send stdin to ``url``, and print the answer that comes within ``timeout_s`` seconds."""
    body = sys.stdin.buffer.read()
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=CONNECT_S)
    connection.connect()
    connection.sock.settimeout(timeout_s)
    headers = {"Content-Type": "application/json"}
    token = os.environ.get("TRACEWATCH_TOKEN")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    connection.request("POST", f"{parts.path}?{parts.query}", body, headers)
    answer = connection.getresponse()
    said = answer.read()
    if answer.status == 200 and said.strip() != b"{}":
        sys.stdout.buffer.write(said)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    with contextlib.suppress(Exception):  # the agent must not notice
        main(sys.argv[1], float(sys.argv[2]))
