// The page of one trace: header, goal tree, messages, questions, inspector.

import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { app, closeLog, copy, openLog, say, spoken } from "../app";
import {
  cost as costOf,
  count,
  counted,
  dayOf,
  fullTime,
  isolated,
  short,
  shortId,
  timeOfDay,
  visible,
} from "../format";
import { wordFor } from "../log/filter";
import { Past } from "../log/past";
import { Replay } from "../log/replay";
import type { Item } from "../log/rows";
import type { TraceLog } from "../log/trace-log";
import type { Form } from "../log/transcript";
import { markSeen } from "../log/trouble";
import type { TraceView } from "../log/view";
import { keep, kept } from "../net/places";
import { hasNoTimes, type Json, type Totals, type Trace } from "../net/protocol";
import { go, HOME, listHref, param, setParams, traceHref } from "../net/route";
import { store, stored } from "../net/storage";
import { Bar } from "../parts/bar";
import { Cancel } from "../parts/cancel";
import { today } from "../parts/clock";
import { CopyValue, copyAs, transcripts } from "../parts/copy";
import { GoalTreePane } from "../parts/goals";
import { JsonTree } from "../parts/json";
import { useKeys } from "../parts/keys";
import { Later, lazily } from "../parts/later";
import { classes, Damaged, Lasting, StateMark } from "../parts/marks";
import { Menu } from "../parts/menu";
import { Messages } from "../parts/messages";
import { focusQuestion, Questions } from "../parts/questions";
import { ErrorText } from "../parts/text";
import { type Place, TREE } from "../parts/tree";

const INSPECTED = "inspected"; // kept with the entry of the history
const TIME_KEY = "tracewatch.time"; // whether the time panel is shown

const TimePanel = lazily(new Later(() => import("../time/panel")), (module) => module.TimePanel);
const Waterfall = lazily(new Later(() => import("../time/waterfall")), (module) => module.Waterfall);
const Inspector = lazily(new Later(() => import("../parts/inspector")), (module) => module.Inspector);
const exports = new Later(() => import("../log/export"));

export function TracePage({ traceId }: { traceId: string }) {
  const log = useLog(traceId);
  const inside = param("in") ?? traceId; // the sub-trace whose messages are shown
  const shown = useLog(inside);
  const goalId = param("goal");
  const place: Place = { traceId: inside, goalId };
  const [looked, setLooked] = useState<{ inside: string; item: Item } | null>(null);
  const inspected = looked?.inside === inside ? looked.item : null;
  const setInspected = (item: Item | null) => setLooked(item && { inside, item });
  const [drawer, setDrawer] = useState(false);
  const [cancelling, setCancelling] = useState(false);
  const falling = param("view") === "waterfall";
  const asked = param("at");
  const at = asked !== null && Number(asked) > 0 ? Number(asked) : null;
  const replay = useReplay(shown, at);
  const [timeOpen, setTimeOpen] = useTimeOpen();
  const view: TraceView = replay?.state ? replay : shown; // what is shown: now, or as it was
  const past = usePast(replay); // the other traces of the page, at the same moment
  const whole = inside === traceId ? view : (past?.of(log) ?? log);
  log.version.value;
  shown.version.value;
  replay?.version.value;

  useEffect(() => void shown.reader.readHistory(), [shown]);

  const choose = (to: Place) => {
    const there = (event: number | null) =>
      setParams(
        {
          in: to.traceId === traceId ? null : to.traceId,
          goal: to.goalId,
          event: null,
          message: null,
          at: event === null ? null : String(event),
        },
        "push",
      );
    if (past && to.traceId !== inside) past.eventOf(to.traceId).then(there, (error: Error) => say(error.message, true));
    else there(at);
    setDrawer(false);
  };
  const setAt = (eventId: number | null) => setParams({ at: eventId === null ? null : String(eventId) });
  const inspect = (item: Item) => {
    setInspected(item === inspected ? null : item);
    keep(INSPECTED, item === inspected ? null : item.id);
    setParams({ event: item === inspected ? null : String(Math.floor(item.id)), message: null });
  };
  /** Select a row of the waterfall: of a sub-agent, once its messages are the page's. */
  const inspectIn = (id: string, item: Item) => {
    if (id === inside) return item.id === inspected?.id || inspect(item);
    keep(INSPECTED, item.id);
    again.current = item.id;
    setParams({
      in: id === traceId ? null : id,
      goal: null,
      message: null,
      event: String(Math.floor(item.id)),
      at: null,
    });
  };
  const showFall = (to: boolean) => {
    const before = [TREE, INSPECTED].map((name) => [name, kept<Json>(name)] as const);
    setParams({ view: to ? "waterfall" : null }, "push");
    for (const [name, value] of before) if (value !== undefined) keep(name, value);
  };
  // Reloaded, or gone back to: the event that was inspected
  const again = useRef(kept<number>(INSPECTED));
  useEffect(() => {
    const item = again.current && view.rows.itemOfEvent(again.current);
    if (!item || item.id !== again.current) return;
    again.current = undefined;
    setInspected(item);
  });
  const stepInspected = (by: 1 | -1) => {
    const i = view.rows.items.findIndex((item) => item.id === inspected!.id);
    if (i < 0) return; // a step, which is no row here
    let to = i + by;
    while (view.rows.items[to]?.hole !== undefined) to += by;
    if (view.rows.items[to]) inspect(view.rows.items[to]!);
  };

  useKeys("This run", [
    {
      keys: "Escape",
      does: "Close the inspector; all messages",
      run: () => (inspected ? inspect(inspected) : setParams({ goal: null, in: null, show: null, q: null })),
    },
    { keys: "h", does: "To the goals", run: () => document.querySelector<HTMLElement>(".tree")?.focus() },
    { keys: "l", does: "To the messages", run: () => document.querySelector<HTMLElement>(".said")?.focus() },
    {
      keys: "u",
      does: "To the run that called this one",
      run: () => {
        const up = log.state?.head.parent_trace_id;
        if (up) go(traceHref(up));
      },
    },
    { keys: "a", does: "Answer the question", run: focusQuestion },
    {
      keys: "s",
      does: "Save or copy it: export",
      run: () => {
        const menu = document.querySelector<HTMLDetailsElement>("details.export");
        if (!menu) return;
        menu.open = true;
        menu.querySelector("button")!.focus();
      },
    },
    {
      keys: "x",
      does: "Cancel the run",
      run: () => log.state && !log.state.ended && !app.offline && setCancelling(true),
    },
    { keys: "w", does: "Waterfall, or messages", run: () => showFall(!falling) },
    { keys: "W", does: "Show or hide time", run: () => setTimeOpen(!timeOpen) },
    { keys: "c", does: "Copy the run's id", run: () => copy(traceId, "the id") },
  ]);

  const phase = log.phase.value;
  const trace = whole.state?.trace() ?? app.traces.get(traceId);
  useEffect(() => {
    // The failures here and below have been looked at now
    if (trace) markSeen([trace, ...[...app.traces.byId.values()].filter((other) => other.root_trace_id === traceId)]);
  }, [traceId, trace?.status, log.state?.subTraces.size]);
  const inputs = [...(log.state?.pendingInputs.values() ?? [])];
  const inner = inside === traceId ? [] : [...(shown.state?.pendingInputs.values() ?? [])];
  useTitle(trace, Math.max(inputs.length, app.traces.inputs.value.length));
  useSpoken(trace, inputs.map((asked) => asked.question).join(". "));

  const bare = log.state !== null && !log.state.goals.size && !log.state.subTraces.size; // nothing to show a tree of

  if (phase.kind === "gone") {
    return (
      <>
        <Bar log={log} />
        <main class="empty">
          <h1>{phase.code === "trace_deleted" ? "This run was deleted" : "There is no such run"}</h1>
          <p class="dim">{visible(phase.message)}</p>
          <p>
            <a href={HOME}>All traces</a>
          </p>
        </main>
      </>
    );
  }
  return (
    <>
      <Bar log={log}>
        <Crumbs trace={trace} traceId={traceId} />
      </Bar>
      <Facts trace={trace} log={whole} cancel={() => setCancelling(true)} drawer={() => setDrawer(!drawer)} />
      {trace?.error && (
        <div class="failure" role="alert">
          <StateMark state="failed" quiet /> <ErrorText error={trace.error} />
        </div>
      )}
      {at !== null && (
        <section class="pastbar" aria-label="As it was">
          {replay?.state ? (
            <b>As it was after event {count(replay.position!)}</b>
          ) : (
            <span>Reading what was before, to show event {count(at)}</span>
          )}
          {replay?.lastEventAt && (
            <span title={fullTime(replay.state?.head.active_at ?? replay.lastEventAt)}>
              {timeOfDay(replay.state?.head.active_at ?? replay.lastEventAt)}
            </span>
          )}
          <span class="grow" />
          <button class="link" onClick={() => setParams({ at: null })}>
            Back to now
          </button>
        </section>
      )}
      <main
        class={classes("trace", inspected !== null && "inspecting", drawer && "drawer", (bare || falling) && "bare")}
      >
        {!bare && !falling && <GoalTreePane log={whole} past={past} place={place} choose={choose} />}
        {drawer && <button class="shade" aria-label="Close goals" onClick={() => setDrawer(false)} />}
        <div class="talk">
          {inside !== traceId && !falling && (
            <div class="inside">
              <button class="chip" onClick={() => choose({ traceId, goalId: null })}>
                {visible(shown.state?.head.agent_type ?? "sub-agent")}: {visible(shown.state?.head.task ?? inside)}{" "}
                <span aria-hidden="true">✕</span>
              </button>
            </div>
          )}
          {falling ? (
            <Waterfall
              log={log}
              inside={shown}
              place={place}
              selected={inspected ? Math.floor(inspected.id) : Number(param("event")) || null}
              at={at}
              choose={choose}
              inspect={inspectIn}
              setAt={setAt}
              leave={() => showFall(false)}
            />
          ) : (
            <Messages
              key={inside}
              log={view}
              goalId={goalId}
              clearGoal={() => choose({ traceId: inside, goalId: null })}
              inspect={inspect}
              inspected={inspected?.id ?? null}
              showFall={() => showFall(true)}
            />
          )}
          {!app.offline && (
            <div class="asking" hidden={at !== null}>
              <Questions
                asked={[
                  ...inputs.map((asked) => ({ asked, traceId })),
                  ...inner.map((asked) => ({ asked, traceId: inside })),
                ]}
              />
            </div>
          )}
        </div>
        {inspected && (
          <Inspector
            traceId={inside}
            log={view}
            item={inspected}
            close={() => inspect(inspected)}
            step={stepInspected}
          />
        )}
      </main>
      {timeOpen ? (
        <TimePanel
          key={inside}
          log={shown}
          axisLog={falling ? log : shown}
          replay={replay}
          at={at}
          hide={() => setTimeOpen(false)}
          setAt={setAt}
          choose={(span) =>
            setParams(
              span.id
                ? { event: String(span.id), goal: null, show: null, q: null }
                : { goal: span.goalId, event: null },
            )
          }
        />
      ) : (
        <section class="time" aria-label="Time">
          <button class="timebutton quiet" onClick={() => setTimeOpen(true)}>
            ▴ Time
          </button>
        </section>
      )}
      {cancelling && trace && <Cancel trace={trace} close={() => setCancelling(false)} />}
    </>
  );
}

function useLog(traceId: string): TraceLog {
  const [held, setHeld] = useState<{ id: string; log: TraceLog } | null>(null);
  let now = held;
  if (now?.id !== traceId) {
    now = { id: traceId, log: openLog(traceId) };
    setHeld(now);
  }
  useEffect(() => () => closeLog(traceId), [traceId]);
  return now.log;
}

/** The trace as it was after event `at`; null while it is shown as it is now. A lost connection does not end it. */
function useReplay(log: TraceLog, at: number | null): Replay | null {
  const [held, setHeld] = useState<{ log: TraceLog; epoch: string; replay: Replay } | null>(null);
  const replay = held && held.log === log && held.epoch === log.epoch ? held.replay : null;
  const live = log.phase.value.kind === "live";
  const on = at !== null && (replay !== null || live);
  useEffect(() => {
    if (!on) return;
    const made = new Replay(log);
    setHeld({ log, epoch: log.epoch, replay: made });
    return () => {
      made.close();
      setHeld(null);
    };
  }, [log, log.epoch, on]);
  const failed = useRef(false);
  const seek = () =>
    replay!.seek(at!).catch((error: Error) => {
      failed.current = true;
      say(error.message, true);
    });
  useEffect(() => {
    failed.current = false;
    if (!replay || at === null || at === replay.position) return;
    const timer = setTimeout(seek, replay.state ? 30 : 0);
    return () => clearTimeout(timer);
  }, [replay, at]);
  useEffect(() => {
    if (!live || !failed.current || !replay || at === null) return;
    failed.current = false;
    void seek(); // it could not be read while the server was away. A replay that plays is past `at` and goes on
  }, [live]);
  // Null in the same paint in which the person goes back to now: the effect that drops the replay runs later
  return on ? replay : null;
}

function usePast(replay: Replay | null): Past | null {
  const [held, setHeld] = useState<{ replay: Replay; past: Past } | null>(null);
  useEffect(() => {
    if (!replay) return;
    const past = new Past(replay, (error) => say(error.message, true));
    setHeld({ replay, past });
    return () => {
      past.close();
      setHeld(null);
    };
  }, [replay]);
  return held && held.replay === replay ? held.past : null;
}

function useTimeOpen(): [boolean, (open: boolean) => void] {
  const [open, setOpen] = useState(() => stored(TIME_KEY) !== "hidden");
  return [
    open,
    (to) => {
      setOpen(to);
      store(TIME_KEY, to ? "shown" : "hidden");
    },
  ];
}

function Crumbs({ trace, traceId }: { trace: Trace | undefined; traceId: string }) {
  const parent = trace?.parent_trace_id;
  const up = parent ? app.traces.get(parent) : undefined;
  return (
    <nav class="crumbs" aria-label="Breadcrumb">
      {parent && (
        <>
          <span class="sep" aria-hidden="true">
            ›
          </span>
          <a class="words up" href={traceHref(parent)}>
            {visible(up?.task ?? shortId(parent))}
          </a>
        </>
      )}
      <span class="sep" aria-hidden="true">
        ›
      </span>
      <h1 class="words" title={trace ? visible(trace.task) : undefined}>
        {trace ? visible(trace.task) : shortId(traceId)}
      </h1>
    </nav>
  );
}

function Facts({
  trace,
  log,
  cancel,
  drawer,
}: {
  trace: Trace | undefined;
  log: TraceView;
  cancel: () => void;
  drawer: () => void;
}) {
  if (!trace) return <section class="facts" aria-label="About this run" />;
  const open = !app.offline && !log.past && (trace.status === "running" || trace.status === "waiting");
  const stopping = log.state?.cancelRequested && open;
  const subs = log.state?.subTraces.size ?? 0;
  const { damaged } = app.traces.get(trace.trace_id) ?? trace; // a fold of events does not know it
  return (
    <section class="facts" aria-label="About this run">
      <button class="quiet onlyphone" onClick={drawer}>
        ☰ Goals
      </button>
      <span class={`state is-${trace.status}`}>
        <StateMark state={trace.status} quiet /> {trace.status}
      </span>
      <span class="agent">{visible(trace.agent_type)}</span>
      {damaged && <Damaged fields={damaged} />}
      {!hasNoTimes(trace) && (
        <span class="num dim began" title={`began ${fullTime(trace.started_at)}`}>
          <small>began </small>
          {beganOf(trace.started_at, today.value)}
        </span>
      )}
      {!hasNoTimes(trace) && (
        <span class="num" title="duration">
          <Lasting from={trace.started_at} to={trace.ended_at ?? (open ? null : trace.active_at)} exact={open} />
        </span>
      )}
      <RunTotals own={trace} all={trace.tree_totals} subs={subs} />
      <span class="num dim events">{count(trace.last_event_id)} events</span>
      {trace.links?.slice(0, 9).map((link) => (
        <a
          key={`${link.kind} ${link.trace_id} ${link.message_id}`}
          href={traceHref(link.trace_id, link.message_id ? { message: link.message_id } : {})}
          title={visible(app.traces.get(link.trace_id)?.task ?? link.trace_id)}
        >
          {link.kind === "fork_of" ? "→ fork of" : `→ ${visible(link.kind)}`}{" "}
          {link.kind === "fork_of" && shortId(visible(app.traces.get(link.trace_id)?.task ?? link.trace_id), 30)}
        </a>
      ))}
      {belongings(trace).map(([key, name]) => (
        <a key={`${key}:${name}`} class="tag" href={listHref(wordFor(key, name))} title={`Runs with this ${key}`}>
          {key === "tag" ? "#" : <small>{key} </small>}
          {visible(name)}
        </a>
      ))}
      <button class="id" title={`${trace.trace_id}: copy`} onClick={() => copy(trace.trace_id, "the id")}>
        {shortId(trace.trace_id)}
      </button>
      <About trace={trace} />
      <span class="grow" />
      {stopping ? <span class="stopping">cancel requested…</span> : open && <button onClick={cancel}>Cancel</button>}
      <Export log={log} />
    </section>
  );
}

/** What a run belongs to, by the words of the list's filter. */
const belongings = (trace: Trace): [key: string, name: string][] => [
  ...(trace.tags ?? []).map((tag): [string, string] => ["tag", tag]),
  ...(trace.session_id ? [["session", trace.session_id] as [string, string]] : []),
  ...(trace.user_id ? [["user", trace.user_id] as [string, string]] : []),
  ...(trace.models ?? []).map((model): [string, string] => ["model", model]),
];

/** When a run began: the time of day, with the day where that is not today. */
function beganOf(at: string, day: string): string {
  return new Date(at).toDateString() === day ? timeOfDay(at) : `${dayOf(at)} ${timeOfDay(at)}`;
}

const dollars = (sum: number | null) => (sum === null ? "not known" : `$${sum}`);

function RunTotals({ own, all, subs }: { own: Totals; all: Totals; subs: number }) {
  const more = (all.total_cost ?? 0) - (own.total_cost ?? 0);
  return (
    <>
      {all.total_tokens > 0 && (
        <span class="num" title={`${count(own.total_tokens)} tokens; with sub-agents ${count(all.total_tokens)}`}>
          {short(all.total_tokens)} <small>tok</small>
        </span>
      )}
      {all.total_cost !== null && (
        <span class="num" title={`${dollars(own.total_cost)}; with sub-agents ${dollars(all.total_cost)}`}>
          {costOf(all.total_cost)}
          {more > 0 && <small class="dim"> ({costOf(more)} in sub-agents)</small>}
        </span>
      )}
      {subs > 0 && <span class="num dim">{counted(subs, "sub-agent")}</span>}
    </>
  );
}

/** The whole run, to be kept or pasted elsewhere. */
function Export({ log }: { log: TraceView }) {
  const [busy, setBusy] = useState("");
  const run = (doing: string, how: () => Promise<void>) => async (event: Event) => {
    (event.currentTarget as Element).closest("details")?.removeAttribute("open");
    setBusy(doing);
    await how().catch((error: Error) => say(`The export failed: ${error.message}`, true));
    setBusy("");
  };
  const as = async (form: Form) => (await transcripts.get()).transcript(log, form, null);
  return (
    <Menu class="menu export">
      <summary class="button quiet">{busy || "Export"}</summary>
      <div>
        {!app.offline && !log.past && (
          <>
            <button onClick={run("Exporting…", async () => (await exports.get()).exportPage(log.id))}>
              <b>One HTML file</b>
              <small>opens offline, with its sub-agents</small>
            </button>
            <button onClick={run("Exporting…", async () => (await exports.get()).exportLines(log.id))}>
              <b>NDJSON</b>
              <small>for tracewatch import</small>
            </button>
          </>
        )}
        <button onClick={run("Copying…", () => copyAs(as, "text", "the run"))}>
          <b>Copy as text</b>
          <small>its messages and tool calls</small>
        </button>
        <button onClick={run("Copying…", () => copyAs(as, "markdown", "the run"))}>
          <b>Copy as Markdown</b>
          <small>with headings and blocks of code</small>
        </button>
      </div>
    </Menu>
  );
}

/** What is known of a run beside what it did: its times, what it belongs to, and what its recorder gave with it. */
function About({ trace }: { trace: Trace }) {
  const timed = !hasNoTimes(trace);
  const rows: [string, ComponentChildren][] = [
    ...(timed ? [["began", fullTime(trace.started_at)] as [string, string]] : []),
    ...(timed && trace.ended_at ? [["ended", fullTime(trace.ended_at)] as [string, string]] : []),
    ["id", visible(trace.trace_id)],
    ...belongings(trace).map(([key, name]): [string, ComponentChildren] => [
      key,
      <a href={listHref(wordFor(key, name))}>{visible(name)}</a>,
    ]),
    ...(trace.links ?? []).map((link): [string, ComponentChildren] => [
      visible(link.kind),
      <a href={traceHref(link.trace_id)}>{visible(link.trace_id)}</a>,
    ]),
  ];
  return (
    <Menu class="menu about">
      <summary class="button quiet">About</summary>
      <div tabIndex={-1}>
        <dl>
          {rows.map(([name, value], i) => (
            <>
              <dt key={`name ${i}`}>{name}</dt>
              <dd key={`value ${i}`}>{value}</dd>
            </>
          ))}
        </dl>
        {Object.keys(trace.metadata).length > 0 && (
          <div class="block">
            <h3>metadata</h3>
            <CopyValue value={trace.metadata} what="the metadata" />
            <JsonTree value={trace.metadata} />
          </div>
        )}
      </div>
    </Menu>
  );
}

/** Tell screen readers about changes of the run: its status and its questions. */
function useSpoken(trace: Trace | undefined, questions: string): void {
  const before = useRef({ status: trace?.status, questions });
  useEffect(() => {
    const { status, questions: asked } = before.current;
    before.current = { status: trace?.status, questions };
    if (questions && questions !== asked) spoken.value = visible(`Question: ${questions.slice(0, 300)}`);
    else if (status && trace && status !== trace.status) spoken.value = `The run is now ${trace.status}`;
  }, [trace?.status, questions]);
}

function useTitle(trace: Trace | undefined, questions: number): void {
  const mark = { running: "◐", waiting: "?", idle: "○", completed: "✓", failed: "✕", stopped: "■", lost: "⚡" }[
    trace?.status ?? "running"
  ];
  const title = trace
    ? `${questions ? `(${questions}) ` : ""}${mark} ${isolated(trace.task.slice(0, 80))} · tracewatch`
    : "tracewatch";
  useLayoutEffect(() => {
    document.title = title; // in a hidden tab too, where an effect would wait for a paint
  }, [title]);
}
