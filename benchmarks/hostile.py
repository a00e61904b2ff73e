"""hostile: the delay of an event at fifty good watchers while a hostile client is at work, beside a quiet time.

The hostile clients are those of tests/hostile, where tests check that no event is missed and nothing stays behind.
"""

from __future__ import annotations

import asyncio

from tests.hostile.clients import ABUSES
from tests.hostile.siege import RATE, Outcome, siege

from .harness import Bench, Server, check
from .soak import percentile


def run(bench: Bench) -> None:
    """Measure one hostile client after the other in rounds, each beside a quiet time just before it."""
    events, rounds = bench.pick(6, 2) * RATE, bench.pick(3, 1)
    report = bench.report
    report.title(f"hostile: delay from append to 50 watchers, {events} events at {RATE} a second, during each abuse")
    settings = {"write_stall_s": 5, "request_stall_s": 5, "ws_ping_s": 20, "heartbeat_s": 5}
    with Server(bench.folder / "log.db", **settings) as server:

        def measured(name: str, *abuse: str) -> Outcome:
            outcome = asyncio.run(siege(server.port, server.pid, abuse, events=events, good=name))
            for watcher in outcome.watchers:
                check(watcher.event_ids == list(range(1, events + 1)), f"{name}: a watcher missed an event")
            return outcome

        for name in ABUSES:
            pairs = [(measured(f"before-{name}-{n}"), measured(f"{name}-{n}", name)) for n in range(rounds)]
            before, ours = ([percentile(one.delays_ms, 0.99) for one in side] for side in zip(*pairs, strict=True))
            during = max((one for _, one in pairs), key=lambda one: one.rss_most_kib - one.rss_before_kib)
            report.ratio(f"{name}, p99", ours, before, "ms", at_most=2, names=("during", "before"))
            report.note(
                f"memory {(during.rss_most_kib - during.rss_before_kib) / 1024:+.0f} MiB at most, descriptors "
                f"{during.descriptors_before} before and {during.descriptors_after} after (clients on the same cores)"
            )
