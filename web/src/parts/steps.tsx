// The steps of a run or of one goal, folded below the goal tree: nodes of a graph, turns, retries.

import { useState } from "preact/hooks";
import { count, counted, visible } from "../format";
import { errorLine } from "../log/error";
import type { TraceView } from "../log/view";
import type { Step } from "../net/protocol";
import { Lasting, StateMark } from "./marks";

const MOST = 500; // rows; the newest

/** Steps in the order of the tree, each with how deep it stands. */
export function stepsInOrder(steps: Iterable<Step>): [Step, number][] {
  const all = [...steps];
  const there = new Set(all.map((step) => step.id));
  const within = new Map<string | null, Step[]>();
  for (const step of all) {
    const above = step.step_id !== null && there.has(step.step_id) ? step.step_id : null;
    const siblings = within.get(above);
    if (siblings) siblings.push(step);
    else within.set(above, [step]);
  }
  const rows: [Step, number][] = [];
  const add = (above: string | null, depth: number): void => {
    for (const step of within.get(above) ?? []) {
      rows.push([step, depth]);
      add(step.id, depth + 1);
    }
  };
  add(null, 0);
  return rows;
}

export function Steps({ log, goal }: { log: TraceView; goal: string | null }) {
  const [open, setOpen] = useState(false);
  const of = [...(log.state?.steps.values() ?? [])].filter((step) => goal === null || step.goal_id === goal);
  if (!of.length) return null;
  const failed = of.filter((step) => step.status === "failed").length;
  const running = of.filter((step) => step.status === "running");
  const rows = open ? stepsInOrder(of) : [];
  return (
    <details class="details steps" open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        {counted(of.length, "step")}
        {failed > 0 && <span class="bad"> · {count(failed)} failed</span>}
        {running.length > 0 && <span class="dim"> · {visible(running.at(-1)!.name)}</span>}
      </summary>
      {rows.length > MOST && <p class="dim">{count(rows.length - MOST)} earlier ones are not shown</p>}
      {rows.slice(-MOST).map(([step, depth]) => (
        <div
          key={step.id}
          style={{ paddingLeft: `${Math.min(depth, 12) * 15}px` }}
          title={visible(errorLine(step.error) || step.output || step.input || "")}
        >
          <StateMark state={step.status} /> {visible(step.name)}{" "}
          {step.kind !== "span" && <small class="dim">{visible(step.kind)}</small>}{" "}
          <small class="num dim">
            <Lasting from={step.started_at} to={step.ended_at ?? (log.state!.ended ? step.started_at : null)} />
          </small>
        </div>
      ))}
    </details>
  );
}
