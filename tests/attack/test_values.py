"""Values of an agent that do harm: each is recorded by a process of its own, which has to end by itself and in time."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import tracewatch
from tests.attack import sweep
from tests.attack.nasty import MAKERS
from tracewatch.client.call import ModelCall
from tracewatch.client.handles import Goal, Message, ToolCall

BEGIN = """
import enum, sys, threading
import tracewatch
t = tracewatch.trace("run", url=f"sqlite:///{sys.argv[1]}/t.db", spool_dir=sys.argv[1])
"""
VALUES = {
    "a list that a repr changes": """
grown = []
class Shrinks:
    def __repr__(self):
        del grown[1:]
        grown.extend(bytes(10) for _ in range(20_000))
        return "x"
for _ in range(5):
    grown[:] = [Shrinks()] + [str(n) * 10 for n in range(1_000)]
    t.message("user", grown)
    t.event("e", value=grown)
""",
    "links to parents": """
nodes = [{} for _ in range(20)]
for node in nodes: node["all"] = nodes
t.message("user", nodes)
""",
    "a tuple of 50,000 levels": """
deep = ()
for _ in range(50_000): deep = (deep,)
t.message("user", deep)
t.event("e", value=[deep, object()])
""",
    "metadata without a truth": """
class Array:
    def __bool__(self): raise ValueError("ambiguous")
    __len__ = __bool__
with t.sub_trace("child", metadata=Array()) as child: pass
""",
    "50 MB of bytes": "t.message('user', bytes(50_000_000))",
    "an integer of 10,000 digits": "t.message('user', {'n': 10**10_000})\nt.event('e', n=[10**10_000])",
    "a repr that waits for another thread which records": """
class Waits:
    def __repr__(self):
        other = threading.Thread(target=lambda: t.message("user", "of another"))
        other.start(); other.join()
        return "waited"
t.message("user", [Waits()])
with t.message("assistant") as m: m.set(own=[Waits()])
t.add_goal("g").complete(Waits())
with t.tool_call("tool", [Waits()]) as call: call.result(Waits())
""",
}


@pytest.mark.parametrize("code", VALUES.values(), ids=VALUES)
def test_a_value_does_no_harm(code: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"{BEGIN}{code}\nt.complete()\nprint('done')", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")


LOGGING = """
import logging, pathlib, sys, threading
import tracewatch
start = threading.Thread.start
def refuse(self):
    if self.name.startswith("tracewatch"): raise RuntimeError("can't start new thread")
    start(self)
threading.Thread.start = refuse
class Waits(logging.Handler):
    def createLock(self): self.lock = None  # that of logging itself would be in the way
    def emit(self, record):
        said.append(record.getMessage())
        other = threading.Thread(target=lambda: t.message("user", "of another"))
        other.start(); other.join()
said = []
logging.getLogger("tracewatch").addHandler(Waits())
pathlib.Path(sys.argv[1], "file").touch()
t = tracewatch.trace("run", url="http://127.0.0.1:1", spool_dir=f"{sys.argv[1]}/file/spool")
t.message("user", "hello")
with t.message("assistant") as m: m.stream("x")
assert len(said) == 2, said  # the disk takes nothing, and no thread can start
print("done", flush=True)
import os; os._exit(0)
"""


def test_a_handler_of_logging_that_waits_for_another_thread_which_records(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOGGING, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")


# In parts, so that several processes of pytest share the work
LARGE = [name for name in MAKERS if name.startswith(("long_", "many_", "deque_", "changed_", "linked_", "Node"))]
SMALL = [name for name in MAKERS if name not in LARGE]
PARTS = {"large": LARGE[::2], "large-too": LARGE[1::2], "small": SMALL[::2], "small-too": SMALL[1::2]}


@pytest.mark.slow
@pytest.mark.parametrize("names", PARTS.values(), ids=PARTS)
def test_no_value_harms_in_any_public_method(names: list[str]) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.attack.sweep", *names]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=Path(__file__).parents[2])
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout + ran.stderr


def test_every_public_method_is_swept() -> None:
    """A method that is added to a trace, goal, message or tool call has to be called there as well."""
    source = inspect.getsource(sweep)
    known = {"flush", "aflush", "aask", "pending", "dropped", "page_url"}  # they take no value; or as ``ask`` does
    for kind in (tracewatch.Trace, Goal, Message, ModelCall, ToolCall):
        names = {name for name in vars(kind) if not name.startswith("_")}
        missing = {name for name in names - known if f".{name}" not in source}
        assert missing - {"add", "text_step", "forget_text"} == set(), kind
