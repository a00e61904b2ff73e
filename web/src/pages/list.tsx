// The list of traces: those that need a person on top, then all of them, live.

import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { app, spoken } from "../app";
import { count, visible } from "../format";
import { errorLine } from "../log/error";
import { completions, parseFilter, testOf, toggleWord, without, withWord, wordFor } from "../log/filter";
import { type Choice, hold, type ListRow, rowsOf, SORTS, type Sort } from "../log/order";
import { isSeen, markSeen, seen, troubles } from "../log/trouble";
import { wanted } from "../net/auth";
import { keep, kept } from "../net/places";
import { hasNoTimes, type Json, type Trace, type TraceStatus } from "../net/protocol";
import { go, listHref, param, searchHref, setParams, traceHref } from "../net/route";
import { store, stored } from "../net/storage";
import { serverNow } from "../net/time";
import { Bar } from "../parts/bar";
import { Cancel } from "../parts/cancel";
import { everyFive } from "../parts/clock";
import { useInside } from "../parts/inside";
import { useKeys } from "../parts/keys";
import { Ago, Cost, classes, Damaged, Lasting, Spark, StateMark, Tokens } from "../parts/marks";
import { memo } from "../parts/memo";
import { focusQuestion, Questions } from "../parts/questions";
import { type ListHandle, type ListPlace, VirtualList } from "../parts/virtual";
import { Welcome } from "./welcome";

const ROW = 32; // px
const [OPEN, FOCUSED, PLACE] = ["open", "focused", "place"] as const; // kept with the entry of the history
const STATUSES: TraceStatus[] = ["running", "waiting", "idle", "failed", "lost", "completed", "stopped"];

export function ListPage() {
  const { traces } = app;
  const version = traces.version.value;
  traces.currentVersion.value;
  const text = param("f") ?? "";
  const sort = (param("sort") ?? "created") as Sort;
  const up = param("dir") === "up";
  const flat = param("flat") === "1";
  const [open, setOpen] = useState<ReadonlySet<string>>(() => new Set(kept<string[]>(OPEN)));
  const [focused, setFocused] = useState(() => kept<string>(FOCUSED) ?? null); // an id: new traces come in above it
  const [place, setPlace] = useState(() => kept<Json>(PLACE) as ListPlace | undefined | null);
  const [cancelling, setCancelling] = useState<Trace | null>(null);
  const input = useRef<HTMLInputElement>(null);
  const list = useRef<ListHandle>(null);

  const asked = useMemo(() => parseFilter(text), [text]);
  const found = traces.found.value;
  const timed = asked.conditions.some(({ field }) => field === "age" || field === "took") ? everyFive.value : 0;
  const test = useMemo(
    () => testOf(asked, serverNow() / 1000, found?.text === text ? found.ids : null),
    [asked, found, timed],
  );
  useEffect(() => {
    const later = setTimeout(() => void traces.find(asked, text), 300);
    return () => clearTimeout(later);
  }, [text, traces.partial.value]);
  const all = traces.all.value;
  const box = useRef<HTMLDivElement>(null);
  const inside = useInside(box, all.length > 0);
  const [anew, setAnew] = useState(0);
  const choice: Choice = {
    test,
    sort: Object.hasOwn(SORTS, sort) ? sort : "created",
    up,
    flat,
    open,
  };
  const still = traces.whole.value && (inside || Boolean(place) || focused !== null);
  const held = useMemo(() => (still ? hold(all, choice, serverNow()) : null), [still, test, sort, up, flat, anew]);
  const { rows, more } = useMemo(
    () => rowsOf(all, choice, held, serverNow()),
    [version, test, sort, up, flat, open, held],
  );
  useEffect(() => keep(OPEN, [...open]), [open]);
  useEffect(() => keep(FOCUSED, focused), [focused]);
  const focus = Math.max(0, focused === null ? 0 : rows.findIndex((row) => row.id === focused));
  const counts = useMemo(() => {
    // What the list would show of each status: what passes all other words
    const others = { ...asked, conditions: asked.conditions.filter(({ field }) => field !== "status") };
    const passes = testOf(others, serverNow() / 1000, found?.text === text ? found.ids : null);
    const counted = new Map<string, number>();
    for (const trace of all)
      if (!passes || passes(trace)) counted.set(trace.status, (counted.get(trace.status) ?? 0) + 1);
    return counted;
  }, [version, test]);
  const inputs = traces.inputs.value;
  useLayoutEffect(() => {
    document.title = `${inputs.length ? `(${inputs.length}) ` : ""}traces · tracewatch`;
  }, [inputs.length]);

  const showNew = () => {
    setAnew((n) => n + 1);
    setPlace(null);
    if (focused !== null) setFocused(null);
    list.current?.toTop();
  };
  const move = (to: number) => {
    const at = Math.max(0, Math.min(rows.length - 1, to));
    setFocused(rows[at]?.id ?? null);
    list.current?.show(at);
  };
  const toggle = useCallback((id: string) => {
    setOpen((before) => {
      const next = new Set(before);
      if (!next.delete(id)) next.add(id);
      return next;
    });
  }, []);
  const enter = () => rows[focus] && go(traceHref(rows[focus]!.trace.trace_id));
  useKeys("Traces", [
    { keys: "/", does: "Filter", run: () => input.current?.focus() },
    { keys: "j ArrowDown", does: "Next", run: () => move(focus + 1) },
    { keys: "k ArrowUp", does: "Before", run: () => move(focus - 1) },
    { keys: "Home g", does: "First, with what is new", run: showNew },
    { keys: "End G", does: "Last", run: () => move(rows.length - 1) },
    { keys: "Enter o", does: "Open", run: enter },
    {
      keys: "ArrowRight",
      does: "Show its sub-agents",
      run: () => rows[focus]?.below && !rows[focus]!.open && toggle(rows[focus]!.id),
    },
    { keys: "ArrowLeft", does: "Hide its sub-agents", run: () => rows[focus]?.open && toggle(rows[focus]!.id) },
    { keys: "a", does: "Answer the first question", run: focusQuestion },
    {
      keys: "x",
      does: "Cancel it",
      run: () => rows[focus] && isOpen(rows[focus]!.trace) && setCancelling(rows[focus]!.trace),
    },
    {
      keys: "Escape",
      does: "Clear the filter",
      run: () => {
        setParams({ f: null });
        setFocused(null);
      },
    },
  ]);

  const head = (name: Sort, words: string, title: string) => (
    <span
      role="columnheader"
      class={`th n-${name}`}
      aria-sort={sort === name ? (up ? "ascending" : "descending") : "none"}
    >
      <button
        title={title}
        onClick={() =>
          setParams(sort === name ? { dir: up ? null : "up" } : { sort: name === "created" ? null : name, dir: null })
        }
      >
        {words}
        {sort === name && <span aria-hidden="true">{up ? " ↑" : " ↓"}</span>}
      </button>
    </span>
  );

  if (!all.length) {
    return (
      <>
        <Bar />
        <main class="list">
          {traces.loaded.value && traces.refused.value === null ? <Welcome /> : <NoList why={traces.refused.value} />}
        </main>
      </>
    );
  }
  return (
    <>
      <Bar />
      <main class="list">
        <h1 class="unseen">Traces</h1>
        <Needs all={all} version={version} still={inside} />
        <div class="tools">
          <input
            ref={input}
            class="filter"
            type="search"
            placeholder="Filter: status:running tag:nightly cost>1 text"
            aria-label="Filter"
            value={text}
            list="filter-words"
            autocomplete="off"
            spellcheck={false}
            aria-invalid={asked.faults.length > 0}
            aria-describedby={asked.faults.length ? "filter-faults" : undefined}
            onInput={(event) => {
              setParams({ f: event.currentTarget.value });
              setFocused(null);
            }}
            onKeyDown={(event) => {
              if (event.key === "Escape" || event.key === "Enter" || event.key === "ArrowDown")
                event.currentTarget.blur();
            }}
          />
          <datalist id="filter-words">
            {completions(text, known(all)).map((one) => (
              <option key={one} value={one} />
            ))}
          </datalist>
          <Views text={text} />
          <div class="shows" role="group" aria-label="Status">
            {STATUSES.filter((status) => counts.get(status) || text.includes(`status:${status}`)).map((status) => (
              <button
                key={status}
                aria-pressed={text.includes(`status:${status}`)}
                onClick={() => setParams({ f: toggleWord(text, "status", status) })}
              >
                <StateMark state={status} quiet /> {status} <span class="num">{count(counts.get(status) ?? 0)}</span>
              </button>
            ))}
          </div>
          <span class="grow" />
          {!app.offline && <a href={searchHref(text)}>{text ? "Search for this" : "Search"}</a>}
          <label class="check">
            <input type="checkbox" checked={!flat} onChange={() => setParams({ flat: flat ? null : "1" })} /> group
            sub-agents
          </label>
        </div>
        {(asked.conditions.length > 0 || asked.faults.length > 0) && (
          <div class="words-asked">
            {asked.conditions.map((one) => (
              <button
                key={one.at}
                class="chip"
                title="Take this out of the filter"
                onClick={() => setParams({ f: without(text, one) })}
              >
                {visible(text.slice(one.at, one.end))} <span aria-hidden="true">×</span>
              </button>
            ))}
            {asked.faults.length > 0 && (
              <p id="filter-faults" class="faults" role="status">
                {asked.faults.map((one) => (
                  <span key={one.at}>
                    <s>{visible(text.slice(one.at, one.end))}</s> {visible(one.message)}
                  </span>
                ))}
              </p>
            )}
          </div>
        )}
        <div class="table" role="table" aria-label="Traces" aria-rowcount={rows.length}>
          <div class="tr head" role="row">
            <span role="columnheader">
              <span class="unseen">State</span>
            </span>
            <span role="columnheader">Task</span>
            <span role="columnheader" class="c-agent">
              Agent
            </span>
            <span role="columnheader" class="c-now">
              Now
            </span>
            <span class="c-spark" role="columnheader" title="Events in the last minute">
              <span class="unseen">Activity</span>
            </span>
            {head("messages", "Msgs", "Messages, sub-agents included")}
            {head("tokens", "Tokens", "Tokens, sub-agents included")}
            {head("cost", "Cost", "Cost, sub-agents included")}
            {head("duration", "Took", "Duration")}
            {head("activity", "Active", "Last activity")}
            {head("created", "Age", "Since it was started")}
          </div>
          {rows.length === 0 && (
            <p class="nothing">
              No trace passes the filter.{" "}
              <button class="link" onClick={() => setParams({ f: null })}>
                Clear it
              </button>
            </p>
          )}
          {rows.length > 0 && <Sums rows={rows} test={test} />}
          <div class="listbox" role="presentation" ref={box}>
            {more > 0 && (
              <button class="float new up" onClick={showNew}>
                ↑ {count(more)} new
              </button>
            )}
            <VirtualList
              items={rows}
              estimate={ROW}
              fixed
              anchored
              place={place}
              handle={list}
              role="rowgroup"
              rowRole="presentation"
              label="Traces"
              class="tbody"
              tabIndex={-1}
              onPlace={(to) => {
                keep(PLACE, to as Json);
                if (Boolean(to) !== Boolean(place)) setPlace(to);
              }}
              render={(row, i) => (
                <TraceLine
                  {...row}
                  n={i}
                  focused={i === focus}
                  toggle={toggle}
                  cancel={setCancelling}
                  words={row.gone ? "deleted" : doing(row.trace)}
                  tick={row.trace.is_running ? everyFive.value : 0}
                />
              )}
            />
          </div>
        </div>
      </main>
      {cancelling && <Cancel trace={cancelling} close={() => setCancelling(null)} />}
    </>
  );
}

/** What the traces that are known belong to, for completion. */
function known(all: readonly Trace[]): Record<string, Set<string>> {
  const names = { tag: new Set<string>(), session: new Set<string>(), user: new Set<string>() };
  const parts = { agent: new Set<string>(), model: new Set<string>() };
  for (const trace of all.slice(0, 5000)) {
    for (const tag of trace.tags ?? []) names.tag.add(tag);
    for (const model of trace.models ?? []) parts.model.add(model);
    if (trace.session_id) names.session.add(trace.session_id);
    if (trace.user_id) names.user.add(trace.user_id);
    parts.agent.add(trace.agent_type);
  }
  return { ...names, ...parts };
}

const VIEWS = "tracewatch-views";

/** The filters that the browser keeps: each a word to click, and one button to keep or forget the one that is shown. */
function Views({ text }: { text: string }) {
  const [views, setViews] = useState<string[]>(() => {
    try {
      const kept: unknown = JSON.parse(stored(VIEWS) ?? "[]");
      return Array.isArray(kept) ? kept.filter((one) => typeof one === "string") : [];
    } catch {
      return [];
    }
  });
  const here = text.trim();
  const isKept = views.includes(here);
  const change = (next: string[]) => {
    setViews(next);
    store(VIEWS, next.length ? JSON.stringify(next) : null);
  };
  if (!here && !views.length) return null;
  return (
    <div class="views" role="group" aria-label="Saved views">
      {here && (
        <button
          aria-pressed={isKept}
          title={isKept ? "Forget this view" : "Keep this filter as a view"}
          onClick={() => change(isKept ? views.filter((one) => one !== here) : [...views, here].slice(-20))}
        >
          {isKept ? "★ Saved" : "☆ Save view"}
        </button>
      )}
      {views
        .filter((one) => one !== here)
        .map((one) => (
          <a key={one} class="tag" href={listHref(one)} title="A saved view">
            {visible(one)}
          </a>
        ))}
    </div>
  );
}

/** What is shown, added up: each run once, with what is below it. */
function Sums({ rows, test }: { rows: readonly ListRow[]; test: ((trace: Trace) => boolean) | null }) {
  const shown = rows.filter((row) => !row.gone && (row.depth === 0 || test));
  let [tokens, dollars, priced] = [0, 0, 0];
  for (const { trace } of rows.filter((row) => row.depth === 0)) {
    tokens += trace.tree_totals.total_tokens;
    dollars += trace.tree_totals.total_cost ?? 0;
    priced += trace.tree_totals.total_cost === null ? 0 : 1;
  }
  const failed = shown.filter(({ trace }) => trace.status === "failed" || trace.status === "lost").length;
  return (
    <p class="sums dim num">
      {count(shown.length)} {shown.length === 1 ? "run" : "runs"}
      {tokens > 0 && (
        <>
          {" · "}
          <Tokens n={tokens} /> tokens
        </>
      )}
      {priced > 0 && (
        <>
          {" · "}
          <Cost dollars={dollars} />
        </>
      )}
      {failed > 0 && ` · ${count(failed)} failed`}
    </p>
  );
}

/** There is no list yet: says why. */
function NoList({ why }: { why: string | null }) {
  const link = app.socket.link.value.kind;
  const words =
    why !== null
      ? `The server does not show its list of traces: ${visible(why)}. A run's own page may still open.`
      : wanted.value !== null
        ? "This server wants a token."
        : link === "waiting"
          ? "The server can't be reached. This page goes on trying."
          : "";
  return (
    <p class="nothing" role="status">
      {words}
    </p>
  );
}

const isOpen = (trace: Trace): boolean => !app.offline && (trace.status === "running" || trace.status === "waiting");

/** The current work of a trace, or its result. */
function doing(trace: Trace): string {
  if (trace.status === "waiting") {
    const asked = app.traces.inputs.value.find((one) => one.trace_id === trace.trace_id);
    if (asked) return asked.question;
  }
  if (trace.is_running || trace.status === "lost" || trace.status === "waiting")
    return app.traces.currentGoal(trace) ?? "";
  if (trace.error) return errorLine(trace.error);
  return trace.summary ?? "";
}

interface TraceLineProps extends ListRow {
  n: number;
  focused: boolean;
  words: string;
  tick: number;
  toggle: (id: string) => void;
  cancel: (trace: Trace) => void;
}

const TraceLine = memo(function TraceLine({
  trace,
  depth,
  below,
  open,
  troubles,
  asking,
  gone,
  n,
  focused,
  words,
  toggle,
  cancel,
}: TraceLineProps) {
  const bars = app.traces.bars(trace.trace_id, serverNow());
  const { tree_totals: sums } = trace;
  const running = !gone && isOpen(trace);
  return (
    <div
      class={classes("tr", `is-${trace.status}`, focused && "focused", gone && "gone")}
      role="row"
      aria-rowindex={n + 1}
      onClick={(event) =>
        event.defaultPrevented ||
        event.metaKey ||
        event.ctrlKey ||
        (event.target as Element).closest("a") ||
        go(traceHref(trace.trace_id))
      }
    >
      <span role="cell">
        <StateMark state={trace.status} />
      </span>
      <span
        role="cell"
        class="words task"
        style={depth ? { paddingLeft: `${depth * 16}px` } : undefined}
        title={visible(trace.task)}
      >
        {below > 0 && (
          <button
            class="twist"
            tabIndex={-1}
            aria-expanded={open}
            aria-label={`${below} sub-agents`}
            onClick={(event) => {
              event.preventDefault();
              event.stopPropagation();
              toggle(trace.trace_id);
            }}
          >
            <i />
          </button>
        )}
        <a href={traceHref(trace.trace_id)} tabIndex={focused ? 0 : -1}>
          {visible(trace.task)}
        </a>
        {below > 0 && <small class="dim num"> {count(below)}</small>}
        {trace.tags?.map((tag) => (
          <button
            key={tag}
            class="tag"
            tabIndex={-1}
            title={`Only runs with the tag ${visible(tag)}`}
            onClick={(event) => {
              event.preventDefault();
              event.stopPropagation();
              setParams({ f: withWord(param("f") ?? "", wordFor("tag", tag)) });
            }}
          >
            #{visible(tag)}
          </button>
        ))}
        {trace.damaged && <Damaged fields={trace.damaged} />}
        {asking > 0 && <small class="badge waiting">? {count(asking)}</small>}
        {troubles > 0 && <small class="badge failed">✕ {count(troubles)}</small>}
      </span>
      <span role="cell" class="c-agent words dim">
        {visible(trace.agent_type)}
      </span>
      <span
        role="cell"
        class={`c-now words ${trace.status === "failed" ? "bad" : running ? "" : "dim"}`}
        title={visible(words)}
      >
        {visible(words)}
        {running && (
          <button
            class="stop"
            tabIndex={-1}
            title="Cancel this run (x)"
            onClick={(event) => {
              event.preventDefault();
              event.stopPropagation();
              cancel(trace);
            }}
          >
            Cancel
          </button>
        )}
      </span>
      <span role="cell" class="c-spark">
        {bars && <Spark bars={bars} known={app.traces.known} />}
      </span>
      <span role="cell" class="num n-messages">
        {count(sums.total_messages)}
      </span>
      <span role="cell" class="num n-tokens">
        <Tokens n={sums.total_tokens} />
      </span>
      <span role="cell" class="num n-cost">
        <Cost dollars={sums.total_cost} />
      </span>
      <span role="cell" class="num n-duration">
        {hasNoTimes(trace) ? (
          "–"
        ) : (
          <Lasting from={trace.started_at} to={trace.ended_at ?? (running ? null : trace.active_at)} />
        )}
      </span>
      <span role="cell" class="num n-activity">
        <Ago ts={trace.active_at} />
      </span>
      <span role="cell" class="num n-created dim">
        <Ago ts={trace.started_at} />
      </span>
    </div>
  );
});

/** Tell screen readers what has come up since the page was opened: questions first, then failures. */
function useNewSpoken(...kinds: [id: string, words: string][][]): void {
  const known = useRef<Set<string> | null>(null);
  const now = kinds.flat();
  useEffect(() => {
    const fresh = known.current ? now.filter(([id]) => !known.current!.has(id)) : [];
    known.current = new Set([...(known.current ?? []), ...now.map(([id]) => id)]);
    if (fresh.length)
      spoken.value = visible(fresh[0]![1]) + (fresh.length > 1 ? `, and ${count(fresh.length - 1)} more` : "");
  }, [now.map(([id]) => id).join()]);
}

/** What needs a person: open questions, and the failed and lost runs of the last day that were not looked at. */
function Needs({ all, version, still }: { all: Trace[]; version: number; still: boolean }) {
  const inputs = app.traces.inputs.value;
  const box = useRef<HTMLElement>(null);
  const inside = useInside(box, true);
  const found = useMemo(() => troubles(all, seen.value, serverNow()), [version, seen.value]);
  const held = useRef(found);
  // While somebody points at them they stay: what was put away here goes, and what is new comes below
  if (!inside) held.current = found;
  else {
    const now = new Map(found.map((one) => [one.root.trace_id, one]));
    const kept = held.current.filter(({ failed }) => failed.some((trace) => !isSeen(trace)));
    const ids = new Set(kept.map(({ root }) => root.trace_id));
    held.current = [
      ...kept.map((one) => now.get(one.root.trace_id) ?? one),
      ...found.filter(({ root }) => !ids.has(root.trace_id)),
    ];
  }
  const troubled = held.current;
  const height = useRef(0); // px; while the list below is pointed at, it is not pulled up
  useLayoutEffect(() => {
    if (!still) height.current = box.current!.offsetHeight;
    else height.current = Math.max(height.current, box.current!.offsetHeight);
  });
  const [more, setMore] = useState(false);
  useNewSpoken(
    inputs.map((asked) => [`${asked.trace_id}/${asked.request_id}`, `Question: ${asked.question}`]),
    troubled.map(({ failed: [t] }) => [t!.trace_id, `${t!.status === "lost" ? "Lost" : "Failed"}: ${t!.task}`]),
  );
  const shown = more ? troubled.slice(0, 50) : troubled.slice(0, 3);
  return (
    <section
      ref={box}
      class="needs"
      aria-label="Needs you"
      style={still && height.current ? { minHeight: `${height.current}px` } : undefined}
    >
      <h2>Needs you</h2>
      <Questions
        asked={inputs.slice(0, 10).map((asked) => ({
          traceId: asked.trace_id,
          asked,
          brief: true,
          of: (
            <a class="words of" href={traceHref(asked.trace_id)}>
              {visible(app.traces.byId.get(asked.trace_id)?.task ?? asked.trace_id)}
            </a>
          ),
        }))}
      />
      {inputs.length > 10 && <p class="dim">and {inputs.length - 10} more questions</p>}
      {shown.map(({ root, failed }) => {
        const [first, ...others] = failed as [Trace, ...Trace[]];
        const more = others.length ? ` and ${count(others.length)} more` : "";
        return (
          <div key={root.trace_id} class="trouble">
            <StateMark state={first.status} />
            <a class="words" href={traceHref(root.trace_id)}>
              {visible(root.task)}
            </a>
            <span class="words bad mono">
              {first !== root && `sub-agent ${visible(first.agent_type)}: `}
              {first.status === "lost"
                ? "lost: its recorder vanished"
                : visible(errorLine(first.error) || (first.summary ?? "failed"))}
              {more}
            </span>
            <span class="num dim">
              <Ago ts={first.updated_at} />
            </span>
            <button
              class="quiet icon"
              title="Put away; it comes back if it fails again"
              aria-label={`Put away: ${visible(root.task)}`}
              onClick={() => markSeen(failed)}
            >
              ✕
            </button>
          </div>
        );
      })}
      {troubled.length > 3 && (
        <p class="all">
          <button class="link" onClick={() => setMore(!more)}>
            {more ? "Show fewer" : `${count(troubled.length - 3)} more that failed or got lost today`}
          </button>
          <button class="link" onClick={() => markSeen(troubled.flatMap(({ failed }) => failed))}>
            Put all away
          </button>
        </p>
      )}
    </section>
  );
}
