// The application: its one socket, the list of traces, the logs of open traces, and messages to the person.

import { signal } from "@preact/signals";
import { LocalSocket, localApi, tracesInPage } from "./log/offline";
import { TraceLog } from "./log/trace-log";
import { Traces } from "./log/traces";
import { answerFrom, tokenWasWanted, whatStandsBetween } from "./net/api";
import { askTabs, protocols, refused, token } from "./net/auth";
import { go, PREFIX, traceHref } from "./net/route";
import { Socket } from "./net/socket";
import { lookForNewer } from "./net/version";

/** The part of the socket that a page needs; a page that is one file has a LocalSocket. */
export type AnySocket = Pick<
  Socket,
  "link" | "instead" | "start" | "subscribe" | "unsubscribe" | "resubscribe" | "retryNow" | "watchList"
>;

export interface App {
  socket: AnySocket;
  traces: Traces;
  offline: boolean; // a page that is one file
}

export let app: App;

export function startApp(): void {
  const kept = tracesInPage();
  if (kept) {
    answerFrom(localApi(kept));
    const socket = new LocalSocket(kept);
    app = { socket, traces: new Traces(socket), offline: true };
    if (location.hash.length < 2) go(traceHref([...kept.keys()][0]!), "replace");
    return;
  }
  askTabs();
  let used = token.peek();
  const socket = new Socket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${PREFIX}/api/watch`, {
    protocols() {
      used = token.peek();
      return protocols();
    },
    between: whatStandsBetween,
    refused(why) {
      if (why === null && !navigator.onLine) return;
      const given = why === null ? tokenWasWanted() : refused(used, why).then(() => true);
      void given.then((again) => again && socket.retryNow());
    },
  });
  app = { socket, traces: new Traces(socket), offline: false };
  let before = socket.link.peek().kind;
  socket.link.subscribe(({ kind }) => {
    if (kind === "open" && before === "waiting") void lookForNewer();
    if (kind === "open" || kind === "waiting") before = kind;
  });
  socket.start();
}

const opened = new Map<string, { log: TraceLog; users: number }>();

/** The log of a trace, shared by all parts that show the trace. Give it back with `closeLog`. */
export function openLog(id: string): TraceLog {
  let entry = opened.get(id);
  if (!entry) {
    entry = { log: new TraceLog(id, app.socket), users: 0 };
    opened.set(id, entry);
    entry.log.open();
  }
  entry.users++;
  return entry.log;
}

export function closeLog(id: string): void {
  const entry = opened.get(id);
  if (!entry || --entry.users > 0) return;
  opened.delete(id);
  entry.log.close();
}

/** Read out by screen readers. */
export const spoken = signal("");

/** Shown for a moment at the bottom. */
export const toast = signal<{ words: string; bad?: boolean } | null>(null);
let toastTimer: ReturnType<typeof setTimeout> | undefined;

export function say(words: string, bad = false): void {
  toast.value = { words, bad };
  spoken.value = words;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (toast.value = null), bad ? 8000 : 2500);
}

/** Put a text into the clipboard, also one that is still to be read. */
export async function copy(text: string | Promise<string>, what: string): Promise<void> {
  try {
    await toClipboard(text);
    say(`Copied ${what}`);
  } catch (error) {
    const refused = error instanceof DOMException;
    say(refused ? "The browser did not allow copying" : `Not copied: ${(error as Error).message}`, true);
  }
}

async function toClipboard(text: string | Promise<string>): Promise<void> {
  const read = Promise.resolve(text);
  read.catch(() => undefined); // raised below
  const { clipboard } = navigator;
  if (!clipboard) return byCommand(await read); // not https: browsers have none there
  if (typeof text === "string" || typeof ClipboardItem === "undefined") return clipboard.writeText(await read);
  // Given at once: the leave that a click gives may be over when the text is here
  const blob = read.then((ready) => new Blob([ready], { type: "text/plain" }));
  blob.catch(() => undefined);
  const written = clipboard.write([new ClipboardItem({ "text/plain": blob })]);
  written.catch(() => undefined);
  await read;
  await written;
}

function byCommand(text: string): void {
  const field = document.createElement("textarea");
  field.value = text;
  field.style.position = "fixed";
  field.style.opacity = "0";
  const focused = document.activeElement as HTMLElement | null;
  // Outside of an open dialog nothing can be selected
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  if (!done) throw new DOMException("", "NotAllowedError");
}
