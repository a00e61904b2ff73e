// The filter's grammar: `status:running agent:coder tag:nightly cost>1 text "more text" -status:failed`.
//
// Rule: a trace has to pass every word. Behind one colon several statuses or agents may stand, with commas. Tags,
//       sessions and users are named whole; `error:*` is any error. A word that is not understood is text that has to
//       occur in the task, the id or the agent.

import type { Trace } from "../net/protocol";
import { errorLine } from "./error";

type TraceTest = (trace: Trace) => boolean;

const NUMBERS: Record<string, (trace: Trace) => number> = {
  cost: (t) => t.tree_totals.total_cost ?? Number.NaN, // what is not known is neither more nor less
  tokens: (t) => t.tree_totals.total_tokens,
  messages: (t) => t.tree_totals.total_messages,
  events: (t) => t.last_event_id,
};
const TEXTS: Record<string, (trace: Trace) => string> = {
  status: (t) => t.status,
  agent: (t) => t.agent_type,
  id: (t) => t.trace_id,
  task: (t) => t.task,
  model: (t) => (t.models ?? []).join("\n"),
  error: (t) => (t.error == null ? "" : errorLine(t.error)),
};
const WHOLE: Record<string, (trace: Trace) => (string | null)[]> = {
  tag: (t) => t.tags ?? [],
  session: (t) => [t.session_id],
  user: (t) => [t.user_id],
};
const SYNONYMS: Record<string, string[]> = {
  open: ["running", "waiting", "idle"],
  ended: ["completed", "failed", "stopped"],
  done: ["completed"],
  error: ["failed", "lost"],
};

/** The test that a filter's text stands for, or null for one that lets everything pass. */
export function parseFilter(text: string): TraceTest | null {
  const tests = [...text.matchAll(/(-?)((?:[a-z]+[:<>=]+)?(?:"[^"]*"?|\S+))/gi)].map(([, not, word]) => {
    const test = parseWord(word!);
    return not ? (trace: Trace) => !test(trace) : test;
  });
  return tests.length ? (trace) => tests.every((test) => test(trace)) : null;
}

function parseWord(word: string): TraceTest {
  const compared = /^([a-z]+)(>=|<=|>|<|=)\$?([\d.]+)([km]?)$/i.exec(word);
  const numberOf = compared && NUMBERS[compared[1]!.toLowerCase()];
  if (compared && numberOf) {
    const limit = Number(compared[3]) * ({ k: 1e3, m: 1e6 }[compared[4]!.toLowerCase()] ?? 1);
    const by = compared[2]!;
    return (trace) => {
      const n = numberOf(trace);
      return by === ">"
        ? n > limit
        : by === "<"
          ? n < limit
          : by === ">="
            ? n >= limit
            : by === "<="
              ? n <= limit
              : n === limit;
    };
  }
  const named = /^([a-z]+):(.+)$/i.exec(word);
  const key = named?.[1]?.toLowerCase() ?? "";
  if (key === "error" && named![2] === "*") return (trace) => trace.error != null;
  const wholeOf = Object.hasOwn(WHOLE, key) ? WHOLE[key] : undefined;
  if (named && wholeOf) {
    const given = named[2]!;
    const wanted = (given.startsWith('"') ? [given] : given.split(",")).map(plain);
    return (trace) => wholeOf(trace).some((one) => one !== null && wanted.includes(plain(one)));
  }
  const textOf = Object.hasOwn(TEXTS, key) ? TEXTS[key] : undefined;
  if (named && textOf) {
    const wanted = unquote(named[2]!).toLowerCase().split(",").filter(Boolean);
    if (key === "status") {
      const statuses = wanted.flatMap((name) => SYNONYMS[name] ?? [name]);
      return (trace) => statuses.some((status) => trace.status.startsWith(status));
    }
    return (trace) => wanted.some((part) => textOf(trace).toLowerCase().includes(part));
  }
  const needle = unquote(word).toLowerCase();
  return (trace) => [trace.task, trace.trace_id, trace.agent_type].some((t) => t.toLowerCase().includes(needle));
}

/** As names are compared: in any case, and without the quotes that a word can't hold. */
const plain = (name: string): string => name.toLowerCase().replaceAll('"', "");

/** The word that lets pass what has this tag, session, user … */
export const wordFor = (key: string, name: string): string => {
  const bare = name.replaceAll('"', "");
  return `${key}:${/[\s,]/.test(bare) ? `"${bare}"` : bare}`;
};

/** `text` with a word in it. */
export const withWord = (text: string, word: string): string =>
  ` ${text} `.includes(` ${word} `) ? text : [text.trim(), word].filter(Boolean).join(" ");

const ASKED: Record<string, string> = { tag: "tag", session: "session_id", user: "user_id", error: "error" };

/** What the server may be asked for of a filter's text: the words that it understands as this page does. */
export function askedOf(text: string): [string, string][] {
  const found: [string, string][] = [];
  for (const [, key, value] of text.matchAll(/(?:^|\s)([a-z]+):("[^"]*"|[^\s",]+)(?=\s|$)/gi)) {
    const name = ASKED[key!.toLowerCase()];
    if (name && value !== '""') found.push([name, unquote(value!)]);
  }
  return found;
}

function unquote(word: string): string {
  return word.startsWith('"') ? word.slice(1).replace(/"$/, "") : word;
}

/** `text` with `key:value` in it, or without it where it stands there already. */
export function toggleWord(text: string, key: string, value: string): string {
  const rest = text.split(/\s+/).filter((word) => word && !word.startsWith(`${key}:`));
  return text.includes(`${key}:${value}`) ? rest.join(" ") : [`${key}:${value}`, ...rest].join(" ");
}
