// Search in everything that was recorded: hits grouped by run, the newest first, each opening at its event.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { count, counted, visible } from "../format";
import { parseFilter } from "../log/filter";
import { type Found, fetchHits, type Hit } from "../net/api";
import type { Trace } from "../net/protocol";
import { listHref, param, searchHref, setParams, traceHref } from "../net/route";
import { Bar } from "../parts/bar";
import { useKeys } from "../parts/keys";
import { Ago, StateMark } from "../parts/marks";
import "../style/search.css";

const WAIT_MS = 250;

export function SearchPage() {
  const q = param("q") ?? "";
  const within = param("in");
  const [found, setFound] = useState<Found | null>(null);
  const [refused, setRefused] = useState("");
  const [reading, setReading] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const asked = useRef(0);

  const read = async (token?: string) => {
    asked.current += 1;
    const turn = asked.current;
    setReading(true);
    try {
      const page = await fetchHits(q, within, token);
      if (turn !== asked.current) return;
      setFound((before) =>
        token && before
          ? { ...page, hits: [...before.hits, ...page.hits], traces: [...before.traces, ...page.traces] }
          : page,
      );
      setRefused("");
    } catch (error) {
      if (turn !== asked.current) return;
      setRefused((error as Error).message);
      if (!token) setFound(null);
    }
    setReading(false);
  };
  useEffect(() => {
    asked.current += 1;
    const { sought, faults } = parseFilter(q);
    const [fault] = faults;
    if (fault || sought.every(({ negative }) => negative)) {
      setFound(null);
      setRefused(
        fault ? `${q.slice(fault.at, fault.end)}: ${fault.message}` : q.trim() ? "a word to look for is needed" : "",
      );
      return;
    }
    const later = setTimeout(() => void read(), WAIT_MS);
    return () => clearTimeout(later);
  }, [q, within]);
  useLayoutEffect(() => {
    document.title = `${q ? `${q} · ` : ""}search · tracewatch`;
    if (!q) input.current?.focus();
  }, [q]);
  useKeys("Search", [
    { keys: "/", does: "Search", run: () => input.current?.focus() },
    { keys: "Escape", does: "Clear the search", run: () => setParams({ q: null }) },
  ]);

  const runs = new Map<string, Hit[]>();
  for (const hit of found?.hits ?? []) runs.set(hit.trace_id, [...(runs.get(hit.trace_id) ?? []), hit]);
  const traces = new Map((found?.traces ?? []).map((trace) => [trace.trace_id, trace]));
  return (
    <>
      <Bar />
      <main class="finding">
        <h1 class="unseen">Search</h1>
        <div class="tools">
          <input
            ref={input}
            class="filter"
            type="search"
            placeholder='Search: words "a phrase" begin* -not status:failed'
            aria-label="Search"
            spellcheck={false}
            value={q}
            onInput={(event) => setParams({ q: event.currentTarget.value })}
            onKeyDown={(event) => event.key === "Escape" && event.currentTarget.blur()}
          />
          {within && (
            <button class="chip" title="Search in all runs" onClick={() => setParams({ in: null })}>
              in {visible(within)} <span aria-hidden="true">×</span>
            </button>
          )}
          {q && <a href={listHref(q)}>Runs that have this</a>}
          <span class="grow" />
          <span class="dim num" role="status">
            {refused ? "" : found ? said(found, runs.size) : reading ? "Searching…" : ""}
          </span>
        </div>
        {refused && (
          <p class="nothing" role="alert">
            {visible(refused)}
          </p>
        )}
        {found && !found.hits.length && !refused && <p class="nothing">Nothing is found.</p>}
        <div class="hits">
          {[...runs].map(([id, hits]) => (
            <RunHits key={id} trace={traces.get(id)!} hits={hits} q={q} />
          ))}
          {found?.next_page_token && (
            <button class="more" disabled={reading} onClick={() => void read(found.next_page_token!)}>
              Show older
            </button>
          )}
        </div>
      </main>
    </>
  );
}

function said({ hits, next_page_token: more, index }: Found, runs: number): string {
  const what = `${count(hits.length)}${more ? "+" : ""} in ${counted(runs, "run")}`;
  if (index.state === "current") return what;
  const state = index.state === "building" ? "is still being made" : "is behind";
  return `${what} · the index ${state}: ${counted(index.behind, "run")} to read`;
}

function RunHits({ trace, hits, q }: { trace: Trace; hits: Hit[]; q: string }) {
  return (
    <section>
      <h2>
        <StateMark state={trace.status} />
        <a href={traceHref(trace.trace_id)}>{visible(trace.task)}</a>
        <small class="dim">{visible(trace.agent_type)}</small>
        <small class="dim num">
          <Ago ts={trace.started_at} />
        </small>
        {hits.length >= 5 && <a href={searchHref(q, trace.trace_id)}>more in this run</a>}
      </h2>
      <ul>
        {hits.map((hit) => (
          <li key={hit.event_id}>
            <a href={traceHref(hit.trace_id, hit.event_id ? { event: String(hit.event_id) } : {})}>
              <small class="dim">{visible(hit.label ?? hit.kind)}</small>
              <span>
                {hit.snippet.map((part, i) => (i % 2 ? <mark key={i}>{visible(part)}</mark> : visible(part)))}
              </span>
            </a>
          </li>
        ))}
      </ul>
    </section>
  );
}
