"""What may be asked of a list of traces: the parameters of ``GET /api/traces``, the keys of ``subscribe_traces``.

Rule: a name that is not known is refused. A filter that is not understood would show traces that were not asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.datastructures import QueryParams

from ..errors import InvalidField
from ..log import TraceQuery
from ..log.views import ORDERS
from ..model.terms import MOST_TERMS
from .filters import checked_filter
from .http import MAX_LIMIT, checked_statuses, limit_of, listed, searched

MAX_TAGS = 64  # as many as a trace may have
MAX_NAME = 256  # characters
ANY_ERROR = "*"
_TEXTS = ("agent_type", "parent_trace_id", "root_trace_id", "session_id", "user_id", "model")
_NAMES = ("status", "q", "tag", "error", "order", "limit", "filter", *_TEXTS)


def list_of_request(params: QueryParams) -> TraceQuery:
    """The traces that the parameters of a request ask for. Raises BadRequest, InvalidField."""
    _check_names(params, (*_NAMES, "page_token", "token"))  # a token counts in a header; some clients say it here too
    for name in params:
        if name not in ("tag", "status", "token") and len(params.getlist(name)) > 1:
            raise _fault(name, "is given more than once")
    given: dict[str, Any] = {name: params[name] for name in _NAMES if params.get(name)}
    given["status"] = [name for text in params.getlist("status") for name in listed(text)]
    given["tag"] = [tag for tag in params.getlist("tag") if tag]
    return _query(given, limit=limit_of(params, 50), before=params.get("page_token") or None)


def list_of_message(asked: Mapping[str, Any]) -> TraceQuery:
    """The traces that a ``subscribe_traces`` asks for. Raises InvalidField."""
    _check_names(asked, _NAMES)
    given = {name: value for name, value in asked.items() if value not in (None, "")}
    status, tags, limit = given.get("status", ()), given.get("tag", ()), asked.get("limit", 100)
    given["status"] = listed(status) if isinstance(status, str) else status
    given["tag"] = [tags] if isinstance(tags, str) else tags
    for name, what in (("status", "names with commas between them, or an array of them"), ("tag", "one or an array")):
        if not isinstance(given[name], list | tuple):
            raise _fault(name, what)
    for name in ("q", "error", "order", "filter", *_TEXTS):
        if not isinstance(given.get(name, ""), str):
            raise _fault(name, "is not text")
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
        raise _fault("limit", f"is not a whole number from 1 to {MAX_LIMIT}")
    query = _query(given, limit=limit, before=None)
    if query.sought:
        raise _fault("filter", "text can't be watched for, only fields; GET /api/traces and /api/search find it")
    return query


def _query(given: Mapping[str, Any], *, limit: int, before: str | None) -> TraceQuery:
    tags, order, error = given["tag"], given.get("order", ORDERS[0]), searched(given.get("error"), "error")
    if len(tags) > MAX_TAGS:
        raise _fault("tag", f"at most {MAX_TAGS} of them")
    for name, value in [*(("tag", tag) for tag in tags), *((name, given.get(name, "")) for name in _TEXTS)]:
        if not isinstance(value, str) or len(value) > MAX_NAME:
            raise _fault(name, f"text of at most {MAX_NAME} characters")
    if order not in ORDERS:
        raise _fault("order", f"{order[:40]!r} is none of {', '.join(ORDERS)}")
    asked = checked_filter("filter", searched(given.get("filter"), "filter") or "")
    if len(asked.sought) > MOST_TERMS:
        raise _fault("filter", f"at most {MOST_TERMS} words and phrases to look for")
    return TraceQuery(
        conditions=asked.conditions,
        sought=asked.terms,
        status=checked_statuses(given["status"]),
        q=searched(given.get("q")),
        tags=tuple(dict.fromkeys(tags)),
        error="" if error == ANY_ERROR else error,
        order=order,
        limit=limit,
        before=before,
        agent_type=given.get("agent_type"),
        parent_trace_id=given.get("parent_trace_id"),
        root_trace_id=given.get("root_trace_id"),
        session_id=given.get("session_id"),
        user_id=given.get("user_id"),
        model=given.get("model"),
    )


def _check_names(given: Iterable[str], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise _fault(name, f"is not known here; known are {', '.join(sorted(known))}")


def _fault(name: str, message: str) -> InvalidField:
    name = name[:40]
    return InvalidField(f"{name}: {message}", details=[{"path": name, "message": message}])
