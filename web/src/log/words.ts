// The words of a row, as they are shown: for searching, and for copying what is not drawn.

import { ago, bytes, fullTime, timeOfDay } from "../format";
import { isObject, type Json, type Message, type StoredEvent } from "../net/protocol";
import { attachedIn, attachedWords } from "./attached";
import { errorLine } from "./error";
import { toolName } from "./fold";
import type { Item } from "./rows";

/** The parts of a message's content: texts, and values of other kinds. Null: it is shown as JSON. */
export function partsOf(content: Json): Json[] | null {
  if (typeof content === "string") return content ? [content] : [];
  if (Array.isArray(content))
    return content.map((part) => (isObject(part) && typeof part.text === "string" ? part.text : part));
  if (isObject(content) && typeof content.text === "string") {
    const { text, ...rest } = content;
    return Object.keys(rest).length ? [text, rest] : [text];
  }
  return content === null ? [] : null;
}

/** A tool call as its row shows it. */
export interface Call {
  name: string;
  args: Json | undefined;
  output: Json | undefined; // the error of a call that failed, else the result
  rest: { [key: string]: Json };
}

export function callOf(message: Message, failed: boolean): Call {
  const content = isObject(message.content) ? message.content : { result: message.content };
  const { tool_name: _tool, name: _name, arguments: args, result, error, ...rest } = content;
  const output = failed && error !== undefined && error !== null ? error : result;
  return { name: toolName(message) ?? "tool", args, output, rest };
}

/** The value of a text that is a JSON object or array; else the text. */
export function asJson(text: string): Json {
  if (!/^\s*[[{]/.test(text) || text.length > 2_000_000) return text;
  try {
    return JSON.parse(text) as Json;
  } catch {
    return text;
  }
}

/** An event of another kind without what every event has. */
export function payloadOf(event: StoredEvent): { [key: string]: Json } {
  const { event: _n, event_id: _i, trace_id: _t, ts: _ts, occurred_at: _o, affected_goals: _a, ...payload } = event;
  return payload;
}

/** A value as a tree shows it: keys and values in lines, without the signs of JSON; a picture or file as its words. */
export function treeText(value: Json, indent = ""): string {
  const attached = attachedIn(value);
  if (attached) return attachedWords(attached);
  if (typeof value === "string") return value;
  if (typeof value !== "object" || value === null) return String(value);
  return Object.entries(value)
    .map(([key, child]) =>
      typeof child === "object" && child !== null && Object.keys(child).length
        ? `${indent}${key}\n${treeText(child, `${indent}  `)}`
        : `${indent}${key} ${typeof child === "object" && child !== null ? "" : treeText(child)}`,
    )
    .join("\n");
}

const shown = (value: Json): string => treeText(typeof value === "string" ? asJson(value) : value);

export interface Words {
  text: string;
  prose?: boolean; // shown as markdown, if it has any
}

/** Whether a row belongs to a goal, or to none: it is a message, a question or a sub-agent. */
export const belongs = ({ message, event }: Item): boolean => message !== null || BELONGING.has(event?.event ?? "");
const BELONGING = new Set(["input_requested", "sub_trace_started"]);

/** What a row shows of its message or event, unfolded. `answer` is how its question was closed, its sub-agent ended. */
export function wordsOf(item: Item, answer?: StoredEvent): Words[] {
  if (item.gap) return [{ text: item.gap }];
  if (item.hole !== undefined) return [];
  const { message, event } = item;
  if (message && message.role !== "tool") {
    const kind = (message as Message & { kind?: Json }).kind;
    const head = [message.role, message.agent, typeof kind === "string" && kind].filter(Boolean).join("\n");
    const parts = partsOf(message.content) ?? [message.content];
    return [
      { text: head },
      ...parts.map((part) => (typeof part === "string" ? { text: part, prose: true } : { text: treeText(part) })),
    ];
  }
  if (message) {
    const { name, args, output, rest } = callOf(message, item.error);
    const values = [args, output, Object.keys(rest).length ? rest : undefined];
    return [{ text: name }, ...values.flatMap((value) => (value === undefined ? [] : [{ text: shown(value) }]))];
  }
  return event ? wordsOfEvent(event, answer) : [];
}

function wordsOfEvent(event: StoredEvent, answer?: StoredEvent): Words[] {
  const text = (...parts: unknown[]) => parts.filter((part) => typeof part === "string" && part).join("\n");
  switch (event.event) {
    case "sub_trace_started":
      return [
        { text: text("sub-agent", event.agent_type, event.task) },
        ...(answer ? [{ text: text(answer.status, errorLine(answer.error), answer.summary) }] : []),
      ];
    case "sub_trace_completed":
      return [{ text: text(`sub-agent ${event.status}`, errorLine(event.error), event.summary) }];
    case "trace_completed":
    case "trace_status_changed": {
      const what = event.event === "trace_completed" ? `Run ${event.status}` : `Now ${event.status}`;
      const whole = event.error && typeof event.error !== "string" ? treeText(event.error) : event.error;
      const line = typeof event.error === "string" ? "" : errorLine(event.error);
      return [{ text: text(what, event.reason, line, whole) }, { text: text(event.summary), prose: true }];
    }
    case "cancel_requested":
      return [{ text: text("Cancel requested", `by ${event.by ?? "somebody"}`, event.reason) }];
    case "input_requested":
      return [
        { text: "Question" },
        { text: text(event.question) },
        ...(answer?.event === "input_provided"
          ? [{ text: `${shown(answer.value)}\nby ${answer.by ?? "somebody"}` }]
          : []),
      ];
    default:
      return [{ text: event.event }, { text: treeText(payloadOf(event)) }];
  }
}

/** A row in one piece of text, with its time. */
export function lineOf(item: Item, answer?: StoredEvent): string {
  if (item.hole !== undefined) return `(events ${item.id} to ${item.hole} were not read)`;
  const [head, ...rest] = wordsOf(item, answer).map(({ text }) => text);
  const tool = item.message?.role === "tool" && !item.open;
  const body = tool ? rest.map((text) => (text.length > 200 ? bytes(text.length) : text.replace(/\s+/g, " "))) : rest;
  return [
    [item.at ? timeOfDay(item.at) : `#${Math.floor(item.id)}`, (head ?? "").replace(/\n/g, " ")]
      .filter(Boolean)
      .join(" "),
    ...body,
  ]
    .filter(Boolean)
    .join(tool ? " " : "\n");
}

const LATE_MS = 5_000;

/** When it happened, and how much later it was delivered. */
export function timesOf({ at, stored }: Item): string[] {
  if (!at) return [];
  const late = Date.parse(stored ?? at) - Date.parse(at);
  return [fullTime(at), ...(late > LATE_MS ? [`delivered ${ago(late)} later`] : [])];
}
