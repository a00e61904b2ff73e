// The token of this tab, where the server wants one, and the name under which a person answers and cancels.
//
// Rule 1: the token is kept in the tab's session storage: never in an address, never where a later day finds it. A new
//         tab asks those that are open; so it is known as long as one tab is, and forgotten by all at once.
// Rule 2: a refused request waits for a token and is then sent again, so that no part of the page has to know of
//         tokens.
// Rule 3: the name is kept in this browser, and goes to the server only with an answer or a cancel.

import { signal } from "@preact/signals";
import { PREFIX } from "./route";
import { store, stored } from "./storage";

const KEY = `tracewatch.token${PREFIX}`; // of each server, where one host has several below paths of their own
const NAME_KEY = "tracewatch.name";
/** What a token may consist of: it travels as a header and as a WebSocket's subprotocol. */
export const isToken = (text: string): boolean => /^[!#$%&'*+\-.^_`|~0-9A-Za-z]{8,512}$/.test(text);

export const token = signal<string | null>(stored(KEY, true));

/** Why a token is wanted, in the server's words; null while none is. */
export const wanted = signal<string | null>(null);
/** Whether the dialog was put aside; requests go on waiting. */
export const aside = signal(false);

let waiting: (() => void)[] = [];

function keep(given: string | null): void {
  token.value = given;
  store(KEY, given, true);
}

/** What tabs of one server tell each other. */
type Word = { asks: true } | { token: string } | { forget: string };

const tabs = openChannel();

function openChannel(): BroadcastChannel | null {
  try {
    return typeof window === "undefined" ? null : new BroadcastChannel(KEY);
  } catch {
    return null; // a browser that keeps sites apart from themselves: each tab asks for itself
  }
}

const tell = (word: Word): void => tabs?.postMessage(word);

tabs?.addEventListener("message", ({ data }: MessageEvent<Word>) => {
  const held = token.peek();
  if ("asks" in data) {
    if (held !== null && wanted.peek() === null) tell({ token: held });
  } else if ("forget" in data) {
    if (held === data.forget) leave();
  } else if (held === null && isToken(data.token)) give(data.token, true);
});

/** Ask the tabs that are open for their token. */
export function askTabs(): void {
  if (token.peek() === null) tell({ asks: true });
}

function leave(): void {
  keep(null);
  location.reload();
}

/** The server refused the token `used` (null: that there was none). Ask for another; resolves once there is one. */
export function refused(used: string | null, why: string): Promise<void> {
  if (token.peek() !== used && token.peek() !== null) return Promise.resolve(); // another has come meanwhile
  keep(null);
  if (wanted.peek() === null) aside.value = false;
  wanted.value = why;
  return new Promise((done) => waiting.push(done));
}

/** Keep a token that the server takes, and send the waiting requests. */
export function give(given: string, heard = false): void {
  keep(given);
  if (!heard) tell({ token: given });
  wanted.value = null;
  aside.value = false;
  const ready = waiting;
  waiting = [];
  for (const done of ready) done();
}

/** Forget the token and what was read with it, in all tabs. */
export function forget(): void {
  const held = token.peek();
  if (held !== null) tell({ forget: held });
  leave();
}

/** The headers of a request. */
export const bearer = (): Record<string, string> => {
  const held = token.peek();
  return held === null ? {} : { Authorization: `Bearer ${held}` };
};

/** The subprotocols of a WebSocket. */
export const protocols = (): string[] => {
  const held = token.peek();
  return held === null ? [] : ["tracewatch.v1", `bearer.${held}`];
};

const NOBODY = "viewer";

/** The name under which a person answers and cancels here, for everybody who reads it later. */
export const me = signal(stored(NAME_KEY)?.trim() || NOBODY);

export function callMe(name: string): void {
  me.value = name.trim().slice(0, 256) || NOBODY;
  store(NAME_KEY, me.value);
}
