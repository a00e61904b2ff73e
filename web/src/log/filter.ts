// The filter's grammar: `status:running agent:coder cost>1 text "more text" -status:failed`.
//
// Rule: a trace has to pass every word. Behind one colon several statuses or agents may stand, with commas. A word
//       that is not understood is text that has to occur in the task, the id or the agent.

import type { Trace } from "../net/protocol";

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

function unquote(word: string): string {
  return word.startsWith('"') ? word.slice(1).replace(/"$/, "") : word;
}

/** `text` with `key:value` in it, or without it where it stands there already. */
export function toggleWord(text: string, key: string, value: string): string {
  const rest = text.split(/\s+/).filter((word) => word && !word.startsWith(`${key}:`));
  return text.includes(`${key}:${value}`) ? rest.join(" ") : [`${key}:${value}`, ...rest].join(" ");
}
