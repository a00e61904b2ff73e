// A run, a goal or a message as text or as markdown, to be pasted elsewhere.
//
// Rule: what is copied is complete. Rows that were not read, or of which only the beginning is kept, are read for it.

import { cost, count, dayOf, timeOfDay, visible } from "../format";
import { fetchEvents, fetchMessage } from "../net/api";
import type { Json, StoredEvent } from "../net/protocol";
import { State } from "./fold";
import { type Item, Rows } from "./rows";
import type { TraceView } from "./view";
import { asJson, belongs, callOf, partsOf, payloadOf, treeText, wordsOf } from "./words";

export type Form = "text" | "markdown";

const PAGE = 1000;
const MOST_CHARACTERS = 20_000_000; // that a clipboard is given

/** All rows of a trace up to where it is shown, whole. */
async function wholeRows(log: TraceView): Promise<Rows> {
  if (!log.rows.unread && !log.rows.items.some((item) => item.cut || item.light)) return log.rows;
  const rows = new Rows();
  rows.mostBytes = Infinity;
  rows.timeless = log.rows.timeless;
  const state = new State({ trace_id: log.id });
  state.messages = rows.messages;
  const last = log.position ?? 0;
  for (let since = log.first - 1; since < last; ) {
    const { events } = await fetchEvents(log.id, since, Math.min(PAGE, last - since));
    if (!events.length) break;
    for (const event of events) rows.take(event, state, 0);
    since = events.at(-1)!.event_id;
    if (rows.bytes > MOST_CHARACTERS) throw new Error("the run is too long for the clipboard; export it instead");
  }
  return rows;
}

/** A run, or the goals of it that are named, as one text. Raises an error where it can't be read or is too long. */
export async function transcript(log: TraceView, form: Form, goals: ReadonlySet<string> | null): Promise<string> {
  const rows = await wholeRows(log);
  const items = rows.items.filter((item) => !goals || (item.goalId !== null && goals.has(item.goalId)));
  const parts = goals ? [] : [headOf(log, form)];
  let goal: string | null = null;
  let day = "";
  for (const item of items) {
    const date = item.at && dayOf(item.at);
    if (date && date !== day) parts.push(date);
    day = date || day;
    if (belongs(item) && item.goalId !== null && item.goalId !== goal) {
      goal = item.goalId;
      parts.push(heading(log.state?.goals.get(goal)?.description ?? goal, form, 2));
    }
    parts.push(itemAs(item, form, rows.outcomeOf(item)));
  }
  const text = `${parts.filter(Boolean).join("\n\n")}\n`;
  if (text.length > MOST_CHARACTERS) throw new Error("it is too long for the clipboard; export it instead");
  return text;
}

function headOf(log: TraceView, form: Form): string {
  const trace = log.state?.trace();
  if (!trace) return "";
  const { total_messages, total_tokens, total_cost } = trace.tree_totals;
  const facts = [
    trace.status,
    trace.agent_type,
    `${count(total_messages)} messages`,
    total_tokens && `${count(total_tokens)} tokens`,
    total_cost && cost(total_cost),
    trace.trace_id,
  ];
  const error = trace.error === null ? "" : typeof trace.error === "string" ? trace.error : treeText(trace.error);
  return [heading(trace.task, form, 1), facts.filter(Boolean).join(" · "), visible(error)].filter(Boolean).join("\n\n");
}

function heading(words: string, form: Form, level: number): string {
  const line = visible(words).replace(/\s+/g, " ").trim();
  if (form === "markdown") return `${"#".repeat(level)} ${line.replace(/[\\`*_[\]<>#|~]/g, "\\$&")}`;
  return `${line}\n${(level > 1 ? "-" : "=").repeat(Math.min(60, line.length))}`;
}

/** One row, read again where only its beginning is kept. */
export function rowAs(log: TraceView, item: Item, form: Form): string | Promise<string> {
  const answer = log.rows.outcomeOf(item);
  if (!item.message || !(item.cut || item.light) || log.past) return itemAs(item, form, answer);
  return fetchMessage(log.id, item.message.message_id).then(({ message }) =>
    itemAs({ ...item, message }, form, answer),
  );
}

/** One row as text or as markdown. `answer` is how its question was closed. */
export function itemAs(item: Item, form: Form, answer?: StoredEvent): string {
  const markdown = form === "markdown";
  const at = item.at ? timeOfDay(item.at) : `#${Math.floor(item.id)}`;
  const head = (name: string, more = "") =>
    markdown ? `**${visible(name)}** ${at}${more}` : `[${at}] ${visible(name)}${more}`;
  const { message, event } = item;
  if (!message) {
    const words = wordsOf(item, answer).map(({ text }) => visible(text));
    if (!event) return words.join("\n");
    if (isOther(event)) return [head(event.event), block(payloadOf(event), markdown)].join("\n\n");
    return `${head(words[0]!.split("\n")[0]!)}${words
      .flatMap((text) => text.split("\n"))
      .slice(1)
      .map((line) => `\n${line}`)
      .join("")}`.trim();
  }
  if (message.role !== "tool") {
    const parts = partsOf(message.content) ?? [message.content];
    const said = parts.map((part) => (typeof part === "string" ? visible(part) : block(part, markdown)));
    const name = message.agent ? `${message.role} (${message.agent})` : message.role;
    return [head(name), ...said].join(markdown ? "\n\n" : "\n");
  }
  const { name, args, output, rest } = callOf(message, item.error);
  const values = [args, output, Object.keys(rest).length ? rest : undefined].filter((value) => value !== undefined);
  const state = item.error ? " · failed" : message.status === "complete" ? "" : " · not finished";
  return [head(name, state), ...values.map((value) => block(value, markdown))].join(markdown ? "\n\n" : "\n");
}

const KNOWN = new Set([
  "sub_trace_started",
  "sub_trace_completed",
  "trace_completed",
  "trace_status_changed",
  "cancel_requested",
  "input_requested",
]);
const isOther = (event: StoredEvent): boolean => !KNOWN.has(event.event);

/** A value in a block of its own: indented, or fenced by more signs than stand in it. */
function block(value: Json, markdown: boolean): string {
  const parsed = typeof value === "string" ? asJson(value) : value;
  const isText = typeof parsed === "string";
  if (!markdown) return visible(treeText(parsed)).replace(/^/gm, "  ");
  const text = visible(isText ? parsed : JSON.stringify(parsed, null, 2));
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([signs]) => signs.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}${isText ? "" : "json"}\n${text.replace(/\n$/, "")}\n${fence}`;
}
