"""The examples of the README work as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from pathlib import Path

import httpx
import pytest

from tracewatch.client.api import Api

from .support import serving

pytestmark = pytest.mark.anyio
README = Path(__file__).resolve().parent.parent / "README.md"


def block(language: str, holding: str) -> str:
    """The README's code block of this language that has these words in it."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    found = [code for code in blocks if holding in code]
    assert len(found) == 1, f"{len(found)} {language} blocks of the README hold {holding!r}"
    return str(found[0])


async def run(command: list[str], url: str, tmp_path: Path) -> str:
    env = {**os.environ, "TRACEWATCH_URL": url, "TRACEWATCH_SPOOL_DIR": str(tmp_path / "spool")}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, said.decode()
    return said.decode()


async def test_the_lines_that_record_a_run(tmp_path: Path) -> None:
    async with serving(tmp_path / "t.db") as server:
        assert await run([sys.executable, "-c", block("python", "t.goal(")], server.url, tmp_path) == ""
        api = Api(server.url)
        traces = {t["agent_type"]: t for t in (await asyncio.to_thread(api.traces))["traces"]}
        coder, tester = traces["coder"], traces["tester"]
        assert (coder["status"], tester["status"]) == ("completed", "completed")
        assert (coder["task"], tester["parent_trace_id"]) == ("Fix the login bug", coder["trace_id"])
        messages = (await asyncio.to_thread(api.messages, coder["trace_id"]))["messages"]
        assert [m["description"] for m in messages] == ["grep", "It is the cookie.", "Fixed."]
        assert messages[0]["content"] == {
            "tool_name": "grep",
            "arguments": {"pattern": "login"},
            "result": "3 matches",
        }
        shown = await asyncio.to_thread(api.trace, coder["trace_id"])
        assert [(g["description"], g["status"]) for g in shown["goal_tree"]["goals"]] == [
            ("Find the cause", "completed")
        ]


def curl(line: str) -> tuple[str, dict[str, str], str]:
    """Address, headers and body of a curl command: there need not be a curl where this runs."""
    words = shlex.split(line)
    assert words[:2] == ["curl", "-s"]
    headers = [words[i + 1].split(": ") for i, word in enumerate(words) if word == "-H"]
    return words[2], dict(headers), words[words.index("-d") + 1]


async def test_the_lines_for_curl_and_the_lines_that_watch(tmp_path: Path) -> None:
    async with serving(tmp_path / "t.db") as server, httpx.AsyncClient() as client:
        for line in block("sh", '"task": "Fix').replace("\\\n", " ").strip().splitlines():
            address, headers, body = curl(line)
            url = server.url + address.removeprefix("localhost:8400")
            # As curl does it, which names a form where no type is given
            headers = {"content-type": "application/x-www-form-urlencoded", **headers}
            answer = await client.post(url, headers=headers, content=body)
            assert answer.is_success, answer.text
        code = "import tracewatch\n" + block("python", "print(event[")
        said = await run([sys.executable, "-c", code], server.url, tmp_path)
        assert said.splitlines() == ["1 message_added", "2 trace_completed"]
        code = "import tracewatch\nsaved_cursor, handle, save = '1', print, print\n" + block("python", "saved_cursor")
        said = await run([sys.executable, "-c", code], server.url, tmp_path)
        assert [line.split(".")[-1] for line in said.splitlines()][1:] == ["2"]
