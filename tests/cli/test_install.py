"""Hooks put into a coding agent's settings and taken out again: nothing of the user's is lost."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tests.support import serving
from tracewatch.cli import cli, post_hook
from tracewatch.cli.hook_settings import EVENTS
from tracewatch.cli.settings_file import BACKUP

pytestmark = pytest.mark.anyio
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "TRACEWATCH_URL", "TRACEWATCH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".claude").mkdir()
    return tmp_path


@pytest.fixture
def settings(home: Path) -> Path:
    return home / ".claude" / "settings.json"


def run(*args: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli, args, standalone_mode=False)
    failed = getattr(done.exception, "exit_code", 1) if done.exception else 0
    assert failed == code, done.output
    said = done.exception.format_message() if isinstance(done.exception, click.ClickException) else ""
    return done.output + said


def install(*args: str, code: int = 0) -> str:
    return run("install", "claude-code", "--url", NOBODY, *args, code=code)


def ours(found: dict[str, Any]) -> list[str]:
    return [
        event
        for event, groups in found.get("hooks", {}).items()
        for group in groups
        for hook in group["hooks"]
        if "/api/hooks/" in hook.get("url", hook.get("command", ""))
    ]


USERS = {
    "model": "opus",
    "permissions": {"allow": ["Bash(ls:*)"], "deny": []},
    "hooks": {
        "PreToolUse": [{"matcher": "Bash", "hooks": [{"type": "command", "command": "./check.sh é"}]}],
        "Stop": [],
        "SessionStart": [{"hooks": [{"type": "http", "url": "http://other/hooks"}]}],
    },
    "env": {"A": "1.50"},
}


def test_the_users_settings_stay_as_they_are_and_come_back_byte_for_byte(settings: Path) -> None:
    before = json.dumps(USERS, indent=4, ensure_ascii=False).encode() + b"\n\n"
    settings.write_bytes(before)
    settings.chmod(0o640)
    install()
    after = json.loads(settings.read_bytes())
    assert sorted(ours(after)) == sorted(EVENTS["claude-code"])
    assert {key: after[key] for key in USERS if key != "hooks"} == {key: USERS[key] for key in USERS if key != "hooks"}
    assert after["hooks"]["PreToolUse"][0] == USERS["hooks"]["PreToolUse"][0]  # type: ignore[index]
    assert b'    "model"' in settings.read_bytes() and "é".encode() in settings.read_bytes()
    assert settings.stat().st_mode & 0o777 == 0o640
    assert settings.with_name("settings.json" + BACKUP).read_bytes() == before
    run("uninstall", "claude-code")
    assert settings.read_bytes() == before
    assert sorted(path.name for path in settings.parent.iterdir()) == ["settings.json"]


def test_installing_again_changes_nothing_and_another_server_takes_the_place_of_the_first(settings: Path) -> None:
    settings.write_text(json.dumps(USERS))
    before = settings.read_bytes()
    install()
    first = settings.read_bytes()
    assert "already" in install()
    assert settings.read_bytes() == first
    run("install", "claude-code", "--url", "http://127.0.0.1:8")
    assert b":9/" not in settings.read_bytes()
    assert len(ours(json.loads(settings.read_bytes()))) == len(EVENTS["claude-code"])
    run("uninstall", "claude-code")
    assert settings.read_bytes() == before
    assert "no hooks" in run("uninstall", "claude-code")


def test_what_the_user_has_changed_since_stays(settings: Path) -> None:
    settings.write_text("{}")
    install()
    changed = json.loads(settings.read_bytes())
    changed["model"] = "haiku"
    settings.write_text(json.dumps(changed))
    run("uninstall", "claude-code")
    assert json.loads(settings.read_bytes()) == {"model": "haiku"}


@pytest.mark.parametrize("before", [None, b"", b"\n", b"\xef\xbb\xbf{}"])
def test_a_file_that_is_not_there_or_empty(settings: Path, before: bytes | None) -> None:
    if before is not None:
        settings.write_bytes(before)
    install()
    assert len(ours(json.loads(settings.read_bytes()))) == len(EVENTS["claude-code"])
    if before is None:
        assert settings.stat().st_mode & 0o077 == 0
    run("uninstall", "claude-code")
    assert (settings.read_bytes() if settings.exists() else None) == before


@pytest.mark.parametrize(
    ("before", "why"),
    [
        (b'{\n  // mine\n  "model": "opus"\n}', "comments"),
        (b'{"a": [1, 2,]}', "comments"),
        (b'{"model": "opus"', "not plain JSON"),
        (b"[]", "no JSON object"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"hooks": []}', "hooks"),
        (b'{"hooks": {"Stop": {}}}', "hooks.Stop"),
        (b"\xff\xfe{\x00}", "UTF-8"),
        (b"[" * 100_000, "loss"),
    ],
)
def test_what_can_not_be_read_without_loss_is_not_touched(settings: Path, before: bytes, why: str) -> None:
    settings.write_bytes(before)
    assert why in install(code=1)
    assert settings.read_bytes() == before
    assert [path.name for path in settings.parent.iterdir()] == ["settings.json"]


def test_a_read_only_file_is_not_touched(settings: Path) -> None:
    settings.write_text("{}")
    settings.chmod(0o444)
    assert "read-only" in install(code=1)
    assert settings.read_text() == "{}"


def test_a_link_stays_a_link(home: Path, settings: Path) -> None:
    kept = home / "dotfiles" / "claude.json"
    kept.parent.mkdir()
    kept.write_text('{"model": "opus"}')
    settings.symlink_to(kept)
    assert "a link to" in install()
    assert settings.is_symlink() and len(ours(json.loads(kept.read_bytes()))) == len(EVENTS["claude-code"])
    run("uninstall", "claude-code")
    assert settings.is_symlink() and kept.read_text() == '{"model": "opus"}'


def test_hooks_that_hold_and_those_that_do_not(settings: Path) -> None:
    install("--hold", "30m")
    hooks = json.loads(settings.read_bytes())["hooks"]
    (asks,) = hooks["PermissionRequest"][0]["hooks"]
    assert (asks["url"], asks["timeout"]) == (f"{NOBODY}/api/hooks/claude-code?hold=1800", 1810)
    assert {hooks[name][0]["hooks"][0]["timeout"] for name in hooks if name != "PermissionRequest"} == {5}
    assert "terminal only" in install("--hold", "0")
    install("--hold", "25h", code=2)


def test_a_token_stands_in_the_environment_or_in_a_file_of_the_user_alone(settings: Path) -> None:
    settings.write_text("{}")
    settings.chmod(0o644)
    install("--token-env", "MY_TOKEN")
    (hook,) = json.loads(settings.read_bytes())["hooks"]["Stop"][0]["hooks"]
    assert (hook["headers"], hook["allowedEnvVars"]) == ({"Authorization": "Bearer $MY_TOKEN"}, ["MY_TOKEN"])
    assert settings.stat().st_mode & 0o777 == 0o644
    assert "yours alone" in install("--token", "secret")
    assert settings.stat().st_mode & 0o777 == 0o600
    for args in (("--token", "x", "--project"), ("--token", "x", "--token-env", "X"), ("--token-env", "a b")):
        install(*args, code=2)


async def test_a_server_that_asks_for_tokens_is_given_one_from_the_environment(settings: Path, tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server:
        assert "token" not in await asyncio.to_thread(run, "install", "claude-code", "--url", server.url)
        await server.services.log.tokens.create(["read"])
        said = await asyncio.to_thread(run, "install", "claude-code", "--url", server.url)
    assert "export TRACEWATCH_TOKEN" in said and "no server" not in said
    written = await asyncio.to_thread(settings.read_bytes)
    (hook,) = json.loads(written)["hooks"]["Stop"][0]["hooks"]
    assert hook["headers"] == {"Authorization": "Bearer $TRACEWATCH_TOKEN"}


def test_what_keeps_hooks_from_running_is_said(settings: Path) -> None:
    settings.write_text('{"disableAllHooks": true, "allowedHttpHookUrls": ["https://hooks.example.org/*"]}')
    said = install()
    assert "disableAllHooks" in said and "allowedHttpHookUrls" in said and "no server answers" in said


def test_it_may_be_the_folder_s_settings_or_any_file_or_only_be_printed(home: Path, settings: Path) -> None:
    install("--project")
    assert (home / ".claude" / "settings.local.json").exists()
    install("--settings", "mine.json")
    assert (home / "mine.json").exists()
    assert len(ours(json.loads(install("--print").partition("\nno server")[0]))) == len(EVENTS["claude-code"])
    assert not settings.exists()
    run("install", "codex", "--url", NOBODY)
    assert len(ours(json.loads((home / ".codex" / "hooks.json").read_bytes()))) == len(EVENTS["codex"])
    asks = json.loads((home / ".codex" / "hooks.json").read_bytes())["hooks"]["PermissionRequest"][0]["hooks"][0]
    assert "hold=30" in asks["command"] and asks["timeout"] == 40
    run("uninstall", "codex")
    assert not (home / ".codex" / "hooks.json").exists()


@pytest.mark.parametrize("url", ["sqlite:///x.db", "127.0.0.1:8400", "http://u:p@host", "http://h?x=1"])
def test_what_is_no_server_is_refused(settings: Path, url: str) -> None:
    run("install", "claude-code", "--url", url, code=2)
    assert not settings.exists()


@pytest.fixture
def answering() -> Iterator[tuple[str, list[tuple[str, str | None, bytes]]]]:
    """A server that answers hooks, and what it got."""
    got: list[tuple[str, str | None, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((self.path, self.headers["authorization"], body))
            said = b'{"ok": 1}' if body == b"ask" else b"{}"
            self.send_response(500 if body == b"fail" else 200)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/api/hooks/codex?hold=5", got
    server.shutdown()
    server.server_close()


def post(url: str, body: bytes, **variables: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-I", "-S", str(post_hook.__file__), url, "30"]
    environment = {key: value for key, value in os.environ.items() if key != "TRACEWATCH_TOKEN"} | variables
    return subprocess.run(command, input=body, capture_output=True, env=environment, timeout=60, check=False)


def test_a_hook_that_is_a_command_prints_what_is_decided_and_never_fails(
    answering: tuple[str, list[tuple[str, str | None, bytes]]],
) -> None:
    url, got = answering
    for body, printed in ((b"ask", b'{"ok": 1}'), (b"tell", b""), (b"fail", b"")):
        done = post(url, body, TRACEWATCH_TOKEN="secret" if body == b"tell" else "")
        assert (done.returncode, done.stdout, done.stderr) == (0, printed, b"")
    assert got == [
        ("/api/hooks/codex?hold=5", token, body)
        for token, body in zip((None, "Bearer secret", None), (b"ask", b"tell", b"fail"), strict=True)
    ]
    done = post("http://127.0.0.1:9/x", b"ask")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
