"""``GET /metrics``: all numbers in Prometheus's text format. The metrics are listed in names.py.

Rule 1: numbers are read when they are asked for, from plain attributes of components that know nothing of metrics.
Rule 2: no label has a value that clients choose: no trace, no watcher, no address.
Rule 3: the numbers of a process have the label ``worker``, and one scrape has those of all workers (workers.py). The
        numbers of the log are told once.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from ...errors import TracewatchError
from ...log.counts import Buckets
from ..http import Services, services
from .names import METRICS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
QUANTILES = (0.5, 0.9, 0.99, 1.0)


_BY_NAME = {one.name: one for one in METRICS}


class Families:
    """Metrics and their values, collected for one scrape."""

    def __init__(self) -> None:
        self.found: dict[str, Metric] = {}

    def metric(self, name: str) -> Metric:
        """The metric of ``METRICS`` with this name."""
        if name not in self.found:
            one = _BY_NAME[name]
            self.found[name] = Metric(f"tracewatch_{name}", one.help, one.type)
        return self.found[name]

    def add(self, name: str, value: float, **labels: str) -> None:
        """One value of a counter or a gauge."""
        assert _BY_NAME[name].labels == tuple(labels), name
        self.metric(name).add_sample(_BY_NAME[name].full_name, labels, value)

    def each(self, name: str, label: str, values: Mapping[str, float]) -> None:
        """One value for each value of the metric's only label."""
        self.metric(name)  # listed even if there are no values
        for key, value in values.items():
            self.add(name, value, **{label: key})

    def buckets(self, name: str, buckets: Buckets, **labels: str) -> None:
        """A histogram."""
        metric, so_far = self.metric(name), 0
        bounds = [*(f"{bound:g}" for bound in buckets.bounds), "+Inf"]
        for bound, count in zip(bounds, buckets.counts, strict=True):
            so_far += count
            metric.add_sample(f"{metric.name}_bucket", {**labels, "le": bound}, so_far)
        metric.add_sample(f"{metric.name}_sum", labels, buckets.total)
        metric.add_sample(f"{metric.name}_count", labels, so_far)


def own_families(served: Services) -> list[Metric]:
    """This process's numbers."""
    families = Families()
    _of_log(families, served)
    _of_hub(families, served)
    _of_edge(families, served)
    families.add("poll_age_seconds", time.monotonic() - served.poll.looked_at)
    hints = {"poll": served.poll.hints}
    if served.redis is not None:
        hints["redis"] = served.redis.hints
        families.add("redis_up", float(served.redis.health.ok))
    families.each("hints", "source", hints)
    families.add("worker_up", 1)
    versions = {"version": version("tracewatch"), "sqlite": served.log.engine_version}
    families.add("build_info", 1, **versions, python=platform.python_version())
    process = [*ProcessCollector(registry=None).collect(), *PlatformCollector(registry=None).collect()]
    return [*families.found.values(), *process]


def _of_log(families: Families, served: Services) -> None:
    counts = served.log.counts
    families.add("appended_events", counts.events)
    families.add("appended_bytes", counts.bytes)
    families.add("appends", counts.appends)
    families.each("appends_refused", "code", counts.refused)
    families.buckets("commit_seconds", counts.commit_s)
    families.buckets("group_jobs", counts.group_jobs)
    families.add("failed_groups", counts.failed_groups)
    families.add("trims", counts.trims)
    families.add("outdated_traces", counts.outdated)
    families.add("waiting_jobs", served.log.waiting)
    troubles = {trouble.code: 1 for trouble in served.log.health.troubles}
    families.add("log_ready", 0 if troubles else 1)
    families.each("log_troubles", "code", troubles)


def _of_hub(families: Families, served: Services) -> None:
    look, counts = served.hub.look(), served.hub.counts
    families.each("watchers", "state", look.states)
    families.add("watched_traces", look.traces)
    families.each("watcher_lag_events", "quantile", {str(q): _quantile(look.lags, q) for q in QUANTILES})
    families.add("watches", counts.started)
    families.add("delivered_events", look.delivered)
    families.each("resumes", "outcome", {**dict.fromkeys(("ok", "trimmed", "reset", "ahead"), 0), **counts.resumes})
    families.add("fell_behind", counts.fell_behind)
    families.add("leaving", float(look.leaving))


def _quantile(ascending: Sequence[int], quantile: float) -> int:
    return ascending[min(len(ascending) - 1, int(quantile * len(ascending)))] if ascending else 0


def _of_edge(families: Families, served: Services) -> None:
    seen = served.observed
    families.each("sockets", "kind", seen.open)
    families.metric("sockets_closed")
    for (kind, reason), count in seen.closed.items():
        families.add("sockets_closed", count, kind=kind, reason=reason)
    families.add("stalls_aborted", served.stalls.aborted)
    families.each("auth_failures", "reason", seen.auth_failures)
    families.metric("ingested")
    for (source, what), count in served.ingester.counts.seen.items():
        families.add("ingested", count, source=source, what=what)
    families.metric("http_requests")
    families.metric("http_answer_seconds")
    for (route, method, status), count in seen.requests.items():
        families.add("http_requests", count, route=route, method=method, status=str(status))
    for (route, method), buckets in seen.answer_s.items():
        families.buckets("http_answer_seconds", buckets, route=route, method=method)


async def _shared_families(served: Services) -> list[Metric]:
    """The numbers of the log, which are the same in every worker."""
    families = Families()
    try:
        look = await served.log.look()
    except TracewatchError:  # /readyz says why
        families.add("log_up", 0)
        return list(families.found.values())
    families.add("log_up", 1)
    families.each("traces", "status", look.traces)
    families.add("leases", look.leases)
    families.add("open_inputs", look.open_inputs)
    families.add("database_bytes", look.db_bytes)
    families.add("wal_bytes", look.wal_bytes)
    families.add("disk_free_bytes", look.free_bytes)
    return list(families.found.values())


# --- all workers together --------------------------------------------------------------------------------------


def own_numbers(served: Services) -> list[Any]:
    """This process's numbers as JSON can say them, for another worker."""
    return [
        [metric.name, metric.documentation, metric.type, [[s.name, s.labels, s.value] for s in metric.samples]]
        for metric in own_families(served)
    ]


class _Collected(Collector):
    """The families of one scrape."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


async def exposition(served: Services) -> bytes:
    """The numbers of all workers in Prometheus's text format."""
    by_worker: dict[int, Any] = {served.siblings.place.number: own_numbers(served), **await served.siblings.ask()}
    merged: dict[str, Metric] = {}
    for number, families in sorted(by_worker.items()):
        if families is None:
            down = Families()
            down.add("worker_up", 0)
            families = [[one.name, one.documentation, one.type, one.samples] for one in down.found.values()]
        for name, help_text, kind, samples in families:
            metric = merged.setdefault(name, Metric(name, help_text, kind))
            for sample_name, labels, value, *_ in samples:
                metric.add_sample(sample_name, {"worker": str(number), **labels}, value)
    registry = CollectorRegistry()
    registry.register(_Collected([*merged.values(), *await _shared_families(served)]))
    return generate_latest(registry)


async def metrics(request: Request) -> Response:
    """``GET /metrics``."""
    return Response(await exposition(services(request)), headers={"Content-Type": CONTENT_TYPE})
