"""The environment of a program that ``tracewatch run`` starts: what has its tracers send everything to us.

Rule: only the program's own environment changes. What the user has set stays where it is not about the destination:
      service names, headers, sampling, switched-off SDKs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from .vendors import SIGNALS, otlp_protocol

BOOTSTRAP = Path(__file__).resolve().parents[1] / "bootstrap"
CONTENT = {  # what was said is left out of spans unless one of these says otherwise
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY",
    "OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental",
    "ADK_CAPTURE_MESSAGE_CONTENT_IN_SPANS": "true",
    "TRACELOOP_TRACE_CONTENT": "true",
}
_NOT_NAMED = re.compile(r"(^|,)\s*service\.name\s*=")


def child_environ(
    environ: Mapping[str, str],
    command: Sequence[str],
    *,
    root: str,
    base: str,
    logfire_token: str,
    forward: bool = False,
) -> dict[str, str]:
    """The environment for ``command``. ``root`` and ``base`` are the relay's addresses, without and with its secret.

    ``forward``: OpenTelemetry that goes to a vendor by gRPC is left alone, as it can't be passed on.
    """
    child = {name: value for name, value in environ.items() if name not in _REMOVED}
    child |= _langsmith(environ, base) | {"LOGFIRE_BASE_URL": root, "LOGFIRE_TOKEN": logfire_token}
    for signal in SIGNALS:
        if not (forward and otlp_protocol(environ, signal) == "grpc"):
            child |= {
                f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT": f"{base}/otlp/v1/{signal}",
                f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"{base}/otlp",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            }
    child["OTEL_BSP_SCHEDULE_DELAY"] = "50"  # milliseconds; an SDK waits for five seconds else
    child["OTEL_BLRP_SCHEDULE_DELAY"] = "50"
    child |= {name: value for name, value in CONTENT.items() if name not in environ}
    opted = environ.get("OTEL_SEMCONV_STABILITY_OPT_IN")
    if opted and CONTENT["OTEL_SEMCONV_STABILITY_OPT_IN"] not in opted:
        child["OTEL_SEMCONV_STABILITY_OPT_IN"] = f"{opted},{CONTENT['OTEL_SEMCONV_STABILITY_OPT_IN']}"
    if "OTEL_SERVICE_NAME" not in environ and not _NOT_NAMED.search(environ.get("OTEL_RESOURCE_ATTRIBUTES", "")):
        child["OTEL_SERVICE_NAME"] = program_name(command)
    child["PYTHONPATH"] = os.pathsep.join(filter(None, [str(BOOTSTRAP), environ.get("PYTHONPATH")]))
    child["NODE_OPTIONS"] = " ".join(
        filter(None, [environ.get("NODE_OPTIONS"), f'--require "{BOOTSTRAP / "live.cjs"}"'])
    )
    child["TRACEWATCH_LIVE"] = f"{base}/live"
    return child


_REMOVED = frozenset(  # they would send to a vendor beside us, or tell us from ourselves
    {"LANGSMITH_RUNS_ENDPOINTS", "LANGCHAIN_RUNS_ENDPOINTS"}
)


def _langsmith(environ: Mapping[str, str], base: str) -> dict[str, str]:
    child = dict.fromkeys(("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2"), "true")
    child |= dict.fromkeys(("LANGSMITH_ENDPOINT", "LANGCHAIN_ENDPOINT"), f"{base}/langsmith")
    if not (environ.get("LANGSMITH_API_KEY") or environ.get("LANGCHAIN_API_KEY")):
        child["LANGSMITH_API_KEY"] = "tracewatch"  # without any its client warns
    return child


def program_name(command: Sequence[str]) -> str:
    """What to call a program: its script or module, else its executable.

    >>> program_name(["python", "-u", "agents/my_agent.py", "--fast"])
    'my_agent'
    >>> program_name(["pytest", "-x"])
    'pytest'
    """
    first = Path(command[0]).name
    if re.fullmatch(r"(python|pypy)[\d.]*(\.exe)?|node|nodejs|bun|deno|uv|poetry|env|npx|tsx", first):
        for before, word in pairwise(command):
            if before == "-m":
                return word
            if re.search(r"\.(py|js|mjs|cjs|ts|mts)$", word) and not word.startswith("-"):
                return Path(word).stem
    return first
