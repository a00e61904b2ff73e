// The waterfall: the rows of the goal tree with what was done for each goal, and each at its real place in time.
//
// Rule 1: it has the tree's folds and the page's selection, and one axis with the time panel (axis.ts).
// Rule 2: only the rows on the screen are drawn. A bar that grows draws itself again; nothing else moves.
// Rule 3: it shows the run as it is now. Where the page stands in the past, the playhead says where.

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { app } from "../app";
import { count } from "../format";
import type { Item } from "../log/rows";
import type { TraceLog } from "../log/trace-log";
import { keep, kept } from "../net/places";
import type { Json } from "../net/protocol";
import { useKeys } from "../parts/keys";
import { type Place, useOpenLogs, useTree } from "../parts/tree";
import { type ListHandle, type ListPlace, VirtualList } from "../parts/virtual";
import { axisOf, eventAt, momentAt, showAll, WHOLE, zoomBy, zoom as zoomed } from "./axis";
import { Line } from "./bars";
import { type FallRow, fallRows, findRow, pathTo } from "./fall";
import { Field } from "./field";

const ROW = 24; // px
const REBUILD_MS = 250; // between two lookings at what is new, or
const SHARE = 20; // so many times the time that one takes
const [PLACE, STEPPED] = ["waterfall", "steps"] as const; // kept with the entry of the history

interface Props {
  log: TraceLog; // of the run of the page, as it is now
  inside: TraceLog; // of the sub-agent that is chosen in it, or the same
  place: Place;
  selected: number | null; // the event that is inspected, of `inside`
  at: number | null; // the event of `inside` that the page stands at; null: now
  choose: (place: Place) => void;
  inspect: (traceId: string, item: Item) => void;
  setAt: (eventId: number | null) => void;
  leave: () => void;
}

export function Waterfall({ log, inside, place, selected, at, choose, inspect, setAt, leave }: Props) {
  const [tree, setTree] = useTree();
  const [stepped, setStepped] = useState(() => new Set(kept<string[]>(STEPPED) ?? []));
  const [focus, setFocus] = useState(0);
  const list = useRef<ListHandle>(null);
  const logs = useOpenLogs(tree.opened);
  for (const one of logs.values()) one.version.value;
  const axis = axisOf(log).value;
  const zoom = zoomed.value;
  const rows = useRows(log, logs, { ...tree, stepped });
  const focused = Math.min(focus, rows.length - 1);
  useEffect(() => {
    for (const one of logs.values()) void one.reader.readHistory();
  }, [tree.opened, [...logs.values()].map((one) => one.phase.value.kind).join()]);

  const chosen = findRow(rows, inside, selected, place.goalId);
  useGoTo(log, inside, selected, place.goalId, chosen, tree, setTree, (index) => {
    setFocus(index);
    list.current?.show(index, "center");
  });

  function toggle(row: FallRow): void {
    const next = { folded: new Set(tree.folded), opened: new Set(tree.opened) };
    const [set, key] = row.sub ? [next.opened, row.sub.trace_id] : [next.folded, row.id];
    if (!set.delete(key)) set.add(key);
    setTree(next);
  }
  function stepsOf(next: Set<string>): void {
    setStepped(next);
    keep(STEPPED, [...next]);
  }
  function showSteps(row: FallRow): void {
    const next = new Set(stepped);
    if (!next.delete(row.id)) next.add(row.id);
    stepsOf(next);
  }
  function select(row: FallRow, index: number): void {
    setFocus(index);
    if (row.item) inspect(row.log.id, row.item);
    else if (row.step) inspect(row.log.id, itemOfStep(row));
    else choose(row.sub ? { traceId: row.sub.trace_id, goalId: null } : { traceId: row.log.id, goalId: row.goal!.id });
  }
  function moveTo(index: number): void {
    const to = Math.max(0, Math.min(rows.length - 1, index));
    setFocus(to);
    list.current?.show(to);
    const row = rows[to];
    if (selected !== null && row && (row.item || row.step)) select(row, to);
  }
  function key(event: KeyboardEvent): void {
    const row = rows[focused];
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    const above = () => rows.findLastIndex((other, i) => i < focused && other.depth < row.depth);
    const moves: Record<string, () => void> = {
      ArrowDown: () => moveTo(focused + 1),
      ArrowUp: () => moveTo(focused - 1),
      Home: () => moveTo(0),
      End: () => moveTo(rows.length - 1),
      PageDown: () => moveTo(focused + 15),
      PageUp: () => moveTo(focused - 15),
      ArrowRight: () => (row.open === false ? toggle(row) : row.open ? moveTo(focused + 1) : undefined),
      ArrowLeft: () => (row.open ? toggle(row) : moveTo(Math.max(0, above()))),
      Enter: () => select(row, focused),
      " ": () => select(row, focused),
      "*": () => setTree({ folded: new Set(), opened: tree.opened }),
    };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    move();
  }
  const nextError = (by: 1 | -1) => {
    const failed = (row: FallRow) => row.item?.error || row.step?.status === "failed";
    const to =
      by > 0
        ? rows.findIndex((row, i) => i > focused && failed(row))
        : rows.findLastIndex((row, i) => i < focused && failed(row));
    if (to < 0) return;
    select(rows[to]!, to);
    list.current?.show(to, "center");
  };
  useKeys("Waterfall", [
    { keys: "j", does: "Next row", run: () => moveTo(focused + 1) },
    { keys: "k", does: "Row before", run: () => moveTo(focused - 1) },
    { keys: "e", does: "Next error", run: () => nextError(1) },
    { keys: "E", does: "Error before", run: () => nextError(-1) },
    { keys: "+ =", does: "Look closer", run: () => zoomBy(0.5, (zoom.from + zoom.to) / 2) },
    { keys: "-", does: "Look from further away", run: () => zoomBy(2, (zoom.from + zoom.to) / 2) },
    { keys: "0", does: "All of the time", run: showAll },
  ]);

  const anyFolded = tree.folded.size > 0;
  const steps = log.state?.steps.size ?? 0;
  const playhead = at === null ? null : momentAt(inside, at);
  return (
    <div class="waterfall">
      <div class="panehead">
        <h2>Waterfall</h2>
        <button class="quiet" title="Messages (w)" onClick={leave}>
          Messages
        </button>
        <span class="grow" />
        {rows.some((row) => row.item?.error) && (
          <button class="quiet bad" title="Next error (e)" onClick={() => nextError(1)}>
            next error
          </button>
        )}
        {steps > 0 && (
          <button
            class="quiet num"
            aria-pressed={stepped.size > 0}
            title="Show or fold the steps of all rows"
            onClick={() =>
              stepsOf(new Set(stepped.size ? [] : ["", ...rows.filter((row) => row.steps).map((row) => row.id)]))
            }
          >
            {count(steps)} steps
          </button>
        )}
        {rows.length > 1 && (
          <button
            class="quiet"
            onClick={() =>
              setTree({
                folded: new Set(anyFolded ? [] : rows.filter((row) => row.goal && row.open).map((row) => row.id)),
                opened: tree.opened,
              })
            }
          >
            {anyFolded ? "Expand all" : "Collapse all"}
          </button>
        )}
        {zoom !== WHOLE && (
          <button class="quiet" title="All of the time (0)" onClick={showAll}>
            All of it
          </button>
        )}
      </div>
      <Field
        log={log}
        line={axis.line}
        zoom={zoom}
        playhead={playhead}
        goTo={(ms) => setAt(eventAt(inside, ms))}
        few={rows.length < 20}
      >
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
            label="Waterfall"
            class="tree falling"
            onKeyDown={key}
            onPlace={(to) => keep(PLACE, to as Json)}
            activeId={rows[focused] ? `fall-${focused}` : undefined}
            render={(row, i) => (
              <Line
                row={row}
                n={i}
                nth={row.nth}
                siblings={row.siblings}
                line={axis.line}
                zoom={zoom}
                selected={i === chosen}
                focused={i === focused}
                select={() => select(row, i)}
                toggle={() => toggle(row)}
                showSteps={() => showSteps(row)}
              />
            )}
          />
        ) : (
          <p class="nothing">{log.phase.value.kind === "loading" ? "" : "Nothing was done yet."}</p>
        )}
      </Field>
    </div>
  );
}

/** The rows, made again at once where the person folds, else now and then while the run goes on. */
function useRows(log: TraceLog, logs: Map<string, TraceLog>, folds: Parameters<typeof fallRows>[2]): FallRow[] {
  const make = () => fallRows(log, logs, folds, (id) => app.traces.byId.get(id));
  const [version, again] = useState(0);
  const cost = useRef(0); // ms
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const opened = [...logs.values()];
  const seen = `${log.version.value} ${opened.map((one) => one.version.value).join(" ")} ${app.traces.version.value}`;
  const last = useRef(seen);
  useEffect(() => {
    if (seen === last.current) return;
    timer.current ??= setTimeout(
      () => {
        timer.current = undefined;
        again((n) => n + 1);
      },
      Math.max(REBUILD_MS, cost.current * SHARE),
    );
  }, [seen]);
  useEffect(() => () => clearTimeout(timer.current), []);
  return useMemo(() => {
    const start = performance.now();
    last.current = seen;
    const rows = make();
    cost.current = performance.now() - start;
    return rows;
  }, [log, version, folds.folded, folds.opened, folds.stepped, log.state === null]);
}

/** What was chosen elsewhere, a message or a goal, is opened and gone to once. */
function useGoTo(
  log: TraceLog,
  inside: TraceLog,
  event: number | null,
  goalId: string | null,
  index: number,
  tree: ReturnType<typeof useTree>[0],
  setTree: ReturnType<typeof useTree>[1],
  go: (index: number) => void,
): void {
  const wanted = event === null && goalId === null ? null : `${inside.id} ${event} ${goalId}`;
  const gone = useRef<string | null>(null);
  useLayoutEffect(() => {
    if (wanted === null || gone.current === wanted) return;
    if (index >= 0) {
      gone.current = wanted;
      go(index);
      return;
    }
    const path = inside === log ? "" : `/${inside.id}`;
    const opened = inside === log || tree.opened.has(inside.id) ? tree.opened : new Set([...tree.opened, inside.id]);
    const item = event === null ? undefined : inside.rows.itemOfEvent(event);
    const closed = pathTo(inside, path, item ? item.goalId : goalId).filter((id) => tree.folded.has(id));
    if (closed.length || opened !== tree.opened)
      setTree({ folded: new Set([...tree.folded].filter((id) => !closed.includes(id))), opened });
  });
}

/** A row that only the waterfall has, as what the inspector shows. */
function itemOfStep({ step }: FallRow): Item {
  const at = step!.started_at;
  return {
    id: step!.event_id,
    message: null,
    event: { event: "step_added", event_id: step!.event_id, trace_id: "", ts: at, step },
    at,
    updatedAt: at,
    lastId: step!.event_id,
    goalId: step!.goal_id,
    error: step!.status === "failed",
    version: 0,
    live: 0,
    height: 0,
    size: 0,
  };
}
