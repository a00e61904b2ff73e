"""The tracing back ends that a user's environment names: where ``tracewatch run --forward`` passes bodies on to.

Sources: https://opentelemetry.io/docs/specs/otel/protocol/exporter/, https://docs.langchain.com/langsmith,
https://logfire.pydantic.dev/docs/reference/configuration/
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

LANGSMITH = "https://api.smith.langchain.com"
LOGFIRE = {"us": "https://logfire-us.pydantic.dev", "eu": "https://logfire-eu.pydantic.dev"}  # by a token's region
LOGFIRE_FILE = ".logfire/logfire_credentials.json"
SIGNALS = ("traces", "logs", "metrics")
TRUE = ("true", "1", "yes", "on")


@dataclass(frozen=True, slots=True)
class Vendors:
    """Whom the user's program sends its traces to today.

    otlp: the whole address for each signal.
    langsmith: addresses, each with its key, which is "" where the program's own request has it.
    langsmith_api: what else the program asks of LangSmith is asked there; "" for nobody.
    logfire: the address, and its token.
    notes: why something that is set can't be passed on to.
    """

    otlp: dict[str, str] = field(default_factory=dict)
    langsmith: list[tuple[str, str]] = field(default_factory=list)
    langsmith_api: str = ""
    logfire: str = ""
    logfire_token: str = field(default="", repr=False)
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """What to call them, each with its address."""
        found = [f"LangSmith ({url})" for url, _ in self.langsmith]
        hosts = sorted({"{0.scheme}://{0.netloc}".format(urlsplit(url)) for url in self.otlp.values()})
        found += [f"OpenTelemetry ({host})" for host in hosts]
        return found + ([f"Logfire ({self.logfire})"] if self.logfire else [])


def vendors_of(environ: Mapping[str, str], folder: Path) -> Vendors:
    """The vendors that ``environ``, and files in the working ``folder``, name."""
    notes: list[str] = []
    key = _first(environ, "LANGSMITH_API_KEY", "LANGCHAIN_API_KEY")
    api = _first(environ, "LANGSMITH_ENDPOINT", "LANGCHAIN_ENDPOINT") or LANGSMITH
    traced = any(
        environ.get(name, "").lower() in TRUE
        for name in ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2", "LANGCHAIN_TRACING")
    )
    several = _runs_endpoints(environ, notes)
    langsmith = several or ([(api.rstrip("/"), "")] if key and traced else [])
    if key and not traced and not several:
        notes.append("LangSmith has a key, but no LANGSMITH_TRACING=true: nothing goes there")
    token, base = logfire_of(environ, folder)
    return Vendors(
        otlp=_otlp(environ, notes),
        langsmith=langsmith,
        langsmith_api=api.rstrip("/") if key else "",
        logfire=base if token else "",
        logfire_token=token,
        notes=notes,
    )


def _first(environ: Mapping[str, str], *names: str) -> str:
    return next((environ[name] for name in names if environ.get(name)), "")


def _runs_endpoints(environ: Mapping[str, str], notes: list[str]) -> list[tuple[str, str]]:
    given = _first(environ, "LANGSMITH_RUNS_ENDPOINTS", "LANGCHAIN_RUNS_ENDPOINTS")
    if not given:
        return []
    try:
        found = json.loads(given)
        if isinstance(found, dict):  # the older form: {address: key}
            return [(str(url).rstrip("/"), str(key)) for url, key in found.items()]
        return [(str(one["api_url"]).rstrip("/"), str(one["api_key"])) for one in found]
    except (ValueError, TypeError, KeyError, AttributeError):
        notes.append("LANGSMITH_RUNS_ENDPOINTS is not what LangSmith reads: nothing goes there")
        return []


def _otlp(environ: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    found: dict[str, str] = {}
    for signal in SIGNALS:
        url = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "")
        if not url and base:
            url = f"{base.rstrip('/')}/v1/{signal}"
        if not url.startswith(("http://", "https://")):
            continue
        if otlp_protocol(environ, signal) == "grpc":
            notes.append(
                f"OpenTelemetry's {signal} go to {url} by gRPC, which can't be passed on: they go there directly"
            )
            continue
        found[signal] = url
    return found


def otlp_protocol(environ: Mapping[str, str], signal: str) -> str:
    """How a signal is sent: ``grpc``, ``http/protobuf`` or ``http/json``; "" where nobody says."""
    named = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "")
    return (named or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")).strip().lower()


def logfire_of(environ: Mapping[str, str], folder: Path) -> tuple[str, str]:
    """The token for Logfire, "" if there is none, and Logfire's address."""
    token, base = environ.get("LOGFIRE_TOKEN", "").split(",")[0].strip(), environ.get("LOGFIRE_BASE_URL", "")
    if not token:
        try:
            file = Path(environ.get("LOGFIRE_CREDENTIALS_DIR") or folder / ".logfire") / Path(LOGFIRE_FILE).name
            found = json.loads(file.read_text())
            token, base = str(found["token"]), base or str(found.get("logfire_api_url") or "")
        except (OSError, ValueError, KeyError, TypeError):
            return "", ""
    region = token.split("_")[2] if token.startswith("pylf_v1_") and token.count("_") > 2 else "us"
    return token, (base or LOGFIRE.get(region, LOGFIRE["us"])).rstrip("/")
