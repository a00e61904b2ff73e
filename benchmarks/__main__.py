"""``python -m benchmarks [name…] [--quick]``: runs them one after the other."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import signal
import sqlite3
import sys
import tempfile
from pathlib import Path

from . import (
    append,
    backfill,
    connect,
    crossprocess,
    emit,
    fanout,
    hostile,
    ingest,
    leak,
    lists,
    listwatch,
    prompts,
    search,
    shape,
    soak,
    spans,
    streamed,
    trim,
    viewer,
)
from .harness import Bench, Report

ALL = {
    "append": append.run,
    "fanout": fanout.run,
    "backfill": backfill.run,
    "connect": connect.run,
    "emit": emit.run,
    "crossprocess": crossprocess.run,
    "listwatch": listwatch.run,
    "viewer": viewer.run,
    "leak": leak.run,
    "trim": trim.run,
    "prompts": prompts.run,
    "streamed": streamed.run,
}
NAMED_ONLY = {
    "hostile": hostile.run,
    "ingest": ingest.run,
    "lists": lists.run,
    "search": search.run,
    "shape": shape.run,
    "soak": soak.run,
    "spans": spans.run,
}  # only by name: long, or no ratios


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ours beside this machine's raw limit.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"{', '.join(ALL)}; all of them if none is named. By name only: {', '.join(NAMED_ONLY)}",
    )
    parser.add_argument("--quick", action="store_true", help="smaller and fewer rounds: to see that it works")
    parser.add_argument("--dir", type=Path, help="where the files go (default: the system's temporary folder)")
    chosen = parser.parse_args(argv)
    if unknown := [name for name in chosen.names if name not in {**ALL, **NAMED_ONLY}]:
        parser.error(f"no such benchmark: {', '.join(unknown)}")
    if not Path("/proc/self/stat").exists():
        parser.error("the benchmarks read /proc, so they need Linux")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all processes started here are stopped
    report = Report()
    print(
        f"{platform.python_implementation()} {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}. Ratios are median (min–max) of rounds"
    )
    for name in chosen.names or ALL:
        with tempfile.TemporaryDirectory(prefix=f"tracewatch-bench-{name}-", dir=chosen.dir) as folder:
            {**ALL, **NAMED_ONLY}[name](Bench(report, Path(folder), chosen.quick))
    if report.summary:
        report.title("Against the targets")
        for line in report.summary:
            report.note(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
