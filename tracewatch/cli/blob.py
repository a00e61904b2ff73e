"""``tracewatch blob``: list the big and binary contents of a trace, and save one."""

from __future__ import annotations

import mimetypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import orjson

from ..client.api import Api
from ..model.blobs import MARK
from ..model.contents import references_in, size_said
from . import text
from .common import CliError, examples, url_option, write_whole
from .traces import TRACE_HELP, all_events, find_trace

EXAMPLES = examples("""
    tracewatch blob latest                         what there is, with the begin of each name
    tracewatch blob latest 9f86d0 -O shot.png
    tracewatch blob 2f8d report.pdf -O .           under its own name, in this folder
    tracewatch blob 2f8d 9f86d0 | less
""")
HELP = f"""List the big and binary contents of a trace (pictures, long outputs, attachments), or save one of them.

BLOB is the begin of its SHA-256, or its file name.

{TRACE_HELP}"""


@click.command("blob", epilog=EXAMPLES, help=HELP)
@click.argument("trace", required=False)
@click.argument("blob", required=False)
@click.option("-O", "--output-file", type=click.Path(path_type=Path, allow_dash=True), help="A file, or a folder.")
@url_option
def command(trace: str | None, blob: str | None, output_file: Path | None, url: str | None) -> None:
    api, found = find_trace(trace, url)
    if blob is None:
        if output_file is not None:
            raise CliError(f"which one? See: tracewatch blob {found['trace_id']}")
        for ref in named(api, found):
            click.echo(row(ref))
        return
    ref = chosen(api, found, blob)
    parts = api.blob(found["trace_id"], ref["blob"])
    if output_file is None or str(output_file) == "-":
        if output_file is None and sys.stdout.isatty() and not str(ref["media_type"]).startswith("text/"):
            raise CliError(f"{ref['media_type']} is not for a terminal; give a file with -O")
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        return
    click.echo(f"{save(parts, output_file, ref)}: {size_said(ref['bytes'])}", err=True)


def named(api: Api, trace: dict[str, Any]) -> list[dict[str, Any]]:
    """The references of a trace's events, each content once, in their order: one with a name, if there is any."""
    found: dict[str, dict[str, Any]] = {}
    for line in all_events(api, trace):
        for ref in references_in(orjson.loads(line)) if MARK in line else ():
            if "name" not in found.get(ref["blob"], ref) or ref["blob"] not in found:
                found[ref["blob"]] = ref
    return list(found.values())


def row(ref: dict[str, Any]) -> str:
    """A content as a line: ``9f86d081884c  image/png  3.0 MiB  shot.png``."""
    said = ref.get("name") or ref.get("preview") or ""
    words = text.cut(text.one_line(said), 60) if isinstance(said, str) else ""
    return (
        f"{ref['blob'][:12]}  {text.one_line(ref['media_type']):<24}  {size_said(ref['bytes']):>10}  {words}".rstrip()
    )


def chosen(api: Api, trace: dict[str, Any], given: str) -> dict[str, Any]:
    """The content that the user means. Raises CliError."""
    found = [ref for ref in named(api, trace) if ref["blob"].startswith(given.lower()) or ref.get("name") == given]
    if not found:
        raise CliError(f"trace {trace['trace_id']} names no blob {text.one_line(given)}; see: tracewatch blob …")
    if len(found) > 1:
        listed = "\n".join(f"  {row(ref)}" for ref in found[:5])
        raise CliError(f"{text.one_line(given)} fits {len(found)} blobs:\n{listed}")
    return found[0]


def save(parts: Iterator[bytes], path: Path, ref: dict[str, Any]) -> Path:
    """Write a content to a file, or into a folder under its own name; what is there in a folder stays."""
    if path.is_dir():
        ending = mimetypes.guess_extension(str(ref["media_type"])) or ""
        own = Path(str(ref.get("name") or "")).name.replace("\0", "").lstrip(".")
        path = path / (own or f"{ref['blob'][:12]}{ending}")
        if path.exists():
            raise CliError(f"{path} is there already; give a file with -O")
    write_whole(path, parts)
    return path
