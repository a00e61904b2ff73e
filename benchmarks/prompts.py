"""prompts: what a conversation of model calls takes in the database, beside its text.

Each call is asked all that was said before, as agents ask: a recorder that kept every prompt whole would take as many
times the text as there are calls. Prompts are compared with what the calls were asked.

The agent is a process of its own (``python -m benchmarks.prompts URL SPOOL NAME SIZE CALLS STREAMED``), because a
recorder finishes its work when its process ends.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import orjson

import tracewatch

from .harness import Bench, Process, Server, check

PIECE = 40  # characters of a stream
WORDS = ("session", "cookie", "store", "before", "opened", "first", "request", "login", "fails", "reads", "token")
MIXED = 0  # in place of a size: lengths around 2,000, the longest ten times as long


def texts(size: int) -> Iterator[str]:
    """Texts of words and numbers, of so many characters each."""
    random = Random(size)
    while True:
        wanted = size or min(20_000, int(random.lognormvariate(7.1, 1.0)))
        found = " ".join(f"{random.choice(WORDS)} {random.randrange(1000)}" for _ in range(wanted // 6 + 1))
        yield found[:wanted]


def record(url: str, spool: str, name: str, size: int, calls: int, streamed: bool) -> None:
    """Record a conversation. Prints the ids of its calls."""
    text, said, ids = texts(size), list[dict[str, str]](), []
    with tracewatch.trace("conversation", trace_id=name, url=url, spool_dir=spool) as trace:
        for _ in range(calls):
            said.append({"role": "user", "content": next(text)})
            answer = next(text)
            with trace.llm("claude-sonnet-4-5", messages=said) as call:
                if streamed:
                    for start in range(0, len(answer), PIECE):
                        call.stream(answer[start : start + PIECE])
                else:
                    call.answer(answer)
                call.usage(input_tokens=100, output_tokens=100)
            said.append({"role": "assistant", "content": answer})
            ids.append(call.id)
    check(trace.flush(60), "not all was delivered")
    print(orjson.dumps(ids).decode(), flush=True)


def used_bytes(db: Path) -> int:
    """The bytes of a database's pages, without those that are free."""
    with closing(sqlite3.connect(db)) as connection:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
    return int((pages - free) * size)


def measure(bench: Bench, server: Server, db: Path, size: int, *, streamed: bool) -> tuple[float, float]:
    """Record a conversation: what it took in the database, and its text, in MB."""
    calls = bench.pick(200, 20)
    name = f"{size or 'mixed'}-{'streamed' if streamed else 'answered'}"
    before = used_bytes(db)
    arguments = (server.url, str(bench.folder / "spool"), name, str(size), str(calls), str(int(streamed)))
    with Process("-m", "benchmarks.prompts", *arguments, env={"TRACEWATCH_QUIET": "1"}) as process:
        ids = orjson.loads(process.line(120))
        check(process.wait() == 0, "the agent failed")
    taken = used_bytes(db) - before
    text = texts(size)
    roles = ("user", "assistant")
    said = [{"role": roles[number % 2], "content": next(text)} for number in range(2 * calls)]
    for number in {*range(0, calls, 20), calls - 1}:
        answer = orjson.loads(server.call("GET", f"/api/traces/{name}/messages/{ids[number]}?prompt=1"))["prompt"]
        check(answer["exact"] is True and answer["input"] == said[: 2 * number + 1], f"the prompt of call {number}")
    return taken / 1e6, sum(len(one["content"]) for one in said) / 1e6


def run(bench: Bench) -> None:
    """Conversations of texts of several lengths, given at once and streamed."""
    bench.report.title("prompts: 200 model calls over 400 messages, what they take in the database beside their text")
    db = bench.folder / "log.db"
    with Server(db) as server:
        server.create_trace("first")
        for size in (500, 1000, 3000, 8000, MIXED):
            for streamed in (False, True):
                about = f"texts of {size:,} characters" if size else "texts of all lengths, 2,000 characters on average"
                taken, text = measure(bench, server, db, size, streamed=streamed)
                label = f"{about}, {'streamed' if streamed else 'given at once'}"
                target = 1.5 if size >= 3000 else None  # below it the JSON around a text is as long as half of it
                bench.report.ratio(label, [taken], [text], "MB", at_most=target, names=("database", "text"))


if __name__ == "__main__":
    url, spool, name, size, calls, streamed = sys.argv[1:]
    record(url, spool, name, int(size), int(calls), streamed == "1")
