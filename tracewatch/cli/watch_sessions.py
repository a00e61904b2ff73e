"""``tracewatch watch-sessions``: follow the sessions of coding agents on this machine, past and running."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import click

from ..client.api import Api
from ..importers.sessions import claude_home, codex_home, gemini_home
from . import text
from .common import CliError, connect, examples, spool_folder, url_option
from .session_watch import SessionPlace, SessionWatch

EXAMPLES = examples("""
    tracewatch watch-sessions                          all sessions, past and running, until Ctrl-C
    tracewatch watch-sessions --no-past                only those that are at work, or begin
    tracewatch watch-sessions --once                   what is there now, then end
    tracewatch watch-sessions --claude /srv/home/.claude/projects
    tracewatch watch-sessions --gemini /srv/home/.gemini/tmp
    tracewatch serve --sessions                        the same inside the server
""")
LOOK_S = 0.1  # between two looks while something grows
SCAN_S = 5.0  # between two looks for what no change was told of


@click.command("watch-sessions", epilog=EXAMPLES, short_help="Follow Claude Code, Codex and Gemini CLI.")
@click.option("--claude", type=click.Path(path_type=Path), metavar="FOLDER", help="[~/.claude/projects]")
@click.option("--codex", type=click.Path(path_type=Path), metavar="FOLDER", help="[~/.codex/sessions]")
@click.option("--gemini", type=click.Path(path_type=Path), metavar="FOLDER", help="[~/.gemini/tmp]")
@click.option("--no-past", is_flag=True, help="Leave out sessions that have not grown for ten minutes.")
@click.option("--once", is_flag=True, help="End when all that is there now was told.")
@url_option
def command(
    claude: Path | None, codex: Path | None, gemini: Path | None, no_past: bool, once: bool, url: str | None
) -> None:
    """Follow the sessions of Claude Code, Codex and Gemini CLI: all that lie here, and what grows, as it comes.

    No setting of theirs is touched. A session that is resumed goes on in its run. One whose turn is over is idle; one
    that was killed is lost. It may be started again at any time: nothing is told twice.
    """
    api = connect(url)
    api.health()  # without a server this fails now
    watch = SessionWatch(api, places(claude, codex, gemini), _say, state=state_folder(), past=not no_past)
    for place in watch.places:
        _say(f"{'following' if place.folder.is_dir() else 'waiting for'} {place.folder}")
    run(watch, threading.Event(), once=once)
    if once:
        _say(f"{text.count(watch.runs, 'run')} new")


def places(claude: Path | None = None, codex: Path | None = None, gemini: Path | None = None) -> list[SessionPlace]:
    """The folders with sessions, where they are not named those of this user. Raises CliError for a user without."""
    found: list[SessionPlace] = []
    for kind, given, home, below in (
        ("claude", claude, claude_home(), "projects"),
        ("codex", codex, codex_home(), "sessions"),
        ("gemini", gemini, gemini_home(), "tmp"),
    ):
        folder = given or (home / below if home else None)
        if folder is not None:
            found.append(SessionPlace(folder, kind))
    if not found:
        raise CliError("this user has no home folder; --claude, --codex and --gemini name folders with sessions")
    return found


def state_folder() -> Path | None:
    """Where it stands what was delivered; None for a user without a place for it."""
    spool = spool_folder()
    return None if spool is None else spool / "sessions"


def run(watch: SessionWatch, stop: threading.Event, *, once: bool = False) -> None:
    """Follow until ``stop`` is set, or with ``once`` until all that is there was told."""
    told_away = False
    scanned_at = float("-inf")
    try:
        for changes in _changes(watch.places, stop, lambda: LOOK_S if watch.busy else 1.0):
            for path in changes:
                watch.changed(path)
            if time.monotonic() - scanned_at > SCAN_S:
                scanned_at = time.monotonic()
                watch.scan()
            there = watch.look()
            if not there and not told_away and watch.refusal:
                _say(f"waiting for the server: {watch.refusal}")
            told_away = not there
            if once and there and not watch.busy:
                break
    finally:
        watch.finish()


def serve_sessions(url: str, stop: threading.Event) -> threading.Thread:
    """Follow the sessions of this user into the server at ``url``, in a thread of its own, until ``stop`` is set."""
    watch = SessionWatch(Api(url), places(), _say, state=state_folder())
    thread = threading.Thread(target=run, args=(watch, stop), daemon=True, name="tracewatch-sessions")
    thread.start()
    return thread


def _say(line: str) -> None:
    with suppress(OSError):
        click.echo(text.one_line(line), err=True)


def _changes(places: list[SessionPlace], stop: threading.Event, wait_s: Callable[[], float]) -> Iterator[set[Path]]:
    """Files that have changed, as often as there is something to do: told by the system, else nothing but the time."""
    while not stop.is_set():
        folders = [str(place.folder) for place in places if place.folder.is_dir()]
        yield set()
        changed = _watched(folders, stop, wait_s) if folders else None
        if changed is None:
            stop.wait(wait_s())
            continue
        for found in changed:
            yield found
            if len(folders) < sum(place.folder.is_dir() for place in places):
                break  # another folder is there now


def _watched(folders: list[str], stop: threading.Event, wait_s: Callable[[], float]) -> Iterator[set[Path]] | None:
    """What watchfiles tells of the folders; None where it can't."""
    try:
        from watchfiles import watch
    except ImportError:  # no wheel for this platform: then the scan has to find what has grown
        return None

    def told() -> Iterator[set[Path]]:
        seen = watch(
            *folders,
            watch_filter=None,
            debounce=20,
            step=10,
            rust_timeout=100,
            yield_on_timeout=True,
            stop_event=stop,
            raise_interrupt=True,
        )
        waited = time.monotonic()
        for changes in seen:
            if changes or time.monotonic() - waited >= wait_s():
                waited = time.monotonic()
                yield {Path(path) for _, path in changes}

    return told()
