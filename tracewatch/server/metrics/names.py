"""Every metric once: name, type, meaning and labels. ``/metrics`` and the table in the docs are derived from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Described:
    """One metric: its name without ``tracewatch_``, its type, its meaning, and its labels besides ``worker``."""

    name: str
    type: str
    help: str
    labels: tuple[str, ...] = ()
    shared: bool = False  # of the log and not of a process: it has no label ``worker``

    @property
    def full_name(self) -> str:
        """The name on ``/metrics``."""
        return f"tracewatch_{self.name}" + ("_total" if self.type == "counter" else "")


METRICS = (
    Described("appended_events", "counter", "Events stored and committed, those the server writes included"),
    Described("appended_bytes", "counter", "Bytes of those events"),
    Described("appends", "counter", "Appends stored"),
    Described("appends_refused", "counter", "Appends the log refused, by the error's code", ("code",)),
    Described("commit_seconds", "histogram", "Transactions, from waiting for the file's lock to after their commit"),
    Described("group_jobs", "histogram", "Appends and other jobs written in one transaction"),
    Described("failed_groups", "counter", "Transactions that the database failed"),
    Described("trims", "counter", "Logs that retention has made to begin later"),
    Described("outdated_traces", "counter", "Traces that retention has deleted for their age"),
    Described("log_ready", "gauge", "1, or 0 while something is wrong with the log; `/readyz` says what"),
    Described(
        "log_troubles", "gauge", "1 for each thing that is wrong with the log, by its code on `/readyz`", ("code",)
    ),
    Described("waiting_jobs", "gauge", "Appends and other jobs that wait for the transaction being written"),
    Described("watchers", "gauge", "Watchers: waiting (for their trace to exist), catching_up or at_head", ("state",)),
    Described("watched_traces", "gauge", "Traces somebody watches"),
    Described(
        "watcher_lag_events",
        "gauge",
        "Events a watcher is behind its trace: quantiles, 1.0 is the furthest",
        ("quantile",),
    ),
    Described("watches", "counter", "Watches begun"),
    Described("delivered_events", "counter", "Events handed to watchers"),
    Described(
        "resumes",
        "counter",
        "Watches that began after an event, or whose past is gone: ok, trimmed, reset, ahead",
        ("outcome",),
    ),
    Described("fell_behind", "counter", "Times a watcher was too slow for live and was paced from the log"),
    Described(
        "sockets",
        "gauge",
        "Open sockets and streams; subscription, recording: those on watch_many and record_many sockets",
        ("kind",),
    ),
    Described(
        "sockets_closed",
        "counter",
        "Sockets and streams that ended: left (by the client), end, goaway, stalled, an error's code",
        ("kind", "reason"),
    ),
    Described("stalls_aborted", "counter", "Connections freed because their peer took no byte for `write_stall_s`"),
    Described(
        "auth_failures",
        "counter",
        "Requests and handshakes refused for who they are or where they come from",
        ("reason",),
    ),
    Described("http_requests", "counter", "Answers, by the route's template", ("route", "method", "status")),
    Described(
        "http_answer_seconds", "histogram", "From a request's first byte to its answer's first", ("route", "method")
    ),
    Described("poll_age_seconds", "gauge", "Since the log last answered this process's look for what others wrote"),
    Described("hints", "counter", "Traces told to have grown: poll (its own appends included), redis", ("source",)),
    Described("redis_up", "gauge", "1 while hints travel over Redis, 0 while only the poll goes on. Only with --redis"),
    Described(
        "ingested",
        "counter",
        "From foreign tracers: item (came), repeat (of these), event (written), refused (by the log, and kept), "
        "failed (a defect), unknown (not understood), unreadable (bodies)",
        ("source", "what"),
    ),
    Described("leaving", "gauge", "1 once the server has begun to shut down"),
    Described("worker_up", "gauge", "1 if the worker's numbers are in this scrape, 0 if it did not answer"),
    Described("build_info", "gauge", "1; versions are in the labels", ("version", "sqlite", "python")),
    Described(
        "log_up",
        "gauge",
        "1 if the log could be asked for what follows, else 0 and what follows is absent",
        shared=True,
    ),
    Described("traces", "gauge", "Traces that have not ended: running, waiting, idle, lost", ("status",), shared=True),
    Described("leases", "gauge", "Live traces whose recorder is alive by its lease", shared=True),
    Described("open_inputs", "gauge", "Questions waiting for an answer", shared=True),
    Described("database_bytes", "gauge", "Size of the database file", shared=True),
    Described("wal_bytes", "gauge", "Size of its write-ahead log", shared=True),
    Described("disk_free_bytes", "gauge", "Free on its disk", shared=True),
)


def markdown_table() -> str:
    """The table of every metric for the docs, without a final newline."""
    rows = ["| metric | type | labels | what |", "| --- | --- | --- | --- |"]
    for one in METRICS:
        labels = ", ".join(f"`{label}`" for label in (*(() if one.shared else ("worker",)), *one.labels))
        rows.append(f"| `{one.full_name}` | {one.type} | {labels} | {one.help} |")
    return "\n".join(rows)
