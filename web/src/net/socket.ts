// The one WebSocket of this tab: subscriptions, reconnecting, and noticing that a silent socket is dead.
//
// Rule 1: subscriptions are kept here. After every reconnect they are made again, from the position of their owner.
// Rule 2: after an unsubscribe, frames of that trace are ignored until the server has confirmed it.
// Rule 3: a browser can't see WebSocket pings. After 1.3 heartbeats of silence the socket asks the server for a sign
//         of life, and shows that it asks; after 2.2 heartbeats it reconnects.
// Rule 4: how long the socket was silent is counted by what has passed, not by the machine's clock, which may be set.
//         Where the two differ, the machine has slept or its clock was set: nothing that was heard before counts.
// Rule 5: when the machine has slept, the network has changed or the page is shown again, the socket is checked at
//         once.

import { signal } from "@preact/signals";
import { HttpLink } from "./http-link";
import type { Frame, StoredEvent } from "./protocol";
import { passed, Sleeps, serverNow, tellTime } from "./time";

export interface Subscriber {
  /** The `subscribe` message's content, with the position reached. */
  ask(): { trace_id: string; since_event_id?: string; [key: string]: unknown };
  event(event: StoredEvent): void;
  frame(frame: Frame): void;
  /** The socket is gone. */
  lost(): void;
}

export type LinkState =
  | { kind: "connecting" }
  | { kind: "open" }
  | { kind: "silent"; since: number } // open, but without a word for too long: a sign of life was asked for
  | { kind: "waiting"; since: number; retryAt: number; why: string } // `why`: what stands between, if that is known
  | { kind: "refused"; why: string };

/** The credentials of the socket, and the callback for a server that refuses them. */
export interface SocketAccess {
  protocols(): string[];
  /** `why` is null where the handshake failed and a browser does not say why. */
  refused(why: string | null): void;
  /** What keeps sockets from the server while HTTP reaches it, in words; null where it does not reach it either. */
  between?(): Promise<string | null>;
}
const OPEN: SocketAccess = { protocols: () => [], refused: () => undefined };

const FIRST_DELAY = 500;
const MOST_DELAY = 20_000;
const PROBE_MS = 3_000;
const CHECK_MS = 5_000;
const FRESH_MS = 1_000; // a socket that was heard so lately is alive
const ASK = 1.3; // heartbeats without a word until the socket is asked, and
const GIVE_UP = 2.2; // until it is given up
const SHUT = 2; // handshakes that failed, until it is asked what stands between
const SOCKET_AGAIN_MS = 10 * 60_000;
const UNAUTHORIZED = 4501;

/** How long to wait before attempt number `attempt` (from 0), in ms: full jitter between 0.5 s and 20 s. */
export function backoff(attempt: number, random: number): number {
  return FIRST_DELAY + random * (Math.min(MOST_DELAY, FIRST_DELAY * 2 ** (attempt + 1)) - FIRST_DELAY);
}

export class Socket {
  readonly link = signal<LinkState>({ kind: "connecting" });
  #socket: WebSocket | HttpLink | null = null;
  #subscribers = new Map<string, Subscriber>();
  #leaving = new Map<string, number>(); // unsubscribes that are not confirmed yet
  #list: { query: object; frame: (frame: Frame) => void } | null = null;
  #attempt = 0;
  #shut = 0; // sockets that were never opened, one after another
  /** Why this page goes on without a WebSocket; null while it has one. */
  readonly instead = signal<string | null>(null);
  #offlineSince = 0;
  #heard = 0; // ms; when the server last said something
  #begun = 0; // ms; when this socket was made
  #looked = passed(); // ms; of the last check
  readonly #sleeps = new Sleeps();
  #heartbeatMs = 15_000;
  #why = ""; // the words of the server's last error for the whole socket
  #leaveWithin: number | null = null; // ms; of a goaway
  #retry: ReturnType<typeof setTimeout> | undefined;
  #probe: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly url: string,
    private readonly access: SocketAccess = OPEN,
  ) {}

  start(): void {
    this.#connect();
    setInterval(() => this.#check(), CHECK_MS);
    window.addEventListener("online", () => this.awake());
    window.addEventListener("focus", () => this.awake());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.awake();
    });
    window.addEventListener("pageshow", (event) => {
      if (event.persisted) this.awake();
    });
  }

  subscribe(traceId: string, subscriber: Subscriber): void {
    this.#subscribers.set(traceId, subscriber);
    this.#send({ subscribe: subscriber.ask() });
  }

  unsubscribe(traceId: string): void {
    if (!this.#subscribers.delete(traceId)) return;
    if (!this.#isOpen()) return;
    this.#leaving.set(traceId, (this.#leaving.get(traceId) ?? 0) + 1);
    this.#send({ unsubscribe: { trace_id: traceId } });
  }

  /** Ask again from where the subscriber stands: after a hole, or where a subscription has died. */
  resubscribe(traceId: string): void {
    const subscriber = this.#subscribers.get(traceId);
    if (!subscriber) return;
    this.unsubscribe(traceId);
    this.subscribe(traceId, subscriber);
  }

  watchList(query: object, frame: (frame: Frame) => void): void {
    this.#list = { query, frame };
    this.#send({ subscribe_traces: query });
  }

  /** Connect now instead of at the time that was planned. */
  retryNow(): void {
    if (this.#socket) return;
    clearTimeout(this.#retry);
    this.#connect();
  }

  /** The machine may have slept or changed its network: connect at once, or see whether the socket still lives. */
  awake(): void {
    if (!this.#socket) return this.link.value.kind === "refused" ? undefined : this.retryNow();
    const now = passed();
    const slept = this.#sleeps.jumped();
    // A socket from before a sleep is dead; a handshake that hangs may have begun in another network
    const hopeless = this.#isOpen()
      ? now - this.#heard + Math.max(0, slept) > this.#heartbeatMs * GIVE_UP
      : now - this.#begun + Math.max(0, slept) > PROBE_MS;
    if (hopeless) return this.#dropAndRetry();
    const fresh = now - this.#heard < FRESH_MS && Math.abs(slept) < FRESH_MS;
    if (!this.#isOpen() || this.#probe !== undefined || fresh) return;
    this.#socket.send("ping");
    this.#probe = setTimeout(() => {
      this.#probe = undefined;
      if (this.#heard <= now) this.#dropAndRetry();
    }, PROBE_MS);
  }

  #dropAndRetry(): void {
    this.#drop();
    this.retryNow();
  }

  #isOpen(): boolean {
    return this.#socket?.readyState === 1;
  }

  #send(value: object): void {
    if (this.#isOpen()) this.#socket!.send(JSON.stringify(value));
  }

  #connect(): void {
    const socket = this.instead.peek() === null ? new WebSocket(this.url, this.access.protocols()) : new HttpLink();
    let opened = false;
    this.#socket = socket;
    this.#leaving.clear();
    this.#leaveWithin = null;
    this.#why = "";
    this.#heard = this.#begun = passed();
    if (this.link.value.kind !== "waiting") this.link.value = { kind: "connecting" };
    socket.onopen = () => {
      if (this.#socket !== socket) return;
      opened = true;
      this.#shut = 0;
      this.#heard = passed();
      if (this.#list) this.#send({ subscribe_traces: this.#list.query });
      for (const subscriber of this.#subscribers.values()) this.#send({ subscribe: subscriber.ask() });
      if (!this.#list && !this.#subscribers.size) socket.send("ping");
    };
    socket.onmessage = (message: { data: string }) => {
      if (this.#socket === socket) this.#receive(JSON.parse(message.data));
    };
    socket.onclose = (closed: { code: number; reason: string }) => {
      if (this.#socket !== socket) return;
      this.#closed(closed.code, closed.reason);
      if (opened) return;
      this.access.refused(null);
      if (++this.#shut >= SHUT) void this.#goAround();
    };
  }

  /** No socket can be opened: where HTTP reaches the server, go on over HTTP, and try a socket again later. */
  async #goAround(): Promise<void> {
    const why = await this.access.between?.().catch(() => null);
    if (!why || this.#isOpen() || this.instead.peek() !== null) return;
    this.instead.value = why;
    clearTimeout(this.#retry);
    this.#drop();
    clearTimeout(this.#retry);
    this.#connect();
    setTimeout(() => {
      this.instead.value = null; // the next connection is a socket again
      this.#shut = SHUT - 1;
    }, SOCKET_AGAIN_MS);
  }

  /** Give the socket up without waiting for a close that may never come. */
  #drop(): void {
    const socket = this.#socket;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    this.#closed(1006, "");
  }

  #closed(code: number, why: string): void {
    this.#socket = null;
    clearTimeout(this.#probe);
    this.#probe = undefined;
    for (const subscriber of this.#subscribers.values()) subscriber.lost();
    if (code >= 4500 && code < 5000) {
      this.link.value = { kind: "refused", why: this.#why || why || `close code ${code}` };
      if (code === UNAUTHORIZED) this.access.refused(this.#why || why || "A token is needed");
      return;
    }
    this.#offlineSince ||= serverNow();
    const delay =
      this.#leaveWithin === null ? backoff(this.#attempt++, Math.random()) : Math.random() * this.#leaveWithin;
    this.link.value = { kind: "waiting", since: this.#offlineSince, retryAt: serverNow() + delay, why };
    this.#retry = setTimeout(() => this.#connect(), delay);
  }

  #check(): void {
    const now = passed();
    const slept = now - this.#looked > CHECK_MS * 3 || Math.abs(this.#sleeps.peek()) > CHECK_MS * 2;
    this.#looked = now;
    if (slept) return this.awake(); // timers or the count stood still: the machine has slept; or its clock was set
    if (!this.#socket) return;
    const silent = now - this.#heard;
    if (silent > this.#heartbeatMs * GIVE_UP) this.#dropAndRetry();
    else if (silent > this.#heartbeatMs * ASK && this.#isOpen()) {
      this.#socket.send("ping");
      if (this.link.value.kind === "open") this.link.value = { kind: "silent", since: serverNow() - silent };
    }
  }

  #receive(frame: Frame | StoredEvent): void {
    this.#heard = passed();
    if (typeof frame.ts === "string" && typeof frame.event_id !== "number") tellTime(frame.ts);
    if (this.link.value.kind !== "open") {
      this.#attempt = 0;
      this.#offlineSince = 0;
      this.link.value = { kind: "open" };
    }
    const traceId = frame.trace_id;
    if (typeof frame.event_id === "number") {
      if (!this.#leaving.size || !this.#leaving.has(traceId!))
        this.#subscribers.get(traceId!)?.event(frame as StoredEvent);
      return;
    }
    switch (frame.event) {
      case "goaway":
        this.#leaveWithin = Number(frame.after_ms) || 0;
        return;
      case "unsubscribed": {
        const left = (this.#leaving.get(traceId!) ?? 1) - 1;
        if (left > 0) this.#leaving.set(traceId!, left);
        else this.#leaving.delete(traceId!);
        return;
      }
      case "traces":
      case "trace_changed":
      case "trace_deleted":
        this.#list?.frame(frame as Frame);
        return;
    }
    if (frame.heartbeat_s > 0) this.#heartbeatMs = frame.heartbeat_s * 1000;
    if (frame.event === "error" && !traceId) {
      this.#why = String(frame.message ?? frame.code ?? "");
      this.#list?.frame(frame as Frame);
    }
    if (!traceId) return;
    if (this.#leaving.has(traceId)) {
      // The server refuses to end a subscription that has ended by itself; either way it is over
      if (frame.event === "error") this.#leaving.delete(traceId);
      return;
    }
    this.#subscribers.get(traceId)?.frame(frame as Frame);
  }
}
