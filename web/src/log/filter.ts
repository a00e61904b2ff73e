// The filter language: `status:failed agent:cod tag:nightly took>20s cost>1 "free text" -status:lost`.
//
// Rule 1: the same as in tracewatch/model/filter.py, word for word; tests/model/filters.json holds both to it. A trace
//         has to pass every word. What looks like a field and is none is a fault with its place, never text.
// Rule 2: text is found by the server's index. What this page knows of a trace (task, id, agent) is looked at as well,
//         by parts of words, so that something is shown while one types, and without a server.

import type { Trace } from "../net/protocol";
import { errorLine } from "./error";

export interface Condition {
  field: string;
  compare: string;
  values: (string | number)[]; // of a span in s, of a time in s since 1970
  negative: boolean;
  at: number; // where the word stands
  end: number;
}
export interface Sought {
  text: string;
  prefix: boolean;
  negative: boolean;
  at: number;
  end: number;
}
export interface Fault {
  at: number;
  end: number;
  message: string;
}
export interface Filter {
  conditions: Condition[];
  sought: Sought[];
  faults: Fault[];
}

export const STATUSES = ["running", "waiting", "idle", "completed", "failed", "stopped", "lost"];
const SYNONYMS: Record<string, string[]> = {
  open: ["running", "waiting", "idle"],
  ended: ["completed", "failed", "stopped"],
  done: ["completed"],
  error: ["failed", "lost"],
};
const AMOUNTS = ["cost", "tokens", "messages", "events"];
const SPANS = ["took", "age"];
const TIMES = ["since", "until"];
const PARTS = ["agent", "model", "error", "id", "task"];
export const FIELDS = ["status", "tag", "session", "user", ...PARTS, ...SPANS, ...AMOUNTS, ...TIMES];
const MOST_WORDS = 64;

const UNITS: Record<string, number> = { k: 1e3, m: 1e6, "": 1 };
const SECONDS: Record<string, number> = { ms: 0.001, s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 };
const TIME = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d(?:\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?$/;
const A_WORD = /[\p{L}\p{N}]/u;

class Misunderstood extends Error {}

/** What a filter's text says. It never throws: what is not understood is among the faults. */
export function parseFilter(text: string): Filter {
  const found: Filter = { conditions: [], sought: [], faults: [] };
  const words = [...text.matchAll(/(-?)(?:([A-Za-z_]+)(:|>=|<=|>|<|=))?((?:"[^"]*"?|[^\s"])*)/g)].filter(
    (one) => one[0],
  );
  for (const match of words.slice(0, MOST_WORDS)) {
    const place = { negative: Boolean(match[1]), at: match.index, end: match.index + match[0].length };
    try {
      if (match[2] === undefined) found.sought.push({ ...soughtIn(match[4]!), ...place });
      else found.conditions.push({ ...conditionIn(match[2].toLowerCase(), match[3]!, match[4]!), ...place });
    } catch (error) {
      found.faults.push({ at: place.at, end: place.end, message: (error as Error).message });
    }
  }
  const beyond = words[MOST_WORDS];
  if (beyond) found.faults.push({ at: beyond.index, end: text.length, message: `more than ${MOST_WORDS} words` });
  return found;
}

function soughtIn(rest: string): { text: string; prefix: boolean } {
  const prefix = rest.endsWith("*") && rest.length > 1;
  const bare = rest.replaceAll('"', "");
  const text = prefix ? bare.replace(/\*+$/, "") : bare;
  if (!A_WORD.test(text)) throw new Misunderstood("there is no letter and no digit in it to look for");
  return { text, prefix };
}

function conditionIn(field: string, compare: string, rest: string): Pick<Condition, "field" | "compare" | "values"> {
  if (!FIELDS.includes(field)) throw new Misunderstood(`${field} is no field. Text with a sign like this needs quotes`);
  const values = (rest.match(/(?:"[^"]*"?|[^",])+/g) ?? [])
    .map((one) => one.replaceAll('"', "").trim())
    .filter(Boolean);
  if (!values.length) throw new Misunderstood(`${field} has no value`);
  if (AMOUNTS.includes(field) || SPANS.includes(field)) return { field, compare, values: [numberOf(field, values)] };
  if (compare !== ":" && compare !== "=")
    throw new Misunderstood(`${field} can't be compared with ${compare}, only given with a colon`);
  if (TIMES.includes(field)) return { field, compare: ":", values: [timeOf(field, values)] };
  if (field === "status") return { field, compare: ":", values: [...new Set(values.flatMap(statusesOf))] };
  return { field, compare: ":", values };
}

function numberOf(field: string, values: string[]): number {
  const amount = AMOUNTS.includes(field);
  const form = amount ? /^\$?(\d+(?:\.\d+)?|\.\d+)([km]?)$/i : /^(\d+(?:\.\d+)?|\.\d+)(ms|s|m|h|d|w)?$/i;
  const match = values.length === 1 ? form.exec(values[0]!) : null;
  if (!match) throw new Misunderstood(`${field} wants a number such as ${amount ? "1.5 or 10k" : "20s, 5m, 2h or 3d"}`);
  const unit = (match[2] ?? "").toLowerCase();
  return Number(match[1]) * (amount ? UNITS[unit]! : SECONDS[unit || "s"]!);
}

function timeOf(field: string, values: string[]): number {
  const match = values.length === 1 ? TIME.exec(values[0]!) : null;
  const at = match
    ? Date.parse(`${match[1]}T${match[2] ?? "00:00"}${match[3] ?? ":00"}${match[4] ?? "Z"}`)
    : Number.NaN;
  const day = match ? new Date(`${match[1]}T00:00:00Z`) : null;
  if (Number.isNaN(at) || !day || day.toISOString().slice(0, 10) !== match![1])
    throw new Misunderstood(`${field} wants a day or a time in UTC, such as 2026-11-01 or 2026-11-01T08:30`);
  return at / 1000;
}

function statusesOf(value: string): string[] {
  const name = value.toLowerCase();
  const found = Object.hasOwn(SYNONYMS, name) ? SYNONYMS[name]! : STATUSES.filter((one) => one.startsWith(name));
  if (!found.length) throw new Misunderstood(`${value} is no status; they are ${STATUSES.join(", ")}`);
  return found;
}

// --- whether a trace passes ---

const seconds = (time: string): number => Date.parse(time) / 1000;
const beganAt = (t: Trace): number => Math.min(seconds(t.started_at), seconds(t.created_at));
const says = (values: (string | number)[], ...texts: string[]): boolean =>
  values.some((value) => texts.some((text) => text.toLowerCase().includes(String(value).toLowerCase())));
const among = (values: (string | number)[], ...names: (string | null)[]): boolean =>
  names.some((name) => name !== null && values.includes(name));

const NUMBERS: Record<string, (t: Trace, now: number) => number | null> = {
  cost: (t) => t.tree_totals.total_cost,
  tokens: (t) => t.tree_totals.total_tokens,
  messages: (t) => t.tree_totals.total_messages,
  events: (t) => t.last_event_id,
  took: (t, now) =>
    t.ended_at !== null
      ? seconds(t.ended_at) - seconds(t.started_at)
      : SYNONYMS.open!.includes(t.status)
        ? now - seconds(t.started_at)
        : null,
  age: (t, now) => now - beganAt(t),
};
const TESTS: Record<string, (t: Trace, values: (string | number)[]) => boolean> = {
  status: (t, values) => values.includes(t.status),
  tag: (t, values) => among(values, ...(t.tags ?? [])),
  session: (t, values) => among(values, t.session_id),
  user: (t, values) => among(values, t.user_id),
  agent: (t, values) => says(values, t.agent_type),
  model: (t, values) => says(values, ...(t.models ?? [])),
  id: (t, values) => says(values, t.trace_id),
  task: (t, values) => says(values, t.task),
  error: (t, values) => t.error != null && (values.includes("*") || says(values, errorLine(t.error))),
  since: (t, values) => beganAt(t) >= (values[0] as number),
  until: (t, values) => beganAt(t) < (values[0] as number),
};
const COMPARES: Record<string, (one: number, other: number) => boolean> = {
  ">": (one, other) => one > other,
  "<": (one, other) => one < other,
  ">=": (one, other) => one >= other,
  "<=": (one, other) => one <= other,
};

/** Whether a trace passes one field. `now` in s. */
export function fits({ field, compare, values, negative }: Condition, trace: Trace, now: number): boolean {
  const number = NUMBERS[field]?.(trace, now);
  const passes =
    number === undefined
      ? TESTS[field]!(trace, values)
      : number !== null && (COMPARES[compare] ?? Object.is)(number, values[0] as number);
  return passes !== negative;
}

/** The test that a filter stands for, null for one that lets everything pass. `found`: the runs that have its text. */
export function testOf(
  { conditions, sought }: Filter,
  now: number,
  found: ReadonlySet<string> | null,
): ((trace: Trace) => boolean) | null {
  if (!conditions.length && !sought.length) return null;
  const turned = sought.some(({ negative }) => negative); // then only the server knows what is nowhere in a trace
  const shown = (trace: Trace) =>
    sought.every(({ text, negative }) => says([text], trace.task, trace.trace_id, trace.agent_type) !== negative);
  return (trace) =>
    conditions.every((one) => fits(one, trace, now)) &&
    (!sought.length || found?.has(trace.trace_id) || ((!turned || !found) && shown(trace)));
}

// --- changing a filter's text ---

/** The word that lets pass what has this tag, session, user … */
export const wordFor = (key: string, name: string): string => {
  const bare = name.replaceAll('"', "");
  return `${key}:${/[\s,]/.test(bare) ? `"${bare}"` : bare}`;
};

/** `text` with a word in it. */
export const withWord = (text: string, word: string): string =>
  ` ${text} `.includes(` ${word} `) ? text : [text.trim(), word].filter(Boolean).join(" ");

/** `text` without what stands from `at` to `end`. */
export const without = (text: string, { at, end }: { at: number; end: number }): string =>
  `${text.slice(0, at).trimEnd()} ${text.slice(end).trimStart()}`.trim();

/** `text` with `key:value` in it, or without it where it stands there already. */
export function toggleWord(text: string, key: string, value: string): string {
  const rest = parseFilter(text)
    .conditions.filter((one) => one.field === key)
    .reverse()
    .reduce((left, one) => without(left, one), text);
  return text.split(/\s+/).includes(`${key}:${value}`) ? rest : `${key}:${value} ${rest}`.trim();
}

/** What the last word of a text may become: whole texts, the likeliest first. `names`: what is known, by field. */
export function completions(text: string, names: Record<string, Iterable<string>>): string[] {
  const match = /^(.*?)(-?)(?:([a-z]+):((?:[^,"]*,)*)"?)?([^\s:,"]*)$/i.exec(text);
  if (!match) return [];
  const [, before, not, field, values, part] = match;
  if (/\S$/.test(before!)) return [];
  const begun = part!.toLowerCase();
  if (field === undefined) {
    if (!part) return [];
    return FIELDS.filter((one) => one.startsWith(begun)).map(
      (one) => `${before}${not}${one}${AMOUNTS.includes(one) || SPANS.includes(one) ? ">" : ":"}`,
    );
  }
  const known = field === "status" ? [...STATUSES, ...Object.keys(SYNONYMS)] : (names[field.toLowerCase()] ?? []);
  return [...known]
    .filter((one) => one.toLowerCase().startsWith(begun) && one !== part)
    .slice(0, 12)
    .map((one) => `${before}${not}${field}:${values}${wordFor("", one).slice(1)}`);
}
