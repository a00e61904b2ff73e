// What a page has and Node has not, as little as the tests need: frames that are drawn when a test says so.

type Listener = (event: object) => void;

export const listeners = new Map<string, Listener[]>();
const listen = (name: string, listener: Listener) =>
  void listeners.set(name, [...(listeners.get(name) ?? []), listener]);
let frames: (() => void)[] = [];

Object.assign(globalThis, {
  window: { addEventListener: listen },
  document: {
    addEventListener: listen,
    hidden: false,
    documentElement: { classList: { toggle: () => false } },
    querySelector: () => null,
  },
  requestAnimationFrame: (run: () => void) => frames.push(run),
});

export function emit(name: string): void {
  for (const listener of listeners.get(name) ?? []) listener({});
}

/** Draw: run what waits for the next frame. */
export function paint(): void {
  const waiting = frames;
  frames = [];
  for (const run of waiting) run();
}

export class FakeWebSocket {
  static all: FakeWebSocket[] = [];
  static get last(): FakeWebSocket {
    return FakeWebSocket.all.at(-1)!;
  }
  readyState = 0;
  sent: string[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((message: { data: string }) => void) | null = null;
  onclose: ((closed: { code: number; reason: string }) => void) | null = null;

  constructor(
    readonly url: string,
    readonly protocols: string[] = [],
  ) {
    FakeWebSocket.all.push(this);
  }
  send(text: string): void {
    this.sent.push(text);
  }
  close(): void {
    this.readyState = 3;
  }
  open(): void {
    this.readyState = 1;
    this.onopen?.();
  }
  say(...frames: object[]): void {
    for (const frame of frames) this.onmessage?.({ data: JSON.stringify(frame) });
  }
  end(code = 1006, reason = ""): void {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
  get asked(): Record<string, any>[] {
    return this.sent.filter((text) => text !== "ping").map((text) => JSON.parse(text));
  }
}

Object.assign(globalThis, { WebSocket: FakeWebSocket });
