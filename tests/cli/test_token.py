"""``tracewatch token``, the start of a server for others, and commands against one that asks for a token."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.support import ServerProcess

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def db(tmp_path: Path) -> str:
    return str(tmp_path / "own.db")


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, str]]:
    """A server, and its database."""
    path = str(tmp_path_factory.mktemp("asking") / "log.db")
    with ServerProcess(path) as running:
        yield running, path


def test_create_list_revoke(tw: Run, db: str) -> None:
    made = tw(
        "token", "create", "--db", db, "--scope", "read", "--scope", "control", "--expires", "30d", "--label", "ann"
    )
    token = made.text.strip()
    assert made.code == 0 and token.startswith("tw_") and made.text.count("\n") == 1
    assert token not in made.err and db in made.err
    token_id = token.split("_")[1]
    listed = tw("token", "list", "--db", db)
    assert token_id in listed.text and "ann" in listed.text and "active" in listed.text
    assert token.split("_")[2] not in listed.text
    (one,) = json.loads(tw("token", "list", "--json", "--db", db).out)
    assert one["scopes"] == ["read", "control"] and one["expires_at"] and one["status"] == "active"
    assert set(one) == {
        "token_id", "status", "scopes", "trace_id", "label", "created_at", "expires_at", "revoked_at"
    }  # fmt: skip
    assert tw("token", "revoke", "--db", db, token).code == 0  # its id will do as well
    again = tw("token", "revoke", "--db", db, token_id)
    assert again.code == 0 and "already" in again.err
    assert "revoked" in tw("token", "list", "--db", db).text


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["create"], "--scope"),
        (["create", "--scope", "all"], "'all' is not one of"),
        (["create", "--scope", "read", "--expires", "soon"], "12h, 30d"),
        (["create", "--scope", "read", "--expires", "0d"], "12h, 30d"),
        (["create", "--scope", "read", "--trace", "a b"], "no trace_id"),
        (["revoke", "000000000000"], "no database"),
        (["list"], "no database"),
    ],
)
def test_what_can_not_be_done_is_said(tw: Run, db: str, args: list[str], said: str) -> None:
    ran = tw("token", *args, "--db", db)
    assert ran.code == 2 and said in ran.err and ran.text == ""


def test_an_unknown_id(tw: Run, db: str) -> None:
    assert "no token was ever made" in tw("token", "list", "--db", str(sqlite_of(tw, db))).err
    ran = tw("token", "revoke", "000000000000", "--db", db)
    assert ran.code == 2 and "no token '000000000000'" in ran.err


def sqlite_of(tw: Run, db: str) -> Path:
    """A database that has no token yet."""
    assert tw("token", "revoke", "x", "--db", db).code == 2
    tw("token", "create", "--scope", "read", "--db", db)
    with sqlite3.connect(db) as connection:
        connection.execute("DELETE FROM tokens")
    connection.close()
    return Path(db)


def test_a_server_for_others_does_not_start_without_a_token(tw: Run, db: str) -> None:
    for args in (("--host", "0.0.0.0"), ("--host", "::"), ("--allowed-hosts", "a.example"), ("--proxy", "10.0.0.1")):
        ran = tw("serve", "--port", "0", "--db", db, *args)
        assert ran.code == 2 and f"tracewatch token create --scope admin --db {db}" in ran.err, args
    made = tw("token", "create", "--scope", "admin", "--db", db)  # the very command
    assert tw("token", "revoke", made.text.strip(), "--db", db).code == 0
    assert tw("serve", "--host", "0.0.0.0", "--port", "0", "--db", db).code == 2


def test_it_starts_with_one(tw: Run, db: str) -> None:
    assert tw("token", "create", "--scope", "admin", "--db", db).code == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "tracewatch", "serve", "--host", "0.0.0.0", "--port", "0", "--db", db],
        stderr=subprocess.PIPE, cwd=ROOT, env=dict(os.environ),
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert b"listening on http://0.0.0.0:" in process.stderr.readline()
    finally:
        process.terminate()
        process.wait(60)
        if process.stderr is not None:
            process.stderr.close()


def test_commands_with_and_without(
    tw: Run, asking: tuple[ServerProcess, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, db = asking
    monkeypatch.setenv("TRACEWATCH_URL", server.url)
    assert tw("ls").code == 0
    token = tw("token", "create", "--scope", "admin", "--db", db).text.strip()
    chat = tmp_path / "chat.json"
    chat.write_text(json.dumps([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]))
    commands: list[tuple[str, ...]] = [
        ("import", str(chat)), ("ls",), ("show", "latest"), ("tail", "latest", "-n", "1"), ("inputs",),
        ("tail", "latest", "-o", "tree"), ("export", "latest"), ("cancel", "latest"), ("answer", "latest", "x"),
    ]  # fmt: skip
    for command in commands:
        ran = tw(*command)
        assert ran.code == 2 and "set TRACEWATCH_TOKEN" in ran.err, command
        assert "Traceback" not in ran.err
    monkeypatch.setenv("TRACEWATCH_TOKEN", token)
    for command in commands[:7]:
        ran = tw(*command)
        assert ran.code == 0, (command, ran.err)
    monkeypatch.setenv("TRACEWATCH_TOKEN", token[:-1] + ("0" if token[-1] != "0" else "1"))
    ran = tw("ls")
    assert ran.code == 2 and "no such token" in ran.err and token[:-1] not in ran.err
