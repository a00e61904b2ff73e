// The bar on top of every page, with the pill that says how the connection is.

import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { app, say, spoken } from "../app";
import { count, counted, timeOfDay, visible } from "../format";
import type { TraceLog } from "../log/trace-log";
import { aside, token, wanted } from "../net/auth";
import { HOME } from "../net/route";
import type { LinkState } from "../net/socket";
import { outdated } from "../net/version";
import { now } from "./clock";
import { helpOpen } from "./keys";
import { Ago } from "./marks";
import { nextTheme, type Theme, theme } from "./theme";
import { tokenOpen } from "./token";

const OFFLINE_AFTER = 30_000; // ms of trying before it is called offline

// 16 × 16, currentColor
const ICONS: Record<Theme | "key", string> = {
  key:
    "M10.5 1.5a4 4 0 0 0-3.8 5.2L1.5 11.9v2.6h2.6v-1.6h1.6v-1.6h1.6l1.4-1.4a4 4 0 1 0 1.8-8.4Z" +
    "m1 2a1 1 0 1 1 0 2 1 1 0 0 1 0-2Z",
  dark: "M11.8 10.6A5.2 5.2 0 0 1 5.4 4.2a5.2 5.2 0 1 0 6.4 6.4Z",
  light:
    "M8 4.6a3.4 3.4 0 1 0 0 6.8 3.4 3.4 0 0 0 0-6.8ZM7.4 1h1.2v2H7.4ZM7.4 13h1.2v2H7.4ZM1 7.4h2v1.2H1Z" +
    "M13 7.4h2v1.2h-2ZM3 3.8l.8-.8 1.4 1.4-.8.8ZM10.8 11.6l.8-.8 1.4 1.4-.8.8ZM3 12.2l1.4-1.4.8.8L3.8 13Z" +
    "M10.8 4.4 12.2 3l.8.8-1.4 1.4Z",
  system: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2Zm0 1.3v9.4a4.7 4.7 0 0 1 0-9.4Z",
};

function Icon({ shape }: { shape: Theme | "key" }) {
  return (
    <svg viewBox="0 0 16 16" width="15" height="15" aria-hidden="true">
      <path d={ICONS[shape]} fill="currentColor" />
    </svg>
  );
}

export function Bar({ children, log }: { children?: ComponentChildren; log?: TraceLog }) {
  return (
    <header class="bar">
      <a class="brand" href={HOME} title="All traces (t)" aria-label="tracewatch: all traces">
        {children ? (
          <>
            <span class="onlyphone" aria-hidden="true">
              ‹
            </span>
            <span class="notphone">tracewatch</span>
          </>
        ) : (
          "tracewatch"
        )}
      </a>
      {children}
      <span class="grow" />
      {log && <Asks not={log.id} />}
      {outdated.value && (
        <button
          class="newer"
          title="The server was upgraded since this page was loaded"
          onClick={() => location.reload()}
        >
          Newer version: reload
        </button>
      )}
      <Pill log={log} />
      {token.value !== null && (
        <button
          class="quiet icon"
          title="This tab's token"
          aria-label="This tab's token"
          onClick={() => (tokenOpen.value = true)}
        >
          <Icon shape="key" />
        </button>
      )}
      <button
        class="quiet icon"
        title={`Theme: ${theme.value}`}
        aria-label={`Theme: ${theme.value}; change`}
        onClick={nextTheme}
      >
        <Icon shape={theme.value} />
      </button>
      <button class="quiet icon notphone" title="Keys (?)" aria-label="Help" onClick={() => (helpOpen.value = true)}>
        ?
      </button>
    </header>
  );
}

/** Open questions of other runs. */
function Asks({ not }: { not: string }) {
  const n = app.traces.inputs.value.filter((asked) => asked.trace_id !== not).length;
  return n ? (
    <a class="asks num" href={HOME} title="Questions in other runs">
      ? {count(n)}
    </a>
  ) : null;
}

const before = (words: string): string => (words === "now" ? words : `${words} ago`);

/** The truth about the connection, in few words. */
function Pill({ log }: { log?: TraceLog }) {
  if (app.offline)
    return (
      <span class="pill ended">
        <i aria-hidden="true" />
        saved in this file
      </span>
    );
  return <LivePill log={log} />;
}

function LivePill({ log }: { log?: TraceLog }) {
  const link = app.socket.link.value;
  let kind = "busy";
  let words = "connecting";
  let more: ComponentChildren = null;
  if (link.kind === "refused") [kind, words] = ["off", `refused: ${link.why}`];
  else if (link.kind === "waiting") {
    const left = link.retryAt - now.value;
    kind = "off";
    if (!navigator.onLine || now.value - link.since > OFFLINE_AFTER)
      words = `offline since ${timeOfDay(new Date(link.since).toISOString()).slice(0, -3)}`;
    else if (link.why) words = link.why;
    else words = left > 500 ? `reconnecting in ${Math.ceil(left / 1000)} s` : "reconnecting";
  } else if (link.kind === "silent") words = `no word for ${Math.round((now.value - link.since) / 1000)} s, asking`;
  else if (link.kind === "open") {
    if (!log) [kind, words] = ["live", "live"];
    else {
      const phase = log.phase.value;
      const status = log.state?.head.status;
      log.version.value;
      if (phase.kind === "loading") words = "opening";
      else if (phase.kind === "gone") [kind, words] = ["off", phase.code === "trace_deleted" ? "deleted" : "not found"];
      else if (phase.kind === "catching_up")
        words = phase.left > 0 ? `catching up ${count(phase.left)}` : "catching up";
      else if (log.state?.ended) [kind, words] = ["ended", "ended"];
      else if (status === "lost") [kind, words] = ["lost", "lost"];
      else [kind, words] = ["live", "live"];
      if (kind === "live" && log.lastEventAt) more = <Ago ts={log.lastEventAt} as={before} />;
      if (log.recovered.value) more = `recovered ${counted(log.recovered.value, "event")}`;
    }
  }
  useLinkSpoken(link.kind);
  const instead = app.socket.instead.value;
  const retry = link.kind === "waiting" || link.kind === "refused";
  if (wanted.value !== null)
    return (
      <span class="pill off">
        <i aria-hidden="true" />
        no token{" "}
        <button class="link" onClick={() => (aside.value = false)}>
          give one
        </button>
      </span>
    );
  return (
    <span class={`pill ${kind}`}>
      <i aria-hidden="true" />
      {words}
      {more && <span class="dim"> · {more}</span>}
      {instead !== null && <Instead why={instead} />}
      {retry && (
        <button class="link" onClick={() => app.socket.retryNow()}>
          now
        </button>
      )}
    </span>
  );
}

/** The page goes on without a WebSocket: says so, and why. */
function Instead({ why }: { why: string }) {
  return (
    <button class="link" title={visible(why)} onClick={() => say(visible(why), true)}>
      over HTTP<span class="notphone">: no WebSocket</span>
    </button>
  );
}

/** Tell screen readers once that the connection is lost, and once that it is back. */
function useLinkSpoken(kind: LinkState["kind"]): void {
  const lost = useRef(false);
  useEffect(() => {
    if (kind === "waiting" && !lost.current) spoken.value = "Connection lost; trying again";
    if (kind === "open" && lost.current) spoken.value = "Connected again";
    if (kind !== "connecting") lost.current = kind !== "open";
  }, [kind]);
}
