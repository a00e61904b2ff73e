// The goal tree: goals and the sub-agents they called, opening in place to any depth.
//
// Rule 1: rows are one flat list in display order, so that the keyboard, the drawing and the ARIA levels agree.
// Rule 2: a sub-agent's own tree is watched only while it is open.

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { app, copy } from "../app";
import { cost, count, counted, short, visible } from "../format";
import type { Past } from "../log/past";
import { type TraceView, withBelow } from "../log/view";
import { keep, kept } from "../net/places";
import type { Goal, Json, Stats, SubTrace, TraceStatus } from "../net/protocol";
import { traceHref, wholeLink } from "../net/route";
import { CopyAs, transcripts } from "./copy";
import { Later, lazily } from "./later";
import { classes, StateMark } from "./marks";
import { memo } from "./memo";
import { ErrorText } from "./text";
import { buildRows, foldAll, type Place, samePlace, type TreeRow, useOpenLogs, useTree } from "./tree";
import { type ListHandle, type ListPlace, VirtualList } from "./virtual";

const ROW = 27; // px
const Steps = lazily(
  new Later(() => import("./steps")),
  (module) => module.Steps,
  ({ log }) => !!log.state?.steps.size,
);
const PLACE = "goals"; // kept with the entry of the history

interface TreeProps {
  log: TraceView;
  past: Past | null; // the sub-agents as they were, where the past is shown
  place: Place;
  choose: (place: Place) => void;
}

export function GoalTreePane({ log, past, place, choose }: TreeProps) {
  const [tree, setTree] = useTree();
  const [focus, setFocus] = useState(0);
  const list = useRef<ListHandle>(null);
  const opened = useOpenLogs(tree.opened);
  log.version.value;
  for (const one of opened.values()) one.version.value;
  const logs: Map<string, TraceView> = past ? new Map([...opened].map(([id, one]) => [id, past.of(one)])) : opened;
  app.traces.version.value;

  const rows = buildRows(log, logs, tree);
  const at = Math.min(focus, rows.length - 1);

  // The selected place is the focused row when it was chosen elsewhere (a link, going back)
  const chosen = rows.findIndex((row) => samePlace(row.place, place));
  useLayoutEffect(() => {
    if (chosen >= 0) setFocus(chosen);
  }, [place.traceId, place.goalId]);

  function toggle(row: TreeRow, open?: boolean): void {
    if (row.open === null || row.open === open) return;
    const next = { folded: new Set(tree.folded), opened: new Set(tree.opened) };
    if (row.sub) {
      if (row.open) next.opened.delete(row.sub.trace_id);
      else next.opened.add(row.sub.trace_id);
    } else if (row.open) next.folded.add(row.id);
    else next.folded.delete(row.id);
    setTree(next);
  }

  function moveTo(index: number): void {
    const to = Math.max(0, Math.min(rows.length - 1, index));
    setFocus(to);
    list.current?.show(to);
  }

  /** Choose a row, or, where it is chosen, the whole trace. */
  const toggleChosen = (row: TreeRow): void =>
    choose(samePlace(row.place, place) ? { traceId: log.id, goalId: null } : row.place);

  function key(event: KeyboardEvent): void {
    const row = rows[at];
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    const parent = () => {
      for (let i = at - 1; i >= 0; i--) if (rows[i]!.depth < row.depth) return i;
      return at;
    };
    const moves: Record<string, () => void> = {
      ArrowDown: () => moveTo(at + 1),
      ArrowUp: () => moveTo(at - 1),
      Home: () => moveTo(0),
      End: () => moveTo(rows.length - 1),
      PageDown: () => moveTo(at + 15),
      PageUp: () => moveTo(at - 15),
      ArrowRight: () => (row.open === false ? toggle(row) : row.open ? moveTo(at + 1) : undefined),
      ArrowLeft: () => (row.open ? toggle(row) : moveTo(parent())),
      Enter: () => toggleChosen(row),
      " ": () => choose(row.place),
      "*": () => setTree({ folded: new Set(), opened: tree.opened }),
    };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    move();
  }

  const anyFolded = tree.folded.size > 0;
  const goals = log.state?.goals.size ?? 0;
  return (
    <div class="goals">
      <div class="panehead">
        <h2>Goals</h2>
        <span class="dim num">{goals ? count(goals) : ""}</span>
        <span class="grow" />
        {goals > 1 && (
          <button
            class="quiet"
            onClick={() => setTree({ folded: anyFolded ? new Set() : foldAll(rows), opened: tree.opened })}
          >
            {anyFolded ? "Expand all" : "Collapse all"}
          </button>
        )}
      </div>
      {rows.length ? (
        <VirtualList
          items={rows}
          estimate={ROW}
          fixed
          anchored
          place={kept<Json>(PLACE) as ListPlace | undefined}
          handle={list}
          role="tree"
          rowRole="presentation"
          label="Goals"
          class="tree"
          onKeyDown={key}
          onPlace={(place) => keep(PLACE, place as Json)}
          activeId={rows[at] ? `goal-${at}` : undefined}
          render={(row, i) => (
            <TreeLine
              {...lineOf(row)}
              n={i}
              selected={samePlace(row.place, place)}
              focused={i === at}
              toggle={() => toggle(row)}
              choose={() => {
                setFocus(i);
                toggleChosen(row);
              }}
            />
          )}
        />
      ) : (
        <p class="nothing">
          {log.phase.value.kind === "loading" ? "" : "This run has no goals; all its messages are on the right."}
        </p>
      )}
      <Steps log={log} goal={place.traceId === log.id ? place.goalId : null} />
      <PlaceDetails root={log} logs={logs} row={rows.find((row) => samePlace(row.place, place))} />
    </div>
  );
}

interface TreeLineProps {
  goal: Goal | null;
  sub: SubTrace | null;
  depth: number;
  status: TraceStatus | null;
  messages: number;
  tokens: number;
  cost: number;
  current: boolean;
  ended: boolean;
  open: boolean | null;
  errors: number;
  nth: number;
  of: number;
  n: number;
  selected: boolean;
  focused: boolean;
  toggle: () => void;
  choose: () => void;
}

function lineOf(row: TreeRow) {
  const { goal, sub, depth, status, current, ended, open, errors, nth } = row;
  const stats = goal?.cumulative_stats;
  return {
    goal,
    sub,
    depth,
    status,
    current,
    ended,
    open,
    errors,
    nth,
    of: row.siblings.length,
    messages: stats?.message_count ?? row.totals?.total_messages ?? 0,
    tokens: stats?.total_tokens ?? row.totals?.total_tokens ?? 0,
    cost: stats?.total_cost ?? row.totals?.total_cost ?? 0,
  };
}

const TreeLine = memo(function TreeLine(line: TreeLineProps) {
  const { goal, sub } = line;
  const state = goal ? (goal.status === "in_progress" && line.ended ? "unfinished" : goal.status) : line.status!;
  const title = goal ? goal.description : sub!.task;
  return (
    <div
      id={`goal-${line.n}`}
      role="treeitem"
      aria-level={line.depth + 1}
      aria-posinset={line.nth}
      aria-setsize={line.of}
      aria-expanded={line.open ?? undefined}
      aria-selected={line.selected}
      aria-current={line.current ? "step" : undefined}
      class={classes(
        "goal",
        `is-${state}`,
        line.selected && "selected",
        line.focused && "focused",
        line.current && "current",
      )}
      style={{ paddingLeft: `${6 + Math.min(line.depth, 12) * 15}px` }}
      title={visible(title)}
      onClick={line.choose}
    >
      {line.open === null ? (
        <i class="twist none" />
      ) : (
        <button
          class="twist"
          tabIndex={-1}
          aria-hidden="true"
          aria-expanded={line.open}
          onClick={(event) => {
            event.stopPropagation();
            line.toggle();
          }}
        >
          <i />
        </button>
      )}
      <StateMark state={state} />
      <span class="words">
        {sub && <em class="agent">{visible(sub.agent_type)}</em>}
        {visible(title)}
      </span>
      {line.errors > 0 && (
        <span class="num trouble" title={`${line.errors} failed here or below`}>
          ✕ {line.errors}
        </span>
      )}
      <span class="num n">{line.messages || ""}</span>
      <span class="num c">{line.cost ? cost(line.cost) : line.tokens ? short(line.tokens) : ""}</span>
    </div>
  );
});

interface DetailsProps {
  row: TreeRow | undefined;
  root: TraceView;
  logs: Map<string, TraceView>; // of the sub-agents that are open
}

function PlaceDetails({ row, root, logs }: DetailsProps) {
  if (!row) return null;
  const { goal, sub, place } = row;
  const of = place.traceId === root.id ? root : logs.get(place.traceId);
  return (
    <div class="details">
      <p class="what">{visible(goal?.description ?? sub!.task)}</p>
      {goal?.status === "in_progress" && row.ended && (
        <p class="dim">Not finished: the run ended while this was in progress.</p>
      )}
      {goal?.reason && (
        <p>
          <span class="dim">why</span> {visible(goal.reason)}
        </p>
      )}
      {sub?.error && <ErrorText error={sub.error} />}
      {(goal?.summary ?? sub?.summary) && (
        <p>
          <span class="dim">result</span> {visible((goal?.summary ?? sub?.summary)!)}
        </p>
      )}
      {goal?.cumulative_stats.preview && <p class="mono dim">{visible(goal.cumulative_stats.preview)}</p>}
      {goal && <GoalStats own={goal.self_stats} all={goal.cumulative_stats} />}
      {goal && (
        <p class="copies">
          Copy{" "}
          <button
            class="link"
            onClick={() =>
              copy(
                wholeLink(traceHref(root.id, { ...(of === root ? {} : { in: place.traceId }), goal: goal.id })),
                "a link to this goal",
              )
            }
          >
            link
          </button>
          {of && (
            <CopyAs
              of={async (form) => (await transcripts.get()).transcript(of, form, withBelow(of, goal.id))}
              what="the goal"
            />
          )}
        </p>
      )}
      {sub && (
        <p>
          <a href={traceHref(sub.trace_id)}>Open this run on a page of its own</a>
        </p>
      )}
    </div>
  );
}

function GoalStats({ own, all }: { own: Stats; all: Stats }) {
  const line = (s: Stats) =>
    [counted(s.message_count, "message"), `${count(s.total_tokens)} tokens`, cost(s.total_cost)].join(" · ");
  const same = own.message_count === all.message_count;
  return (
    <p class="num small">
      <span class="dim">own</span> {line(own)}
      {!same && (
        <>
          <br />
          <span class="dim">all</span> {line(all)}
        </>
      )}
    </p>
  );
}
