"""LangSmith's wire: runs of its Python and JavaScript clients, at the paths of its own server.

Rule 1: what its clients are told by ``/info`` decides how live a run is: each start at once (Python), or the batches
        that JavaScript sends in order.
Rule 2: a request is answered after all of it is on disk, by 202. What can't be stored now is 503 with Retry-After, and
        a client sends it again. It gives up at once after 400, 401, 403, 413 and 422, and its agent never fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from ..errors import BadRequest
from ..ingest.ingester import Process
from ..ingest.items import Item
from ..ingest.langsmith import BadLangSmith, Body, read, read_feedback, read_run
from ..ingest.runs import is_known, items
from .decoding import ASIDE_BYTES, read_decoded
from .http import json_response, services
from .otlp import TRACES, traces_of

SOURCE = "ls"
VERSION = "0.12.0"  # of LangSmith's API: the clients ask it whether it takes feedback with the runs
BATCH_BYTES = 20 * 1024**2  # as LangSmith's own
AT_ONCE, IN_BATCHES = 1, 100  # runs of a request; with 1 JavaScript opens ten connections, and runs overtake each other
TAKEN = {"message": "Runs batch ingested"}  # LangSmith's own words


async def info(request: Request) -> Response:
    """``GET /info``: how a client is to send its runs."""
    most = services(request).settings.max_ingest_bytes
    is_javascript = "langsmith-js" in request.headers.get("user-agent", "").lower()
    batches = {
        "use_multipart_endpoint": True,
        "scale_up_qsize_trigger": 1000,
        "scale_up_nthreads_limit": 16,
        "scale_down_nempty_trigger": 4,
        "size_limit": IN_BATCHES if is_javascript else AT_ONCE,
        "size_limit_bytes": min(BATCH_BYTES, most),
    }
    flags = {"zstd_compression_enabled": True, "gzip_body_enabled": True}
    return json_response({"version": VERSION, "batch_ingest_config": batches, "instance_flags": flags})


async def multipart(request: Request) -> Response:
    """``POST /runs/multipart``."""
    content_type = request.headers.get("content-type", "")
    return await _taken(request, lambda body: read(body, content_type))


async def batch(request: Request) -> Response:
    """``POST /runs/batch``."""
    return await _taken(request, lambda body: read(body, ""))


async def post_run(request: Request) -> Response:
    """``POST /runs``."""
    return await _taken(request, read_run)


async def patch_run(request: Request) -> Response:
    """``PATCH /runs/{run_id}``."""
    run_id = str(request.path_params["run_id"])
    return await _taken(request, lambda body: read_run(body, run_id))


async def feedback(request: Request) -> Response:
    """``POST /feedback``."""
    return await _taken(request, read_feedback)


async def _taken(request: Request, read_body: Callable[[bytes], Body]) -> Response:
    served = services(request)
    body = await read_decoded(request, served.settings.max_ingest_bytes)

    def work() -> tuple[Body, list[Item]]:
        found = read_body(body)
        return found, list(items(found))

    try:
        found, some = work() if len(body) < ASIDE_BYTES else await asyncio.to_thread(work)
    except BadLangSmith as error:
        served.ingester.counts.note(SOURCE, "unreadable")
        raise BadRequest(str(error)) from error
    process = _process(request, found)
    if some:
        await served.ingester.take(SOURCE, some, process=process)
    else:
        await served.ingester.alive(process)
    unknown = sum(not is_known(one.run) for one in found.operations)
    for what, number in (("unknown", unknown), ("unreadable", found.unreadable)):
        if number:
            served.ingester.counts.note(SOURCE, what, number)
    answer = json_response(TAKEN, 202)
    if some:
        answer.headers[TRACES] = traces_of(SOURCE, some)
    return answer


def _process(request: Request, found: Body) -> Process:
    """Who sends: as near as it can be told, since no client names its process."""
    project = next((name for one in found.operations if (name := one.run.get("session_name"))), None)
    project = project[:200] if isinstance(project, str) else "default"
    client = request.client.host if request.client else "here"
    agent = request.headers.get("user-agent", "")[:200]
    return Process(f"{project}/{client}/{agent}", "langsmith" if project == "default" else project)
