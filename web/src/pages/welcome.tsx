// The empty list: what to type so that an agent of one's own shows up here.

import { copy } from "../app";
import { PREFIX } from "../net/route";

/** The server that every command asks if none is named. */
const DEFAULT = /^http:\/\/(127\.0\.0\.1|localhost):8400$/;

const FRAMEWORKS = "LangChain, LangGraph, pydantic-ai, openai-agents, crewai, google-adk, strands";

/** What somebody has, and the line that brings it to the server at `url`. The README has the same table. */
export function ways(url: string): [string, string][] {
  const there = DEFAULT.test(url) ? "" : ` --url ${url}`;
  return [
    ["Nothing yet: watch the demo's agent, offline and without a model", `tracewatch demo --url ${url}`],
    [
      `A Python or Node program with ${FRAMEWORKS}, or anything else that OpenTelemetry traces`,
      `tracewatch run${there} -- python my_agent.py`,
    ],
    ["Claude Code", `tracewatch install claude-code${there}`],
    ["Claude Code's, Codex's and Gemini CLI's sessions here, past and running", `tracewatch watch-sessions${there}`],
    [
      "Claude Code or Codex in a script",
      `claude -p "…" --output-format stream-json --verbose --include-partial-messages | tracewatch record${there}`,
    ],
    ["A service with LangSmith's client", `LANGSMITH_TRACING=true LANGSMITH_ENDPOINT=${url} LANGSMITH_API_KEY=any`],
    [
      "A service with OpenTelemetry, in any language",
      `OTEL_EXPORTER_OTLP_ENDPOINT=${url} OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf`,
    ],
    ["Files: transcripts, exports, benchmark results", `tracewatch import${there} FILE…`],
    [
      "Python code of your own",
      `import tracewatch

with tracewatch.trace("Fix the login bug"${there && `, url="${url}"`}) as run:
    with run.goal("Find the cause"):
        run.message("assistant", "It is the cookie: the session never gets one.")`,
    ],
  ];
}

export function Welcome() {
  return (
    <div class="start">
      <h1>No traces yet</h1>
      <p>They appear here as agents work. What do you have?</p>
      <dl>
        {ways(location.origin + PREFIX).map(([what, line]) => (
          <div key={what}>
            <dt>{what}</dt>
            <dd class="lines">
              <pre>{line}</pre>
              <button class="quiet" onClick={() => copy(line, line.includes("\n") ? "the lines" : "the command")}>
                Copy
              </button>
            </dd>
          </div>
        ))}
      </dl>
    </div>
  );
}
