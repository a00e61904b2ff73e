"""Two runs side by side, each with a sub-trace, and tokens of every kind for them.

Rule: this file does not know the rights of a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.server.wire import append, make_trace
from tests.support import until
from tracewatch.log import EventLog
from tracewatch.log.tokens import token_id_of

SCOPES = ("read", "write", "control", "admin")


async def revoke(log: EventLog, token: str) -> None:
    """Refuse a token from now on."""
    await log.tokens.revoke(token_id_of(token) or "")


async def expired(log: EventLog) -> str:
    """A token of every scope whose time has run out."""
    token = await log.tokens.create(["admin"], expires_in_s=0.001)
    found = await log.tokens.find(token_id_of(token) or "")
    await until(lambda: found is not None and found.status(log.tokens.clock()) == "expired")
    return token


@dataclass(frozen=True)
class Kinds:
    """Tokens by what is the matter with them."""

    bad: dict[str, str]  # let nobody in
    scope: dict[str, str]  # by their only scope
    mine: dict[str, str]  # by their only scope: for trace "mine" only


async def kinds(log: EventLog) -> Kinds:
    """One token of each kind."""
    revoked = await log.tokens.create(["admin"])
    await revoke(log, revoked)
    right = await log.tokens.create(["admin"])
    return Kinds(
        bad={
            "malformed": "hello",
            "empty": "",
            "unknown": "tw_0123456789ab_" + "0" * 40,
            "wrong secret": right[:-40] + "0" * 40,
            "expired": await expired(log),
            "revoked": revoked,
        },
        scope={scope: await log.tokens.create([scope]) for scope in SCOPES},
        mine={scope: await log.tokens.create([scope], trace_id="mine") for scope in SCOPES},
    )


async def two_runs(log: EventLog, *names: str) -> None:
    """Traces of these names, each with a sub-trace ``<name>.sub``, an open question ``q`` and some events."""
    for name in names:
        await make_trace(log, name)
        await make_trace(log, f"{name}.sub", parent_trace_id=name)
        for trace_id in (name, f"{name}.sub"):
            await append(log, trace_id, 3)
            question: dict[str, Any] = {"event": "input_requested", "request_id": "q", "question": "secret?"}
            await log.append(trace_id, [question])
