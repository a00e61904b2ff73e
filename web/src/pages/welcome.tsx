// The empty list: how to record the first trace.

import { copy } from "../app";

const LINES = `import tracewatch

with tracewatch.trace("Fix the login bug") as run:
    with run.goal("Find the cause"):
        run.message("assistant", "It is the cookie: the session never gets one.")`;

export function Welcome() {
  const demo = "tracewatch demo";
  return (
    <div class="start">
      <h1>No traces yet</h1>
      <p>They appear here as agents record them. Five lines of Python record one:</p>
      <Lines text={LINES} what="the lines" />
      <p>Or watch the demo's agent at work, offline and without a model, on a server of its own:</p>
      <Lines text={demo} what="the command" />
    </div>
  );
}

function Lines({ text, what }: { text: string; what: string }) {
  return (
    <div class="lines">
      <pre>{text}</pre>
      <button class="quiet" onClick={() => copy(text, what)}>
        Copy
      </button>
    </div>
  );
}
