"""Settings: each option in the environment, as an override and in the documents; a wrong value is refused by name."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from tracewatch.errors import InvalidField
from tracewatch.settings import OPTIONS, Settings, format_bytes, markdown_table

ROOT = Path(__file__).resolve().parents[1]
HOME = {"HOME": "/home/ada"}


def test_defaults_are_those_of_the_protocol() -> None:
    settings = Settings.from_env(HOME)
    assert (settings.db, settings.host, settings.port, settings.workers) == (
        "tracewatch.db",
        "127.0.0.1",
        8400,
        1,
    )
    assert (settings.max_event_bytes, settings.max_batch_events, settings.max_batch_bytes) == (
        262144,
        1000,
        4194304,
    )
    assert (settings.max_ws_record_bytes, settings.max_ws_bytes) == (4194304, 65536)
    assert (settings.max_watchers, settings.max_subscriptions) == (10_000, 100)
    assert settings.watcher_bytes == 262144
    assert (settings.page_events, settings.page_bytes, settings.max_frame_bytes) == (500, 524288, 524288)
    assert settings.url == "http://127.0.0.1:8400"
    assert settings.spool_bytes == 1 << 30


def test_a_default_is_a_value_its_own_option_takes() -> None:
    for option in OPTIONS:
        if option.default != "":
            parsed = option.parse(option.default)
            assert parsed == option.default, option.name
            assert type(parsed) is type(option.default), option.name


def test_environment_beats_default_and_override_beats_environment() -> None:
    environ = HOME | {"TRACEWATCH_PORT": "9000", "TRACEWATCH_DB": "/srv/log.db", "UNRELATED": "x"}
    settings = Settings.from_env(environ, db="here.db", workers=None)
    assert (settings.port, settings.db, settings.workers) == (9000, "here.db", 1)
    assert Settings.from_env(HOME | {"TRACEWATCH_PORT": ""}).port == 8400


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("65536", 65536),
        ("256KiB", 262144),
        ("4 MiB", 4 << 20),
        ("1gib", 1 << 30),
        ("2048B", 2048),
        (" 1KiB ", 1024),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert Settings.from_env(HOME | {"TRACEWATCH_MAX_BATCH_BYTES": text}).max_batch_bytes == size


@pytest.mark.parametrize("text", ["0.5", "2", " 3e1 "])
def test_durations_are_seconds(text: str) -> None:
    assert Settings.from_env(HOME | {"TRACEWATCH_HEARTBEAT_S": text}).heartbeat_s == float(text)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "http", "a whole number from 0 to 65535"),
        ("PORT", "65536", "a whole number from 0 to 65535"),
        ("PORT", "8400.0", "a whole number from 0 to 65535"),
        ("WORKERS", "0", "a whole number of at least 1"),
        ("POLL_MS", "0", "milliseconds"),
        ("HEARTBEAT_S", "15s", "a number of seconds"),
        ("HEARTBEAT_S", "nan", "a number of seconds"),
        ("HEARTBEAT_S", "inf", "a number of seconds"),
        ("HEARTBEAT_S", "-1", "a number of seconds"),
        ("MAX_EVENT_BYTES", "256KB", "256KiB"),
        ("MAX_EVENT_BYTES", "1.5MiB", "256KiB"),
        ("MAX_EVENT_BYTES", "-1", "256KiB"),
        ("MAX_EVENT_BYTES", "\u0664096", "256KiB"),
        ("URL", "127.0.0.1:8400", "http://"),
        ("URL", "https://", "http://"),
    ],
)
def test_a_refusal_names_the_variable_the_value_and_what_is_expected(name: str, value: str, expected: str) -> None:
    with pytest.raises(InvalidField) as caught:
        Settings.from_env(HOME | {f"TRACEWATCH_{name}": value})
    message = caught.value.message
    assert message.startswith(f"TRACEWATCH_{name}: ")
    assert repr(value) in message
    assert expected in message
    assert caught.value.body()["details"][0]["path"] == f"TRACEWATCH_{name}"


def test_overrides_are_checked_too() -> None:
    with pytest.raises(InvalidField, match="port: '99999' is not"):
        Settings.from_env(HOME, port=99999)
    with pytest.raises(InvalidField, match="workers: 'True' is not"):
        Settings.from_env(HOME, workers=True)
    with pytest.raises(TypeError, match="no such option: prot"):
        Settings.from_env(HOME, prot=1)
    assert Settings.from_env(HOME, max_event_bytes="8KiB", db=Path("a.db")) == Settings.from_env(
        HOME, max_event_bytes=8192, db="a.db"
    )


def test_the_spool_follows_the_environment_it_is_given() -> None:
    assert Settings.from_env(HOME).spool_dir == "/home/ada/.local/state/tracewatch/spool"
    assert Settings.from_env(HOME | {"XDG_STATE_HOME": "/var/state"}).spool_dir == "/var/state/tracewatch/spool"
    assert Settings.from_env(HOME | {"XDG_STATE_HOME": "relative"}).spool_dir.startswith("/home/ada/")
    assert Settings.from_env(HOME | {"TRACEWATCH_SPOOL_DIR": "/tmp/s"}).spool_dir == "/tmp/s"
    assert Settings().spool_dir.endswith("/tracewatch/spool")


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_a_name_says_its_unit() -> None:
    suffixes = {"bytes": "_bytes", "seconds": "_s", "milliseconds": "_ms"}
    for option in OPTIONS:
        for kind, suffix in suffixes.items():
            assert option.name.endswith(suffix) == (option.kind == kind), option.name


def test_the_table_has_each_option_once() -> None:
    table = markdown_table()
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [option.env for option in OPTIONS]
    assert "| `TRACEWATCH_MAX_EVENT_BYTES` | 256 KiB | server |" in table
    assert "| `TRACEWATCH_HEARTBEAT_S` | 15 s | server |" in table
    assert "| `TRACEWATCH_FLUSH_S` | 5 s | client |" in table
    assert {line.count("|") for line in table.splitlines()} == {5}


def test_format_bytes() -> None:
    assert [format_bytes(n) for n in (0, 1000, 1536, 1024, 3 << 20, 1 << 30)] == [
        "0 bytes",
        "1000 bytes",
        "1536 bytes",
        "1 KiB",
        "3 MiB",
        "1 GiB",
    ]


@pytest.mark.parametrize("page", ["docs/operating.md", "README.md"])
def test_the_docs_have_the_table_as_it_is(page: str) -> None:
    """Between the markers stands what ``markdown_table()`` gives; the README may leave the table to the docs."""
    text = (ROOT / page).read_text() if (ROOT / page).exists() else ""
    found = re.findall(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", text, re.DOTALL)
    assert len(found) == 1 or page == "README.md"
    assert found in ([], [markdown_table()])
