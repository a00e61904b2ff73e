// A row of the waterfall: its words and numbers, and its bar.
//
// Rule: the words of a bar stand right of it, else inside it, else left of it.

import { cost, count, duration, fullTime, short, visible } from "../format";
import { errorLine } from "../log/error";
import type { Item } from "../log/rows";
import { callOf, lineOf } from "../log/words";
import type { Json } from "../net/protocol";
import { preview } from "../parts/json";
import { classes, type Mark, StateMark } from "../parts/marks";
import { memo } from "../parts/memo";
import { beat, nowOf, type Zoom } from "./axis";
import { covered, type FallRow, ownTime } from "./fall";
import { percent } from "./field";
import type { TimeLine } from "./line";

const MOST_OWN = 40; // stretches of own time that a bar draws

interface LineProps {
  row: FallRow;
  n: number;
  nth: number;
  siblings: number;
  line: TimeLine;
  zoom: Zoom;
  selected: boolean;
  focused: boolean;
  select: () => void;
  toggle: () => void;
  showSteps: () => void;
}

export const Line = memo(function Line(props: LineProps) {
  const { row, n, selected, focused } = props;
  const mark = markOf(row);
  const title = titleOf(row);
  if (row.to === null) beat.value; // it grows
  const now = row.to === null ? nowOf(row.log) : 0;
  const to = row.to ?? now;
  const took = Number.isNaN(row.from) || row.log.rows.timeless ? null : Math.max(0, to - row.from);
  const own = took === null || row.kind === "step" ? null : ownTime(row.from, to, row.below, now);
  return (
    <div
      id={`fall-${n}`}
      role="treeitem"
      aria-level={row.depth + 1}
      aria-posinset={props.nth}
      aria-setsize={props.siblings}
      aria-expanded={row.open ?? undefined}
      aria-selected={selected}
      class={classes(
        "fallrow",
        `is-${row.kind}`,
        selected && "selected",
        focused && "focused",
        row.item?.message?.left === true && "left",
      )}
      data-event={row.item?.id ?? row.step?.event_id}
      onPointerEnter={(event) => (event.currentTarget.title = wordsAbout(row, title, took, own))}
      onClick={props.select}
    >
      <div class="columns" style={{ paddingLeft: `${6 + Math.min(row.depth, 12) * 13}px` }}>
        {row.open === null ? (
          <i class="twist none" />
        ) : (
          <button
            class="twist"
            tabIndex={-1}
            aria-hidden="true"
            aria-expanded={row.open}
            onClick={(event) => {
              event.stopPropagation();
              props.toggle();
            }}
          >
            <i />
          </button>
        )}
        <StateMark state={mark} />
        <span class="words">
          {title.who && <em class="agent">{title.who}</em>}
          {title.words}
        </span>
        {row.steps > 0 && (
          <button
            class={classes("link steps", row.bad > 0 && "bad")}
            tabIndex={-1}
            aria-pressed={row.stepped}
            title={row.bad ? `${row.bad} of them failed` : undefined}
            onClick={(event) => {
              event.stopPropagation();
              props.showSteps();
            }}
          >
            {count(row.steps)} {row.steps === 1 ? "step" : "steps"}
          </button>
        )}
        <span class="num">
          {took === null || (took < 1 && row.kind === "said") ? "" : durationOf(took, row.to === null)}
        </span>
        <span class="num own">{own === null || own === took ? "" : durationOf(own, row.to === null)}</span>
        <span class="num tok">{row.tokens ? short(row.tokens) : ""}</span>
        <span class="num usd">{row.cost ? cost(row.cost) : ""}</span>
      </div>
      <div class="lane">
        <Bar {...props} mark={mark} to={to} now={now} />
      </div>
    </div>
  );
});

const durationOf = (ms: number, ticks: boolean): string =>
  ticks && ms < 60_000 ? `${Math.floor(ms / 1000)} s` : duration(ms);

function Bar({ row, line, zoom, mark, to, now }: LineProps & { mark: Mark; to: number; now: number }) {
  if (Number.isNaN(row.from)) return null;
  const x = (ms: number) => percent(line.place(ms), zoom);
  const [left, right] = [x(row.from), x(to)];
  if (right < 0 || left > 100) return <i class={right < 0 ? "away before" : "away after"} aria-hidden="true" />;
  const [from, end] = [Math.max(-1, left), Math.min(101, right)];
  const wide = end - from;
  const within = (ms: number) => (wide ? Math.max(0, Math.min(100, ((x(ms) - from) / wide) * 100)) : 0);
  const words = besideOf(row);
  const beside =
    end < 82
      ? { left: `${Math.max(0, end)}%` }
      : wide > 22
        ? { right: `${100 - Math.min(100, end)}%` }
        : from > 22
          ? { right: `${100 - from}%` }
          : null;
  return (
    <>
      <div
        class={classes("bar", `is-${mark}`, row.to === null && "on")}
        style={{
          left: `${from}%`,
          width: `${wide}%`,
          backgroundImage: wide > 0.5 ? ownStripes(row, to, now, within) : undefined,
        }}
      >
        {row.first !== null && row.first > row.from && (
          <i
            class="first"
            title={`First token after ${duration(row.first - row.from)}`}
            style={{ width: `${within(row.first)}%` }}
          />
        )}
      </div>
      {words && beside && (
        <span
          class={classes("beside num", end >= 82 && wide > 22 && "inside", row.item?.error === true && "bad")}
          style={beside}
        >
          {words}
        </span>
      )}
    </>
  );
}

/** Of a bar with time spent below it: its own time, darker. */
function ownStripes(row: FallRow, to: number, now: number, within: (ms: number) => number): string | undefined {
  if (!row.below.length) return undefined;
  const below = covered(row.from, to, row.below, now);
  if (!below.length || below.length > MOST_OWN) return undefined;
  const stops = below.flatMap(([a, b]) => [
    `var(--own) ${within(a)}%`,
    `transparent ${within(a)}%`,
    `transparent ${within(b)}%`,
    `var(--own) ${within(b)}%`,
  ]);
  return `linear-gradient(to right, var(--own) 0%, ${stops.join(", ")}, var(--own) 100%)`;
}

function markOf(row: FallRow): Mark {
  if (row.goal) return row.goal.status === "in_progress" && row.ended ? "unfinished" : row.goal.status;
  if (row.sub) return row.status!;
  if (row.step) return row.step.status === "running" && row.ended ? "unfinished" : row.step.status;
  if (row.item!.error) return "failed";
  if (row.kind === "question") return row.to === null ? "waiting" : answered(row) ? "completed" : "abandoned";
  if (row.item!.message?.status === "complete" || !row.item!.message) return "completed";
  return row.ended ? "unfinished" : "running";
}

const answered = (row: FallRow): boolean =>
  row.log.rows.outcomes.get(row.item!.event!.request_id)?.event === "input_provided";

interface Title {
  who: string;
  words: string;
}

function titleOf(row: FallRow): Title {
  if (row.goal) return { who: "", words: visible(row.goal.description) };
  if (row.sub) return { who: visible(row.sub.agent_type), words: visible(row.sub.task) };
  if (row.step) return { who: row.step.kind === "span" ? "" : visible(row.step.kind), words: visible(row.step.name) };
  const { message, event } = row.item!;
  if (!message)
    return {
      who: row.kind === "question" ? "asks" : "",
      words: visible(String(event!.question ?? errorLine(event!.error) ?? event!.event)),
    };
  if (row.kind === "tool") {
    const { name, args } = callOf(message, row.item!.error);
    return { who: visible(name), words: args === undefined ? "" : preview(args, 120) };
  }
  const who = message.model ?? message.agent ?? message.role;
  return { who: visible(String(who)), words: visible(message.description).slice(0, 200) };
}

/** What stands beside a bar: why it failed, or what was answered. */
function besideOf(row: FallRow): string {
  if (row.item?.error) return errorOf(row.item);
  const { error } = row.sub ?? row.step ?? {};
  if (error) return saidError(errorLine(error));
  const answer = row.kind === "question" && row.log.rows.outcomes.get(row.item!.event!.request_id);
  return answer && answer.event === "input_provided" ? preview(answer.value, 80) : "";
}

const saidError = (line: string): string => `✕ ${visible(line.slice(0, 160) || "failed")}`;

const errorOf = (item: Item): string => {
  const { message, event } = item;
  const content = message?.content as { error?: Json } | undefined;
  const said = errorLine(content?.error ?? (message as { error?: Json } | null)?.error ?? event?.error ?? null);
  return saidError(said);
};

function wordsAbout(row: FallRow, { who, words }: Title, took: number | null, own: number | null): string {
  const lines = [[who, words].filter(Boolean).join(" ")];
  if (took !== null) {
    lines.push(fullTime(new Date(row.from).toISOString()));
    lines.push(
      `took ${duration(took)}${row.to === null ? " so far" : ""}` +
        (own === null || own === took ? "" : `, ${duration(own)} of its own`),
    );
  }
  if (row.first !== null) lines.push(`first token after ${duration(row.first - row.from)}`);
  if (row.item?.message?.left) lines.push("left: the agent went back to what was before it");
  if (row.item) lines.push(visible(lineOf(row.item, undefined)).slice(0, 400));
  return lines.join("\n");
}
