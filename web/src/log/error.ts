// What an `error` of the log says, in one line. `tracewatch/model/error.py` says the same.

import { isObject, type Json, previewed } from "../net/protocol";

const MOST = 2000; // characters of the line
const DEPTH = 4; // of an error in an error
const KINDS = ["type", "name", "code"];
const SAYING = ["message", "text", "last_action_error", "detail", "stderr", "reason"];
const WITHIN = ["error", "cause", "metadata"];

/** An error in one line: `TypeError: * wants int`. Any JSON; "" for null. */
export function errorLine(error: Json | undefined): string {
  if (error === null || error === undefined) return "";
  const line = beforeTrace(said(error, DEPTH))
    .slice(0, 2 * MOST)
    .replace(/\s+/g, " ");
  return line.trim().slice(0, MOST);
}

/** Of a text with a traceback in it what stands before that, else its last line, which says what it was. */
function beforeTrace(text: string): string {
  const python = text.indexOf("Traceback (most recent call last)");
  if (python >= 0) return text.slice(0, python).trim() || text.trimEnd().split("\n").at(-1)!;
  const script = text.indexOf("\n    at ");
  return script > 0 ? text.slice(0, script) : text;
}

/** All of an error, with its traceback; "" where the line has said it. */
export function errorWhole(error: Json | undefined): string {
  const given = previewed(error);
  let text = "";
  if (typeof given === "string") text = given;
  else if (isObject(given)) {
    const trace = TRACES.map((key) => previewed(given[key])).find((value) => typeof value === "string");
    text =
      (trace as string | undefined) ??
      (SIMPLE.every((key) => key in given) && size(given) === SIMPLE.length ? "" : JSON.stringify(given, null, 2));
  } else if (given !== null && given !== undefined) text = JSON.stringify(given, null, 2);
  return text.trim().replace(/\s+/g, " ") === errorLine(error) ? "" : text;
}
const TRACES = ["traceback", "stack", "stacktrace", "stack_trace"];
const SIMPLE = ["type", "message"];

function said(given: Json, depth: number): string {
  const error = previewed(given)!;
  if (typeof error === "string") return error;
  if (isObject(error) && depth) {
    const text = (keys: string[], blank: boolean) =>
      keys.map((key) => previewed(error[key])).find((value) => typeof value === "string" && (blank || value.trim())) as
        | string
        | undefined;
    const kind = text(KINDS, true) ?? "";
    const words = text(SAYING, false);
    if (words !== undefined) {
      const plain = !kind || kind === "text" || kind === "error" || words.startsWith(kind);
      return plain ? words : `${kind}: ${words}`;
    }
    for (const key of WITHIN) {
      const within = error[key];
      if (
        typeof within === "string" ? within : isObject(within) ? size(within) : Array.isArray(within) && within.length
      )
        return said(within!, depth - 1);
    }
    if (kind && kind !== "error") return kind;
  }
  const readable = (one: Json) => typeof one === "string" || isObject(one);
  if (Array.isArray(error) && error.length && depth && error.every(readable))
    return error
      .slice(0, 10)
      .map((one) => said(one, depth - 1))
      .join("; ");
  return JSON.stringify(error);
}

const size = (value: object): number => Object.keys(value).length;
