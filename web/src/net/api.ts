// The HTTP calls that the page makes. Each raises ApiError with the server's words.

import { bearer, refused, token } from "./auth";
import type { Json, Message, PendingInput, Prompt, Snapshot, StoredEvent, Trace } from "./protocol";
import { PREFIX } from "./route";

export interface ErrorDetail {
  path?: string;
  message?: string;
}

export class ApiError extends Error {
  /** `details` and `facts` are the other fields of the answer. */
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly details: ErrorDetail[] = [],
    readonly retryAfterS = 0,
    readonly facts: { [key: string]: Json } = {},
  ) {
    super(message);
  }

  /** The message for a person. */
  get words(): string {
    return this.retryAfterS ? `${this.message}; it can be tried again in ${this.retryAfterS} s` : this.message;
  }
}

/** Answers instead of a server, in a page that is one file. */
export interface LocalApi {
  events(traceId: string, since: number, limit: number): Promise<{ events: StoredEvent[] }>;
  trace(traceId: string, at?: number): Promise<Snapshot>;
  traces(): Promise<{ traces: Trace[]; next_page_token: null }>;
  content(name: string): Promise<Blob>;
  prompt(traceId: string, messageId: string): Promise<{ prompt: Prompt | null }>;
}

let local: LocalApi | null = null;

export function answerFrom(instead: LocalApi): void {
  local = instead;
}

/** The server's answer to a request. A request that needs a token waits for one; any other refusal is raised. */
async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  for (;;) {
    const used = token.peek();
    const answer = await send(path, init);
    if (answer.ok) return answer;
    const error = await refusal(answer);
    if (error.status !== 401) throw error;
    await refused(used, error.message);
  }
}

async function send(path: string, init: RequestInit): Promise<Response> {
  try {
    return await fetch(PREFIX + path, { ...init, headers: { ...bearer(), ...init.headers } });
  } catch {
    throw new ApiError(0, "unreachable", "The server can't be reached");
  }
}

async function refusal(answer: Response): Promise<ApiError> {
  const body = await answer.json().catch(() => null);
  const wait = Number(answer.headers.get("Retry-After")) || 0;
  // Tracewatch answers in JSON, always
  const message = body?.message ?? `What answered is not tracewatch (${answer.status}): a proxy? See ${PROXY}`;
  const details = Array.isArray(body?.details) ? body.details : [];
  return new ApiError(answer.status, body?.error ?? "error", message, details, wait, body ?? {});
}

async function call<T>(path: string, init?: RequestInit): Promise<T> {
  const answer = await ask(path, init);
  return (await answer.json()) as T;
}

/** Raise ApiError unless the server takes this token: 401 for an unknown token, 429 after too many of those. */
export async function tryToken(given: string): Promise<void> {
  const answer = await send("/api/traces?limit=1", { headers: { Authorization: `Bearer ${given}` } });
  // 403: the token is valid, but not for the list
  if (!answer.ok && answer.status !== 403) throw await refusal(answer);
}

/** Find out whether the server wants a token, and if so wait for one. False if it wants none. */
export async function tokenWasWanted(): Promise<boolean> {
  const used = token.peek();
  const answer = await send("/api/traces?limit=1", {}).catch(() => null);
  if (answer?.status !== 401) return false;
  await refused(used, (await refusal(answer)).message);
  return true;
}

const PROXY = "docs/operating.md, chapter “Behind a proxy”";

/** Why no WebSocket gets through while HTTP does, in words; null where HTTP does not get through either. */
export async function whatStandsBetween(): Promise<string | null> {
  const answer = await send("/healthz", {}).catch(() => null);
  if (!answer?.ok) return null;
  // Browsers send Origin with this, as with a WebSocket: a Host that was changed on the way is refused in words
  const posted = await send("/api/watch", { method: "POST" }).catch(() => null);
  if (posted?.status === 403) return `${(await refusal(posted)).message} (${PROXY})`;
  return `A proxy lets no WebSocket through: it must pass on the headers Upgrade and Connection (${PROXY})`;
}

const one = (traceId: string) => `/api/traces/${encodeURIComponent(traceId)}`;
const post = (value: object): RequestInit => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(value),
});

/** A page of events behind `since`, an event_id or a cursor. Large events make it shorter than `limit`. */
export async function fetchEvents(
  traceId: string,
  since: number | string,
  limit: number,
): Promise<{ events: StoredEvent[] }> {
  if (local) return local.events(traceId, Number(String(since).split(".").at(-1)), limit);
  return call(`${one(traceId)}/events?since_event_id=${since}&limit=${Math.min(1000, limit)}`, {
    headers: { Accept: "application/json" },
  });
}

export async function fetchEvent(traceId: string, eventId: number): Promise<StoredEvent | undefined> {
  const page = await fetchEvents(traceId, eventId - 1, 1);
  return page.events.find((event) => event.event_id === eventId);
}

export async function fetchTrace(traceId: string, at?: number): Promise<Snapshot> {
  if (local) return local.trace(traceId, at);
  return call(one(traceId) + (at === undefined ? "" : `?at_event_id=${at}`));
}

/** A message as it now stands, and the event_id it was added with. */
export const fetchMessage = (traceId: string, messageId: string) =>
  call<{ event_id: number; message: Message }>(`${one(traceId)}/messages/${encodeURIComponent(messageId)}`);

/** All that a message's model call was asked; null for one without a request. */
export async function fetchPrompt(traceId: string, messageId: string): Promise<{ prompt: Prompt | null }> {
  if (local) return local.prompt(traceId, messageId);
  return call(`${one(traceId)}/messages/${encodeURIComponent(messageId)}?prompt=1`);
}

/** The last messages, of a goal or before a sequence, as they now stand. */
export async function fetchMessages(
  traceId: string,
  { goalId, before, limit }: { goalId?: string; before?: number; limit: number },
): Promise<{ messages: Message[] }> {
  const params = new URLSearchParams({
    limit: String(limit),
    ...(goalId === undefined ? {} : { goal_id: goalId }),
    ...(before === undefined ? {} : { before: String(before) }),
  });
  return call(`${one(traceId)}/messages?${params}`);
}

export async function fetchTraces(
  pageToken?: string,
  filter: [string, string][] = [],
): Promise<{ traces: Trace[]; next_page_token: string | null; epoch?: string }> {
  if (local) return filter.length ? { traces: [], next_page_token: null } : local.traces();
  const params = new URLSearchParams([["limit", "1000"], ...filter, ...(pageToken ? [["page_token", pageToken]] : [])]);
  return call(`/api/traces?${params}`);
}

export interface Hit {
  trace_id: string;
  event_id: number; // 0: the run itself
  kind: string;
  label?: string;
  ts: string;
  snippet: string[]; // plain, found, plain …
}
export interface Found {
  hits: Hit[];
  traces: Trace[];
  next_page_token: string | null;
  index: { state: string; behind: number; trouble?: string };
}

/** Where a text is found. `within`: only in this trace and its sub-traces. */
export async function fetchHits(q: string, within: string | null, token?: string): Promise<Found> {
  const more: Record<string, string> =
    within === null ? { limit: "50" } : { limit: "50", per_trace: "200", trace_id: within };
  return call(`/api/search?${new URLSearchParams({ q, ...more, ...(token ? { page_token: token } : {}) })}`);
}

/** A trace's stored events as lines, from behind `since`: what was trimmed can't be asked for. */
export async function fetchLines(traceId: string, since: number): Promise<string> {
  const answer = await ask(`${one(traceId)}/events?since_event_id=${since}`, {
    headers: { Accept: "application/x-ndjson" },
  });
  return answer.text();
}

/** Big or binary content of a trace, by its SHA-256, or its bytes from `start` up to `end`. */
export async function fetchContent(traceId: string, name: string, start = 0, end?: number): Promise<Blob> {
  if (local) return (await local.content(name)).slice(start, end);
  const headers = end === undefined ? undefined : { Range: `bytes=${start}-${end - 1}` };
  return (await ask(`${one(traceId)}/blobs/${name}`, { headers })).blob();
}

/** The page that holds a viewer and no traces yet. */
export async function fetchTemplate(): Promise<string> {
  const answer = await fetch(`${PREFIX}/static/offline.html`, { cache: "no-cache" });
  if (!answer.ok) throw new ApiError(answer.status, "error", "This server's viewer was built without its offline page");
  return answer.text();
}

const MOST_INPUTS = 1000;

export type OpenInput = PendingInput & { trace_id: string };
export async function fetchInputs(): Promise<{ inputs: OpenInput[]; epoch?: string }> {
  const inputs: OpenInput[] = [];
  if (local) return { inputs }; // the agents of a saved run do not wait any more
  let token: string | undefined;
  let epoch: string | undefined;
  do {
    const page: { inputs: OpenInput[]; next_page_token?: string; epoch?: string } = await call(
      `/api/inputs${token ? `?page_token=${encodeURIComponent(token)}` : ""}`,
    );
    inputs.push(...page.inputs);
    epoch = page.epoch;
    token = page.next_page_token; // only their size has cut them into pages
  } while (token && inputs.length < MOST_INPUTS);
  return { inputs, epoch };
}

/** The state of a question, and its answer. */
export interface Outcome {
  state: "open" | "answered" | "expired" | "closed";
  value?: Json;
  by?: string;
}
const input = (traceId: string, requestId: string) => `${one(traceId)}/inputs/${encodeURIComponent(requestId)}`;
export const fetchInput = (traceId: string, requestId: string) => call<Outcome>(input(traceId, requestId));
/** The whole of an open question of which there is a preview. */
export const fetchQuestion = (traceId: string, requestId: string) => call<PendingInput>(input(traceId, requestId));

export const answerInput = (traceId: string, requestId: string, value: Json, by: string) =>
  call<object>(input(traceId, requestId), post({ value, by }));

export const cancelTrace = (traceId: string, by: string, reason?: string) =>
  call<{ status?: string }>(`${one(traceId)}/cancel`, post({ by, ...(reason ? { reason } : {}) }));
