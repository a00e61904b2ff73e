// The page of one trace: header, goal tree, messages, questions, inspector.

import { useEffect, useRef, useState } from "preact/hooks";
import { app, closeLog, copy, openLog, say, spoken } from "../app";
import { count, cost as costOf, shortId, short, visible } from "../format";
import { useKeys } from "../keys";
import { Cancel } from "../parts/cancel";
import { Bar } from "../parts/frame";
import { GoalTreePane, type Place } from "../parts/goals";
import { Inspector } from "../parts/inspector";
import { Lasting, StateMark } from "../parts/marks";
import { Messages } from "../parts/messages";
import { Question } from "../parts/question";
import { go, param, setParams, traceHref } from "../route";
import type { Item, TraceLog } from "../trace";
import type { Totals, Trace } from "../types";

export function TracePage({ traceId }: { traceId: string }) {
  const log = useLog(traceId);
  const inside = param("in") ?? traceId; // the sub-trace whose messages are shown
  const shown = useLog(inside);
  const goalId = param("goal");
  const place: Place = { traceId: inside, goalId };
  const [inspected, setInspected] = useState<Item | null>(null);
  const [drawer, setDrawer] = useState(false);
  const [cancelling, setCancelling] = useState(false);
  log.version.value;
  shown.version.value;

  useEffect(() => void shown.readHistory(), [shown]);
  useEffect(() => seen(traceId), [traceId]);
  useEffect(() => setInspected(null), [inside]);

  const choose = (to: Place) => {
    setParams({ in: to.traceId === traceId ? null : to.traceId, goal: to.goalId, event: null, message: null }, "push");
    setDrawer(false);
  };
  const inspect = (item: Item) => {
    setInspected(item === inspected ? null : item);
    setParams({ event: item === inspected ? null : String(Math.floor(item.id)), message: null });
  };
  const stepInspected = (by: 1 | -1) => {
    const at = shown.items.indexOf(inspected!);
    const next = shown.items[at + by];
    if (next) inspect(next);
  };

  useKeys("This run", [
    { keys: "Escape", does: "Close the inspector; all messages", run: () => (inspected ? inspect(inspected) : setParams({ goal: null, in: null, show: null, q: null })) },
    { keys: "h", does: "To the goals", run: () => document.querySelector<HTMLElement>(".tree")?.focus() },
    { keys: "l", does: "To the messages", run: () => document.querySelector<HTMLElement>(".said")?.focus() },
    { keys: "u", does: "To the run that called this one", run: () => { const up = log.state?.head.parent_trace_id; if (up) go(traceHref(up)); } },
    { keys: "x", does: "Cancel the run", run: () => log.state && !log.state.ended && setCancelling(true) },
    { keys: "c", does: "Copy the run's id", run: () => copy(traceId, "the id") },
  ]);

  const phase = log.phase.value;
  const trace = log.state?.trace() ?? app.traces.get(traceId);
  const inputs = [...(log.state?.pendingInputs.values() ?? [])];
  const inner = inside === traceId ? [] : [...(shown.state?.pendingInputs.values() ?? [])];
  useTitle(trace, Math.max(inputs.length, app.traces.inputs.value.length));
  useSpoken(trace, inputs.map((asked) => asked.question).join(". "));

  const bare = log.state !== null && !log.state.goals.size && !log.state.subTraces.size; // nothing to show a tree of

  if (phase.kind === "gone") {
    return <><Bar log={log} /><main class="empty"><h1>{phase.code === "trace_deleted" ? "This run was deleted" : "There is no such run"}</h1><p class="dim">{visible(phase.message)}</p><p><a href="/">All traces</a></p></main></>;
  }
  return (
    <>
      <Bar log={log}>
        <Crumbs trace={trace} traceId={traceId} />
      </Bar>
      <Facts trace={trace} log={log} cancel={() => setCancelling(true)} drawer={() => setDrawer(!drawer)} />
      {trace?.error && <div class="failure" role="alert"><StateMark state="failed" quiet /> {visible(typeof trace.error === "string" ? trace.error : JSON.stringify(trace.error))}</div>}
      <main class={`trace${inspected ? " inspecting" : ""}${drawer ? " drawer" : ""}${bare ? " bare" : ""}`}>
        {!bare && <GoalTreePane log={log} place={place} choose={choose} />}
        {drawer && <button class="shade" aria-label="Close goals" onClick={() => setDrawer(false)} />}
        <div class="talk">
          {inside !== traceId && <div class="inside"><button class="chip" onClick={() => choose({ traceId, goalId: null })}>{visible(shown.state?.head.agent_type ?? "sub-agent")}: {visible(shown.state?.head.task ?? inside)} <span aria-hidden="true">✕</span></button></div>}
          <Messages
            key={inside} log={shown} goalId={goalId} clearGoal={() => choose({ traceId: inside, goalId: null })}
            inspect={inspect} inspected={inspected?.id ?? null} limit={null}
          />
          {[...inputs.map((asked) => ({ asked, of: traceId })), ...inner.map((asked) => ({ asked, of: inside }))].map(({ asked, of }) => (
            <Question key={`${of}/${asked.request_id}`} traceId={of} asked={asked} />
          ))}
        </div>
        {inspected && <Inspector traceId={inside} item={inspected} close={() => inspect(inspected)} step={stepInspected} />}
      </main>
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

function Crumbs({ trace, traceId }: { trace: Trace | undefined; traceId: string }) {
  const parent = trace?.parent_trace_id;
  const up = parent ? app.traces.get(parent) : undefined;
  return (
    <nav class="crumbs" aria-label="Breadcrumb">
      {parent && <><span class="sep" aria-hidden="true">›</span><a class="words up" href={traceHref(parent)}>{visible(up?.task ?? shortId(parent))}</a></>}
      <span class="sep" aria-hidden="true">›</span>
      <h1 class="words" title={trace ? visible(trace.task) : undefined}>{trace ? visible(trace.task) : shortId(traceId)}</h1>
    </nav>
  );
}

function Facts({ trace, log, cancel, drawer }: { trace: Trace | undefined; log: TraceLog; cancel: () => void; drawer: () => void }) {
  if (!trace) return <div class="facts" />;
  const open = trace.status === "running" || trace.status === "waiting";
  const stopping = log.state?.cancelRequested && open;
  const subs = log.state?.subTraces.size ?? 0;
  const imported = typeof trace.metadata?.format === "string";
  return (
    <div class="facts">
      <button class="quiet onlyphone" onClick={drawer}>☰ Goals</button>
      <span class={`state is-${trace.status}`}><StateMark state={trace.status} quiet /> {trace.status}</span>
      <span class="agent">{visible(trace.agent_type)}</span>
      {(open || !imported) && <span class="num" title="duration"><Lasting from={trace.created_at} to={trace.completed_at ?? (open ? null : trace.updated_at)} exact={open} /></span>}
      <Sum own={trace} all={trace.tree_totals} subs={subs} />
      <span class="num dim events">{count(trace.last_event_id)} events</span>
      <button class="id" title={`${trace.trace_id}: copy`} onClick={() => copy(trace.trace_id, "the id")}>{shortId(trace.trace_id)}</button>
      <span class="grow" />
      {stopping ? <span class="stopping">cancel requested…</span> : open && <button onClick={cancel}>Cancel</button>}
      <a class="button quiet" href={`/api/traces/${encodeURIComponent(trace.trace_id)}/events`} download={`${trace.trace_id}.ndjson`} onClick={(event) => (event.preventDefault(), void exportLines(trace))}>Export</a>
    </div>
  );
}

function Sum({ own, all, subs }: { own: Totals; all: Totals; subs: number }) {
  const more = all.total_cost - own.total_cost;
  return (
    <>
      {all.total_tokens > 0 && <span class="num" title={`${count(own.total_tokens)} tokens; with sub-agents ${count(all.total_tokens)}`}>{short(all.total_tokens)} <small>tok</small></span>}
      {all.total_cost > 0 && (
        <span class="num" title={`$${own.total_cost}; with sub-agents $${all.total_cost}`}>
          {costOf(all.total_cost)}{more > 0 && <small class="dim"> ({costOf(more)} in sub-agents)</small>}
        </span>
      )}
      {subs > 0 && <span class="num dim">{count(subs)} {subs === 1 ? "sub-agent" : "sub-agents"}</span>}
    </>
  );
}

/** The trace as `tracewatch export` writes it: a header, then the stored events as lines. */
async function exportLines(trace: Trace): Promise<void> {
  try {
    const answer = await fetch(`/api/traces/${encodeURIComponent(trace.trace_id)}/events`, { headers: { Accept: "application/x-ndjson" } });
    if (!answer.ok) throw new Error();
    const { trace_id, task, agent_type, parent_trace_id, parent_goal_id, created_at, metadata } = trace;
    const header = JSON.stringify({ trace: { trace_id, task, agent_type, parent_trace_id, parent_goal_id, created_at, metadata } });
    const blob = new Blob([header, "\n", await answer.blob()], { type: "application/x-ndjson" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${trace.trace_id}.ndjson`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch {
    say("The export failed: the server did not give the events", true);
  }
}

/** Tell screen readers what changes in the run: its status, and that it asks something. */
function useSpoken(trace: Trace | undefined, questions: string): void {
  const before = useRef({ status: trace?.status, questions });
  useEffect(() => {
    const { status, questions: asked } = before.current;
    before.current = { status: trace?.status, questions };
    if (questions && questions !== asked) spoken.value = `Question: ${questions}`;
    else if (status && trace && status !== trace.status) spoken.value = `The run is now ${trace.status}`;
  }, [trace?.status, questions]);
}

function useTitle(trace: Trace | undefined, questions: number): void {
  const mark = { running: "◐", waiting: "?", completed: "✓", failed: "✕", stopped: "■", lost: "⚡" }[trace?.status ?? "running"];
  const title = trace ? `${questions ? `(${questions}) ` : ""}${mark} ${visible(trace.task.slice(0, 80))} · tracewatch` : "tracewatch";
  useEffect(() => {
    document.title = title;
  }, [title]);
}

/** Remember that a failed run was looked at, so that the list stops asking for attention. */
function seen(traceId: string): void {
  try {
    const ids = JSON.parse(localStorage.getItem("tracewatch.seen") ?? "[]") as string[];
    localStorage.setItem("tracewatch.seen", JSON.stringify([...ids.filter((id) => id !== traceId), traceId].slice(-500)));
  } catch {
    // then it goes on asking
  }
}
