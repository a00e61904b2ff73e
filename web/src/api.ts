// The server's HTTP calls that the page makes. Each raises ApiError with the server's words.

import type { Json, PendingInput, Snapshot, StoredEvent, Trace } from "./types";

export class ApiError extends Error {
  constructor(readonly status: number, readonly code: string, message: string) {
    super(message);
  }
}

async function call<T>(path: string, init?: RequestInit): Promise<T> {
  let answer: Response;
  try {
    answer = await fetch(path, init);
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

export interface EventPage {
  events: StoredEvent[];
  next_since_event_id: number;
  current_event_id: number;
  first_event_id: number;
  has_more: boolean;
}

export const fetchEvents = (traceId: string, since: number, limit: number) =>
  call<EventPage>(`${one(traceId)}/events?since_event_id=${since}&limit=${Math.min(1000, limit)}`, { headers: { Accept: "application/json" } });

export async function fetchEvent(traceId: string, eventId: number): Promise<StoredEvent | undefined> {
  const page = await fetchEvents(traceId, eventId - 1, 1);
  return page.events.find((event) => event.event_id === eventId);
}

export const fetchTrace = (traceId: string, at?: number) => call<Snapshot>(one(traceId) + (at === undefined ? "" : `?at_event_id=${at}`));

export const fetchTraces = (pageToken?: string) =>
  call<{ traces: Trace[]; next_page_token: string | null }>(`/api/traces?limit=1000${pageToken ? `&page_token=${pageToken}` : ""}`);

export type OpenInput = PendingInput & { trace_id: string };
export const fetchInputs = () => call<{ inputs: OpenInput[] }>("/api/inputs");

export const answerInput = (traceId: string, requestId: string, value: Json) =>
  call<object>(`${one(traceId)}/inputs/${encodeURIComponent(requestId)}`, post({ value, by: "viewer" }));

export const cancelTrace = (traceId: string, reason?: string) =>
  call<{ status?: string }>(`${one(traceId)}/cancel`, post({ by: "viewer", ...(reason ? { reason } : {}) }));
