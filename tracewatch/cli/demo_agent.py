"""The demo's agent explores a folder: it plans, calls real tools, starts two helpers and reports its findings.

Rule 1: everything it says was found by its tools. There is no model: the wording comes from templates, and tokens and
        costs are estimates, as the trace's metadata says.
Rule 2: it records with the public client only, as any user's agent would.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import Cancelled, Expired, Trace, trace
from .demo_tools import Workshop
from .text import count

MODEL = "offline-demo"
DOLLARS_PER_TOKEN = 1e-6
METADATA = {
    "demo": True,
    "model": "none: offline, the findings are real, their wording is a template",
    "estimates": "tokens are characters / 4; cost is a made-up $1 per million tokens",
}
WORDS_PER_S = 8.0
THINK_S = 1.8  # pause before a tool is called
TOOL_S = 0.7  # pause while a tool works
FLUSH_S = 5.0
READ_FILES = 4  # files that the reader reads in one run
ASK_S = 60.0  # wait for an answer; without one the agent goes on by itself
EVERYTHING = "all of it"


class Interrupted(Exception):
    """The run shall end, because the user stopped the demo."""


class DemoRun:
    """One run of the demo: the folder, the speed and the stop signal that its agents share."""

    def __init__(self, folder: Path, *, speed: float = 1.0, number: int = 1, asks: bool = False) -> None:
        self.tools = Workshop(folder)
        self.number = number  # of the runs of this process, from 1
        self.asks = asks  # whether the agent asks the user for a folder
        self._speed = speed
        self._stop = threading.Event()

    def stop(self) -> None:
        """End every agent of the run at its next pause."""
        self._stop.set()

    def pause(self, seconds: float) -> None:
        """Wait ``seconds`` divided by the speed. Raises Interrupted once the run is stopped."""
        if self._stop.wait(seconds / self._speed):
            raise Interrupted


class Agent:
    """One agent of a run, with the trace that it records into."""

    def __init__(self, demo: DemoRun, recorded: Trace) -> None:
        self.demo = demo
        self.trace = recorded

    def pause(self, seconds: float) -> None:
        """Wait as ``DemoRun.pause`` does. Raises Interrupted, and Cancelled after a cancel."""
        self.demo.pause(seconds)
        self.trace.raise_if_cancelled()

    def say(self, words: str) -> str:
        """Stream ``words`` as an assistant's message and return them."""
        pieces = re.findall(r"\S+\s*", words)
        tokens = max(len(words) // 4, 1)
        with self.trace.message("assistant", model=MODEL) as message:
            for piece in pieces:
                message.stream(piece)
                self.pause(1 / WORDS_PER_S)
            message.set(tokens=tokens, cost=round(tokens * DOLLARS_PER_TOKEN, 9))
        return words

    def use(self, tool: Callable[..., Any], **arguments: Any) -> Any:
        """Call a tool and return its result. An error of the tool is recorded; the result is None then."""
        self.pause(THINK_S)
        with self.trace.tool_call(tool.__name__, arguments) as call:
            self.pause(TOOL_S)
            try:
                result = tool(**arguments)
            except (OSError, ValueError, SyntaxError) as error:
                call.error(error)
                return None
            call.result(_short(result))
        return result


def explore(demo: DemoRun, *, url: str, spool_dir: str) -> Trace:
    """Explore the folder in one run and end it with a summary. Returns its trace, which has ended.

    Ctrl-C and ``DemoRun.stop`` end the trace as stopped and are raised again. A cancel only ends it as stopped.
    """
    task = f"Get to know {demo.tools.folder.name}: what is in it, how is it built, what is left to do?"
    ended_by: BaseException | None = None
    with trace(task, agent_type="explorer", metadata=METADATA, url=url, spool_dir=spool_dir) as recorded:
        recorded.on_cancel(demo.stop)
        try:
            _explore(Agent(demo, recorded))
        except Cancelled as error:
            demo.stop()
            recorded.stop(str(error))
        except (Interrupted, KeyboardInterrupt, SystemExit) as error:
            demo.stop()
            recorded.stop(_why(recorded))
            ended_by = None if recorded.cancelled else error
    recorded.flush(FLUSH_S)  # the next request to the server finds the end there
    if ended_by is not None:
        raise ended_by
    return recorded


def _explore(me: Agent) -> None:
    recorded, tools = me.trace, me.demo.tools
    recorded.message("system", "You explore a folder with the tools you have and report what you find.")
    recorded.message("user", f"What is in {tools.folder}, how is it built, and what is left to do?")
    look = recorded.add_goal("See what is there", reason="everything else depends on it")
    build = recorded.add_goal("Understand how it is built", reason="two helpers can look side by side")
    report = recorded.add_goal("Sum it up")

    look.start()
    me.say("I will look at the files first, then have one helper read the largest and another check them.")
    files = me.use(tools.list_files, pattern="*") or []
    lines = me.use(tools.count_lines) or {}
    largest = me.use(tools.largest, count=5) or []
    me.use(tools.read_file, name="README.md", last=5)
    me.say(_inventory(tools.folder.name, files, lines))
    look.complete(f"{len(files)} files")

    build.start()
    if me.demo.asks:
        largest = _ask_where(me, files, largest)
    findings = _with_helpers(me, build, largest)
    imported = me.use(tools.most_imported) or {}
    if imported:
        me.say(
            "What it stands on: "
            + ", ".join(f"{name} ({count(files_with, 'file')})" for name, files_with in imported.items())
            + "."
        )
    build.complete("; ".join(finding for finding in findings.values() if finding) or "no Python files")

    report.start()
    summary = _inventory(tools.folder.name, files, lines) + " " + " ".join(findings.values())
    me.say(summary)
    report.complete()
    recorded.complete(summary.strip())


def _why(recorded: Trace) -> str:
    """The reason why a run was stopped."""
    try:
        recorded.raise_if_cancelled()
    except Cancelled as error:
        return str(error)
    return "interrupted by the user"


def _ask_where(me: Agent, files: list[str], largest: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ask the watchers for a folder and return its largest files; without an answer, those of the fullest folder."""
    folders = Counter(name.partition("/")[0] for name in files if "/" in name)
    options = [name for name, _ in folders.most_common(5)]
    if not options:
        return largest
    try:
        folder = me.trace.ask(
            "Which folder shall I look at more closely?", options=[*options, EVERYTHING], expires_in_s=ASK_S
        )
    except Expired:
        folder = options[0]
        me.say(f"Nobody said where to look more closely, so I take {folder}.")
    if folder == EVERYTHING:
        return largest
    rows = me.use(me.demo.tools.largest, count=len(files)) or []
    return [row for row in rows if row["file"].startswith(f"{folder}/")][:5]


def _with_helpers(me: Agent, goal: Any, largest: list[dict[str, Any]]) -> dict[str, str]:
    """Run the reader and the checker side by side; returns the findings of each."""
    findings: dict[str, str] = {"reader": "", "checker": ""}
    jobs = {
        "reader": ("Read the largest files and say what each is for", read),
        "checker": ("Check for loose ends: long functions, missing docstrings, open TODOs", check),
    }

    def work(name: str) -> None:
        task, job = jobs[name]
        with me.trace.sub_trace(task, agent_type=name, goal=goal, metadata=METADATA) as recorded:
            try:
                findings[name] = job(Agent(me.demo, recorded), largest)
                recorded.complete(findings[name])
            except (Interrupted, Cancelled):
                recorded.stop(_why(recorded))

    threads = [threading.Thread(target=work, args=(name,), name=name, daemon=True) for name in jobs]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
                me.pause(0)
    except BaseException:
        me.demo.stop()
        raise
    finally:
        # An interrupted agent ends after its helpers, so that each trace gets its end.
        for thread in threads:
            thread.join(2.0)
    return findings


def read(me: Agent, largest: list[dict[str, Any]]) -> str:
    """The reader looks at the largest files and says a sentence about each. Returns its summary."""
    names = [str(row["file"]) for row in largest] or me.demo.tools.list_files()[:READ_FILES]
    shift = (me.demo.number - 1) % len(names) if names else 0
    names = (names[shift:] + names[:shift])[:READ_FILES]
    goals = [(name, me.trace.add_goal(f"Read {name}")) for name in names]
    told = []
    for name, goal in goals:
        goal.start()
        head = me.use(me.demo.tools.read_file, name=name, last=30)
        outline = me.use(me.demo.tools.outline, name=name) if name.endswith(".py") else None
        me.say(_about(name, outline, head))
        goal.complete()
        told.append(name)
    return f"Read {len(told)} of the largest files: {', '.join(told)}." if told else "There was nothing to read."


def check(me: Agent, largest: list[dict[str, Any]]) -> str:
    """The checker looks for unfinished places. Returns its summary."""
    tools, parts = me.demo.tools, []
    with me.trace.goal("Find long functions"):
        longest = me.use(tools.longest_functions, count=5)
        if longest:
            top = longest[0]
            parts.append(
                f"the longest function is {top['function']} ({top['lines']} lines, {top['file']}:{top['line']})"
            )
            me.say(f"{parts[-1][0].upper()}{parts[-1][1:]}; the fifth has {longest[-1]['lines']} lines.")
    with me.trace.goal("Look for what is marked as unfinished"):
        todos = me.use(tools.grep, pattern=r"\b(TODO|FIXME|XXX|HACK)\b") or {"total": 0, "matches": []}
        broad = me.use(tools.grep, pattern=r"except\s*(Exception)?\s*:", suffix=".py") or {"total": 0}
        parts.append(f"{todos['total']} lines say TODO or FIXME and {broad['total']} catch everything")
        first = f" The first: {todos['matches'][0]}." if todos["matches"] else ""
        me.say(f"{parts[-1]}.{first}")
    with me.trace.goal("See what is documented"):
        docs = me.use(tools.undocumented)
        if docs and docs["public"]:
            share = 100 * (docs["public"] - docs["without"]) // docs["public"]
            parts.append(f"{share} % of {docs['public']} public names have a docstring")
            me.say(f"{parts[-1]}; {len(docs['modules_without'])} modules say nothing about themselves.")
    words = "; ".join(parts)
    return f"{words[0].upper()}{words[1:]}."


def _inventory(name: str, files: list[str], lines: dict[str, dict[str, int]]) -> str:
    kinds = ", ".join(
        f"{count(row['lines'], 'line')} in {count(row['files'], f'{suffix} file')}"
        for suffix, row in list(lines.items())[:3]
    )
    folders = len({file.rpartition("/")[0] for file in files})
    return f"{name} has {count(len(files), 'file')} in {count(folders, 'folder')}" + (f": {kinds}." if kinds else ".")


def _about(name: str, outline: dict[str, Any] | None, head: str | None) -> str:
    if outline is None:
        first = next((line.strip() for line in (head or "").splitlines() if line.strip()), "nothing I could read")
        return f"{name} begins with: {first[:120]}"
    words = f"{name} has {_classes(outline)} and {count(outline['functions'], 'function')}"
    if outline["longest"]:
        words += f", the longest being {outline['longest']['name']} with {outline['longest']['lines']} lines"
    return f"{words}. It says of itself: {outline['docstring'] or 'nothing'}"


def _classes(outline: dict[str, Any]) -> str:
    number = len(outline["classes"])
    return "1 class" if number == 1 else f"{number} classes"


def _short(result: Any) -> Any:
    """A tool's result, shortened to a size that suits an event."""
    if isinstance(result, list) and len(result) > 20:
        return {"total": len(result), "first": result[:20]}
    return result[:4000] if isinstance(result, str) else result
