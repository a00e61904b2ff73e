"""Live starts from the agent frameworks of a program, without a line of it changed.

Rule 1: nothing is imported that the program does not import itself; a framework is joined when its module is loaded.
Rule 2: no code of ours raises into the program, and none waits: a thread sends. Errors are counted and told at the end.
Rule 3: any Python from 3.9 on, and any environment: tracewatch need not be installed there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from .wire import Wire

Join = Callable[[ModuleType, Wire], None]
_started: list[Wire] = []


def start() -> None:
    """Begin to watch, once. Raises nothing that is not a defect of ours."""
    if _started:
        return
    import atexit

    wire = Wire(os.environ["TRACEWATCH_LIVE"])
    _started.append(wire)
    atexit.register(wire.finish)
    sys.meta_path.insert(0, ImportWatch(wire))


def _otel_api(module: ModuleType, wire: Wire) -> None:
    from .spans import join_api

    join_api(module, wire)


def _otel_sdk(module: ModuleType, wire: Wire) -> None:
    from .sdk import join_sdk

    join_sdk(module, wire)


def _otel_grpc(module: ModuleType, wire: Wire) -> None:
    from .sdk import join_grpc

    join_grpc(module, wire)


def _pydantic_ai(module: ModuleType, wire: Wire) -> None:
    from .for_pydantic_ai import join_agent

    join_agent(module, wire)


def _pydantic_ai_models(module: ModuleType, wire: Wire) -> None:
    from .for_pydantic_ai import join_streams

    join_streams(module, wire)


def _openai_agents(module: ModuleType, wire: Wire) -> None:
    from .for_openai_agents import join_tracing

    join_tracing(module, wire)


def _openai_agents_models(module: ModuleType, wire: Wire) -> None:
    from .for_openai_agents import join_streams

    join_streams(module, wire)


def _crewai(module: ModuleType, wire: Wire) -> None:
    from .for_crewai import join_bus

    join_bus(module, wire)


JOINS: dict[str, Join] = {
    "opentelemetry.trace": _otel_api,
    "opentelemetry.sdk.trace": _otel_sdk,
    "opentelemetry.exporter.otlp.proto.grpc.exporter": _otel_grpc,
    "pydantic_ai": _pydantic_ai,
    "pydantic_ai.models": _pydantic_ai_models,
    "agents.tracing": _openai_agents,
    "agents.models.openai_responses": _openai_agents_models,
    "agents.models.openai_chatcompletions": _openai_agents_models,
    "agents.extensions.models.litellm_model": _openai_agents_models,
    "crewai": _crewai,
}


class ImportWatch:
    """Has ``JOINS`` called when one of their modules has been loaded, by whichever way the program loads it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._left = dict(JOINS)

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module's spec as others find it, with ours called after it has run; None for all other modules."""
        join = self._left.pop(name, None)
        if join is None:
            return None
        try:
            return self._joined(name, path, target, join)
        except Exception as error:
            self._wire.failed(name, error)
            return None

    def _joined(self, name: str, path: Any, target: ModuleType | None, join: Join) -> ModuleSpec | None:
        spec = _found_by_others(self, name, path, target)
        loader = spec.loader if spec is not None else None
        if spec is None or loader is None or not hasattr(loader, "exec_module"):
            return None
        run = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            try:
                join(module, self._wire)
                self._wire.hooked.add(name)
            except Exception as error:
                self._wire.failed(name, error)

        try:
            loader.exec_module = exec_module  # type: ignore[method-assign]
        except AttributeError:
            return None  # a loader written in C: the module is loaded as it would be without us
        return spec


def _found_by_others(ours: ImportWatch, name: str, path: Any, target: ModuleType | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if finder is not ours and hasattr(finder, "find_spec"):
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
    return PathFinder.find_spec(name, path, target)
