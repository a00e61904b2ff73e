"""``python -m tracewatch.server.worker FD NUMBER FOLDER``:

One of several processes that serve one socket. Started by ``run.supervise``.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys

from ..errors import LogError
from ..settings import Settings
from .logs import configure
from .metrics.workers import Place
from .run import WORKER_SETTINGS, serve_socket


def _ready() -> None:
    os.write(1, b"ready\n")


def main() -> int:
    """Serve the inherited socket until SIGTERM, or until standard input ends because the parent has died."""
    parent = os.getppid()
    bound = socket.socket(fileno=int(sys.argv[1]))
    settings = Settings(**json.loads(os.environ[WORKER_SETTINGS]))
    place = Place(int(sys.argv[2]), settings.workers, sys.argv[3])
    configure(settings.log_level)
    try:
        serve_socket(settings, bound, _ready, orphan_fd=0, place=place)
    except LogError as error:
        os.write(2, f"{error.message}\n".encode())
        return 1
    except KeyboardInterrupt:
        pass
    finally:
        if os.getppid() != parent:  # else the parent does it
            shutil.rmtree(place.folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
