"""The hooks that are put into a coding agent's settings, and taken out of them again.

Rule 1: ours are known by the path of their address. All others stay as they are, and in their places.
Rule 2: a hook is waited for as long as it needs, and no longer: five seconds to be written, and for a permission as
        long as somebody may think about it.
"""

from __future__ import annotations

import copy
import shlex
import sys
from pathlib import Path
from typing import Any

from ..importers.claude_session import HOOKS_PATH as PATH
from . import post_hook
from .common import Failed

WRITTEN_S = 5
MARGIN_S = 10  # between the end of a question here and that of its hook
PERMISSION = "PermissionRequest"
EVENTS = {
    "claude-code": (
        *("UserPromptSubmit", "PreToolUse", PERMISSION, "PostToolUse", "PostToolUseFailure", "PostToolBatch"),
        *("MessageDisplay", "SubagentStart", "SubagentStop", "Stop", "StopFailure", "SessionEnd", "PreCompact"),
    ),
    "codex": (
        *("SessionStart", "UserPromptSubmit", "PreToolUse", PERMISSION, "PostToolUse", "SubagentStart", "SubagentStop"),
        *("Stop", "SessionEnd"),
    ),
}


def merged(
    agent: str, settings: dict[str, Any], url: str, *, hold_s: int, token: str | None, secret: str | None
) -> dict[str, Any]:
    """The settings with our hooks, once. Raises Failed.

    ``token``: the variable that has the server's token; ``secret``: the token itself.
    """
    found = without_ours(agent, settings)
    hooks = found.setdefault("hooks", {})
    for event in EVENTS[agent]:
        group = {"hooks": [_hook(agent, event, url, hold_s, token, secret)]}
        hooks.setdefault(event, []).append(group)
    return found


def without_ours(agent: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without our hooks. Raises Failed where the hooks in them have another form than is known."""
    found = copy.deepcopy(settings)
    hooks = found.get("hooks", {})
    if not isinstance(hooks, dict):
        raise Failed('"hooks" in it is no object, so nothing was changed')
    for event in list(hooks):
        groups = hooks[event]
        if not isinstance(groups, list):
            raise Failed(f'"hooks.{event}" in it is no list, so nothing was changed')
        kept = []
        for group in groups:
            if isinstance(group, dict) and isinstance(group.get("hooks"), list):
                others = [one for one in group["hooks"] if not _is_ours(agent, one)]
                if len(others) < len(group["hooks"]):
                    if not others:
                        continue
                    group = {**group, "hooks": others}
            kept.append(group)
        if kept or not groups:
            hooks[event] = kept
        else:
            del hooks[event]
    if "hooks" in found and not hooks and settings["hooks"]:
        del found["hooks"]
    return found


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether settings say the same: no hooks for an event are as good as an empty list of them."""
    return _bare(one) == _bare(other)


def _bare(settings: dict[str, Any]) -> dict[str, Any]:
    hooks = settings.get("hooks")
    full = {event: groups for event, groups in hooks.items() if groups} if isinstance(hooks, dict) else hooks
    return {**settings, "hooks": full} if full else {key: value for key, value in settings.items() if key != "hooks"}


def _is_ours(agent: str, hook: Any) -> bool:
    if not isinstance(hook, dict):
        return False
    said = hook.get("url") if hook.get("type") == "http" else hook.get("command")
    return isinstance(said, str) and f"{PATH}{agent}" in said


def _hook(agent: str, event: str, url: str, hold_s: int, token: str | None, secret: str | None) -> dict[str, Any]:
    address, timeout_s = f"{url.rstrip('/')}{PATH}{agent}", WRITTEN_S
    if event == PERMISSION:
        address, timeout_s = f"{address}?hold={hold_s}", hold_s + MARGIN_S
    if agent == "codex":
        script = str(Path(post_hook.__file__).resolve())
        command = shlex.join([sys.executable, "-I", "-S", script, address, str(timeout_s)])
        return {"type": "command", "command": command, "timeout": timeout_s}
    hook: dict[str, Any] = {"type": "http", "url": address, "timeout": timeout_s}
    if secret is not None:
        hook["headers"] = {"Authorization": f"Bearer {secret}"}
    elif token is not None:
        hook |= {"headers": {"Authorization": f"Bearer ${token}"}, "allowedEnvVars": [token]}
    return hook


def obstacles(settings: dict[str, Any], url: str) -> list[str]:
    """What in the settings keeps our hooks from running, a line each."""
    found = []
    if settings.get("disableAllHooks"):
        found.append("disableAllHooks is set there: no hook runs")
    allowed = settings.get("allowedHttpHookUrls")
    if isinstance(allowed, list) and not any(isinstance(one, str) and _fits(one, url) for one in allowed):
        found.append(f"allowedHttpHookUrls there does not have this server: add {url.rstrip('/')}/*")
    return found


def _fits(pattern: str, url: str) -> bool:
    begin, star, _ = pattern.partition("*")
    return f"{url.rstrip('/')}{PATH}".startswith(begin) if star else pattern.startswith(f"{url.rstrip('/')}{PATH}")
