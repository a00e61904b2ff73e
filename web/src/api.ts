// The server's HTTP calls that the page makes. Each raises ApiError with the server's words.

import { PREFIX } from "./prefix";
import type { Json, PendingInput, Snapshot, StoredEvent, Trace } from "./types";

export class ApiError extends Error {
  constructor(readonly status: number, readonly code: string, message: string) {
    super(message);
  }
}

/** What answers instead of a server, in a page that is one file. */
export interface Local {
  events(traceId: string, since: number, limit: number): Promise<{ events: StoredEvent[] }>;
  trace(traceId: string, at?: number): Promise<Snapshot>;
  traces(): Promise<{ traces: Trace[]; next_page_token: null }>;
}

let local: Local | null = null;

export function answerFrom(instead: Local): void {
  local = instead;
}

async function call<T>(path: string, init?: RequestInit): Promise<T> {
  let answer: Response;
  try {
    answer = await fetch(PREFIX + path, init);
  } catch {
    throw new ApiError(0, "unreachable", "The server can't be reached");
  }
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new ApiError(answer.status, body?.error ?? "error", body?.message ?? `The server answered ${answer.status}`);
  return body as T;
}

const one = (traceId: string) => `/api/traces/${encodeURIComponent(traceId)}`;
const post = (value: object): RequestInit => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(value),
});

export async function fetchEvents(traceId: string, since: number, limit: number): Promise<{ events: StoredEvent[] }> {
  if (local) return local.events(traceId, since, limit);
  return call(`${one(traceId)}/events?since_event_id=${since}&limit=${Math.min(1000, limit)}`, { headers: { Accept: "application/json" } });
}

export async function fetchEvent(traceId: string, eventId: number): Promise<StoredEvent | undefined> {
  const page = await fetchEvents(traceId, eventId - 1, 1);
  return page.events.find((event) => event.event_id === eventId);
}

export async function fetchTrace(traceId: string, at?: number): Promise<Snapshot> {
  if (local) return local.trace(traceId, at);
  return call(one(traceId) + (at === undefined ? "" : `?at_event_id=${at}`));
}

export async function fetchTraces(pageToken?: string): Promise<{ traces: Trace[]; next_page_token: string | null }> {
  if (local) return local.traces();
  return call(`/api/traces?limit=1000${pageToken ? `&page_token=${pageToken}` : ""}`);
}

/** A trace's stored events as lines. */
export async function fetchLines(traceId: string): Promise<string> {
  const answer = await fetch(`${PREFIX}${one(traceId)}/events`, { headers: { Accept: "application/x-ndjson" } });
  if (!answer.ok) throw new ApiError(answer.status, "error", `The server answered ${answer.status}`);
  return answer.text();
}

/** The page that holds a viewer and no traces yet. */
export async function fetchTemplate(): Promise<string> {
  const answer = await fetch(`${PREFIX}/static/offline.html`, { cache: "no-cache" });
  if (!answer.ok) throw new ApiError(answer.status, "error", "This server's viewer was built without its offline page");
  return answer.text();
}

export type OpenInput = PendingInput & { trace_id: string };
export const fetchInputs = () => call<{ inputs: OpenInput[] }>("/api/inputs");

export const answerInput = (traceId: string, requestId: string, value: Json) =>
  call<object>(`${one(traceId)}/inputs/${encodeURIComponent(requestId)}`, post({ value, by: "viewer" }));

export const cancelTrace = (traceId: string, reason?: string) =>
  call<{ status?: string }>(`${one(traceId)}/cancel`, post({ by: "viewer", ...(reason ? { reason } : {}) }));
