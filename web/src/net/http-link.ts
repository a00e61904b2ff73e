// Watching without a WebSocket, where a proxy lets none through: each trace as a stream of server-sent events, the list
// by asking again and again. It looks like a WebSocket to `socket`, and takes and gives the same messages.
//
// Rule 1: what ends by mistake ends all of it, as a socket that breaks. It is made again from where each trace stands.
// Rule 2: the stream of a run that has ended ends too. It is asked for again now and then, as events may come late.

import { bearer } from "./auth";
import type { Frame, Trace } from "./protocol";
import { PREFIX } from "./route";

const LIST_MS = 3_000; // between two questions for the list, and for what comes late to a run that has ended
const BEGIN_MS = 8_000; // in which a stream must have begun, and said its first word

export const CROWDED =
  "No connection is free: browsers keep six to a server without HTTP/2. Close other tabs of it, or have the proxy " +
  "pass on WebSockets";
export const BUFFERED =
  "A proxy keeps answers back until they are complete. It must pass them on as they come (docs/operating.md, chapter " +
  "“Behind a proxy”)";

export class HttpLink {
  readyState = 0;
  onopen: (() => void) | null = null;
  onmessage: ((message: { data: string }) => void) | null = null;
  onclose: ((closed: { code: number; reason: string }) => void) | null = null;
  readonly #streams = new Map<string, AbortController>();
  readonly #over = new AbortController();
  #known = new Map<string, string>(); // the summaries that were told, as JSON
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    setTimeout(() => {
      if (this.readyState) return;
      this.readyState = 1;
      this.onopen?.();
    });
  }

  close(): void {
    this.readyState = 3;
    clearTimeout(this.#timer);
    this.#over.abort();
    for (const stream of this.#streams.values()) stream.abort();
  }

  send(text: string): void {
    if (text === "ping") return void this.#ping();
    const message = JSON.parse(text) as {
      [name: string]: { trace_id: string; since_event_id?: string; limit?: number };
    };
    if (message.subscribe) void this.#watch(message.subscribe.trace_id, message.subscribe.since_event_id ?? "0");
    if (message.unsubscribe) {
      this.#streams.get(message.unsubscribe.trace_id)?.abort();
      this.#streams.delete(message.unsubscribe.trace_id);
      this.#say({ event: "unsubscribed", trace_id: message.unsubscribe.trace_id });
    }
    if (message.subscribe_traces) void this.#list(message.subscribe_traces.limit ?? 200);
  }

  #say(frame: Frame): void {
    if (this.readyState === 1) this.onmessage?.({ data: JSON.stringify(frame) });
  }

  #fail(reason: string): void {
    if (this.readyState === 3) return;
    this.close();
    this.onclose?.({ code: 1006, reason });
  }

  async #ask(path: string, accept: string, signal: AbortSignal): Promise<Response> {
    const answer = await fetch(PREFIX + path, { headers: { ...bearer(), Accept: accept }, signal, cache: "no-store" });
    if (answer.status !== 401 && answer.status !== 403) return answer;
    const { message } = (await answer.json()) as { message?: string };
    const code = answer.status === 401 ? 4501 : 4503;
    this.close();
    this.onclose?.({ code, reason: message ?? "" });
    throw new DOMException("refused", "AbortError");
  }

  async #ping(): Promise<void> {
    try {
      const answer = await this.#ask("/healthz", "application/json", this.#over.signal);
      this.#say({ ...(await answer.json()), event: "pong" });
    } catch {
      // no word: the silence is noticed
    }
  }

  async #list(limit: number): Promise<void> {
    try {
      const answer = await this.#ask(`/api/traces?limit=${limit}`, "application/json", this.#over.signal);
      const { traces, epoch, ts } = (await answer.json()) as { traces: Trace[]; epoch: string; ts: string };
      const told = this.#known;
      this.#known = new Map(traces.map((trace) => [trace.trace_id, JSON.stringify(trace)]));
      if (!told.size) this.#say({ event: "traces", epoch, ts, traces });
      else
        for (const [id, text] of this.#known)
          if (told.get(id) !== text) this.#say({ event: "trace_changed", epoch, ts, trace: JSON.parse(text) });
      this.#say({ event: "pong", ts });
      this.#timer = setTimeout(() => void this.#list(limit), LIST_MS);
    } catch (error) {
      if ((error as Error).name !== "AbortError") this.#fail("");
    }
  }

  async #watch(id: string, since: string, again = false): Promise<void> {
    this.#streams.get(id)?.abort();
    const stream = new AbortController();
    this.#streams.set(id, stream);
    let begun = "";
    let at = since; // the cursor
    let epoch = "";
    const late = setTimeout(() => this.#fail(begun || CROWDED), BEGIN_MS);
    try {
      const path = `/api/traces/${encodeURIComponent(id)}/events?nulls=1&since_event_id=${encodeURIComponent(since)}`;
      const answer = await this.#ask(path, "text/event-stream", stream.signal);
      begun = BUFFERED;
      if (answer.status === 204) {
        if (!again) this.#say({ event: "caught_up", trace_id: id, replayed: 0 });
        return this.#later(id, at, stream);
      }
      if (!answer.ok || !answer.body) {
        const refusal = (await answer.json().catch(() => ({}))) as { error?: string; message?: string };
        return this.#say({ event: "error", trace_id: id, code: refusal.error, message: refusal.message });
      }
      let ended = false;
      for await (const frame of framesOf(answer.body)) {
        clearTimeout(late);
        ended ||= frame.event === "error" && !frame.command;
        if (stream.signal.aborted) return;
        if (frame.event === "end") return this.#later(id, at, stream);
        if (frame.event === "connected") {
          const [of, position] = String(frame.cursor).split(".");
          epoch = `${of}.`;
          at = epoch + (frame.resume_event_id ?? position);
        } else if (typeof frame.event_id === "number") at = epoch + frame.event_id;
        this.#say({ trace_id: id, ...frame });
      }
      if (!ended && !stream.signal.aborted) this.#fail("");
    } catch (error) {
      if ((error as Error).name !== "AbortError") this.#fail("");
    } finally {
      clearTimeout(late);
    }
  }

  #later(id: string, since: string, stream: AbortController): void {
    const timer = setTimeout(() => void this.#watch(id, since, true), LIST_MS);
    stream.signal.addEventListener("abort", () => clearTimeout(timer));
  }
}

/** The data of server-sent events. */
export async function* framesOf(body: ReadableStream<Uint8Array>): AsyncGenerator<Frame> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop()!;
    for (const line of lines) if (line.startsWith("data:")) yield JSON.parse(line.slice(5)) as Frame;
  }
}
