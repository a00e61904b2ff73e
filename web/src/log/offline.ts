// A page that is one file: the viewer with traces in it. It opens without a server and makes no request.
//
// Rule: the traces stand in the page as lines: for each trace `{"trace": header, "snapshot": …}` and its stored
//       events, the exported trace first. The rest of the viewer gets its answers from these lines instead of from a
//       server.

import { signal } from "@preact/signals";
import type { LocalApi } from "../net/api";
import type { Frame, Snapshot, StoredEvent, Trace } from "../net/protocol";
import type { LinkState, Subscriber } from "../net/socket";
import { applyInto, State } from "./fold";

interface SavedTrace {
  snapshot: Snapshot;
  events: StoredEvent[];
}

interface SavedContent {
  media_type: string;
  bytes: number;
  parts: string[]; // base64
}
const contents = new Map<string, SavedContent>(); // by their SHA-256

export const PLACE = "tracewatch-export"; // the element that holds the lines

/** The traces that stand in this page, or null where it came from a server. */
export function tracesInPage(): Map<string, SavedTrace> | null {
  const text = document.getElementById(PLACE)?.textContent;
  if (!text) return null;
  const found = new Map<string, SavedTrace>();
  let kept: SavedTrace | null = null;
  for (const line of text.split("\n")) {
    if (!line.trim()) continue;
    const value = JSON.parse(line) as { trace?: { trace_id: string }; snapshot?: Snapshot } & StoredEvent;
    if (value.blob && !value.event) {
      const { sha256, media_type, bytes, data } = value.blob as unknown as SavedContent & {
        sha256: string;
        data: string;
      };
      const saved = contents.get(sha256) ?? { media_type, bytes, parts: [] };
      saved.parts.push(data);
      contents.set(sha256, saved);
    } else if (value.trace && value.snapshot) {
      kept = { snapshot: value.snapshot, events: [] };
      found.set(value.trace.trace_id, kept);
    } else kept?.events.push(value);
  }
  return found;
}

/** Answers as a server would give them. */
export function localApi(traces: Map<string, SavedTrace>): LocalApi {
  return {
    async events(traceId, since, limit) {
      const kept = traces.get(traceId);
      const events = kept?.events.filter((event) => event.event_id > since).slice(0, limit) ?? [];
      return { events };
    },
    async trace(traceId, at) {
      const kept = traces.get(traceId);
      if (!kept) throw new Error("This file does not hold that run");
      const last = kept.snapshot.trace.last_event_id;
      if (at === undefined || at >= last) return kept.snapshot;
      if (kept.events[0]?.event_id !== 1)
        throw new Error("The beginning of this run was trimmed: it can't be shown as it was");
      const { trace_id, task, agent_type, parent_trace_id, parent_goal_id, root_trace_id, created_at, metadata } =
        kept.snapshot.trace;
      const { session_id, user_id, tags, links } = kept.snapshot.trace;
      const state = new State({
        ...{ trace_id, task, agent_type, parent_trace_id, parent_goal_id, root_trace_id, created_at, metadata },
        ...{ session_id, user_id, tags, ...(links && { links }) },
      });
      for (const event of kept.events) {
        if (event.event_id > at) break;
        applyInto(state, event);
      }
      return {
        trace: state.trace(),
        goal_tree: state.goalTree(),
        sub_traces: [...state.subTraces.values()],
        pending_inputs: [...state.pendingInputs.values()],
        steps: [...state.steps.values()],
      };
    },
    async content(name) {
      const saved = contents.get(name);
      if (!saved) throw new Error("This file does not hold that content: it was too large");
      const parts = saved.parts.map((part) => Uint8Array.from(atob(part), (letter) => letter.charCodeAt(0)));
      return new Blob(parts, { type: saved.media_type });
    },
    async prompt(traceId, messageId) {
      const { assemble } = await import("./prompt");
      const kept = traces.get(traceId);
      const state = new State({ trace_id: traceId, task: "" });
      for (const event of kept?.events ?? []) applyInto(state, event);
      return { prompt: assemble(state.messages, messageId) };
    },
    async traces() {
      return { traces: [...traces.values()].map(({ snapshot }) => snapshot.trace), next_page_token: null };
    },
  };
}

/** Takes the place of the socket. */
export class LocalSocket {
  readonly instead = signal<string | null>(null);
  readonly link = signal<LinkState>({ kind: "open" });

  constructor(private readonly traces: Map<string, SavedTrace>) {}

  start(): void {}
  unsubscribe(): void {}
  resubscribe(): void {}
  retryNow(): void {}

  watchList(_query: object, frame: (frame: Frame) => void): void {
    frame({ event: "traces", traces: [...this.traces.values()].map(({ snapshot }): Trace => snapshot.trace) });
  }

  subscribe(traceId: string, subscriber: Subscriber): void {
    const kept = this.traces.get(traceId);
    if (!kept) {
      subscriber.frame({
        event: "error",
        trace_id: traceId,
        code: "not_in_file",
        message: "This file does not hold that run",
      });
      return;
    }
    const { snapshot, events } = kept;
    const last = snapshot.trace.last_event_id;
    const first = events[0]?.event_id ?? last + 1;
    subscriber.frame({
      ...snapshot,
      event: "connected",
      trace_id: traceId,
      cursor: `file.${first - 1}`,
      current_event_id: last,
    });
    for (const event of events) subscriber.event(event);
    subscriber.frame({ event: "caught_up", trace_id: traceId, current_event_id: last, replayed: events.length });
  }
}
