"""``GET /api/search``: text in everything that the log holds."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import BadRequest, InvalidField
from ..log import SearchQuery, TraceQuery
from ..log.search import SearchProgress
from ..model.payloads import TRACE_ID
from ..model.terms import MOST_TERMS
from .auth.tokens import grant_of
from .filters import checked_filter
from .http import int_param, searched, services, state_response

MAX_HITS = 200
NAMES = ("q", "trace_id", "limit", "per_trace", "page_token", "token")


async def search(request: Request) -> Response:
    """``GET /api/search``."""
    served, params = services(request), request.query_params
    for name in params:
        if name not in NAMES:
            raise _fault(name[:40], f"is not known here; known are {', '.join(sorted(NAMES[:-1]))}")
        if len(params.getlist(name)) > 1:
            raise _fault(name, "is given more than once")
    asked = checked_filter("q", searched(params.get("q")) or "")
    terms = asked.terms
    if all(term.negative for term in terms):
        raise _fault("q", "a word to look for is needed")
    if len(terms) > MOST_TERMS:
        raise _fault("q", f"at most {MOST_TERMS} words and phrases to look for")
    within = params.get("trace_id") or None
    if within is not None and not TRACE_ID.fullmatch(within):
        raise _fault("trace_id", "is no trace's id")
    query = SearchQuery(
        terms=terms,
        traces=TraceQuery(conditions=asked.conditions, below=grant_of(request).trace_id),
        within=within,
        limit=int_param(request, "limit", low=1, high=MAX_HITS, default=20),
        per_trace=int_param(request, "per_trace", low=1, high=MAX_HITS, default=5),
        before=_place(params.get("page_token")),
    )
    hits, traces, place = await served.log.search(query)
    told = {"hits": hits, "traces": traces, "next_page_token": None if place is None else str(place)}
    return state_response(served, {**told, "index": progress_json(await served.log.finder.progress())})


def progress_json(progress: SearchProgress) -> dict[str, Any]:
    """How far the log has been read for search."""
    told: dict[str, Any] = {"state": progress.state, "behind": progress.behind}
    return {**told, "trouble": progress.trouble} if progress.trouble else told


def _place(token: str | None) -> int | None:
    if not token:
        return None
    if not (token.isascii() and token.isdigit() and len(token) <= 19 and int(token) < 2**63):
        raise BadRequest(f"page_token: {token[:40]!r} is not one this server gave")
    return int(token)


def _fault(name: str, message: str) -> InvalidField:
    return InvalidField(f"{name}: {message}", details=[{"path": name, "message": message}])
