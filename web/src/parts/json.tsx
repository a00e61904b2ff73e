// Any JSON as a tree that is drawn only where it is open.

import { useContext, useLayoutEffect, useMemo, useState } from "preact/hooks";
import { visible } from "../format";
import { attachedIn, attachedTo, attachedWords } from "../log/attached";
import { treeText } from "../log/words";
import { isObject, type Json } from "../net/protocol";
import { Contents } from "./contents";
import { Finding, hides } from "./search";
import { Diff, isDiff } from "./text";

const CHUNK = 100; // children drawn at once
const LONG = 400; // characters of a text that is folded, if
const REST = 200; // it has so many more
const OPEN_DEPTH = 1;
const OPEN_CHILDREN = 20;

export function JsonTree({ value, depth = 0 }: { value: Json; depth?: number }) {
  const alone = useMemo(() => attachedIn(value), [value]);
  const held = useMemo(() => (alone ? [alone] : attachedTo(value)), [value]);
  return (
    <div class="json">
      {alone ? null : Array.isArray(value) || isObject(value) ? (
        <Children of={value} depth={depth} />
      ) : (
        <Leaf value={value} />
      )}
      <Contents of={held} />
    </div>
  );
}

function Children({ of, depth }: { of: Json[] | { [key: string]: Json }; depth: number }) {
  const [most, setMost] = useState(CHUNK);
  const keys = Object.keys(of);
  const words = useContext(Finding);
  useLayoutEffect(() => {
    if (!words.length) return;
    const rest = keys
      .slice(most)
      .findLastIndex((key) => hides(words, `${key} ${treeText((of as Json[])[key as never]!)}`, ""));
    if (rest >= 0) setMost(most + rest + 1);
  }, [words]);
  if (!keys.length) return <span class="dim">{Array.isArray(of) ? "[ ]" : "{ }"}</span>;
  return (
    <>
      {keys.slice(0, most).map((key) => (
        <Entry
          key={key}
          name={key}
          value={(of as { [key: string]: Json })[key]!}
          depth={depth}
          index={Array.isArray(of)}
        />
      ))}
      {keys.length > most && (
        <button class="link" onClick={() => setMost(most + CHUNK * 5)}>
          {keys.length - most} more
        </button>
      )}
    </>
  );
}

function Entry({ name, value: given, depth, index }: { name: string; value: Json; depth: number; index: boolean }) {
  const value = inWords(given);
  const nested = Array.isArray(value) || isObject(value);
  const size = nested ? Object.keys(value as object).length : 0;
  const words = useContext(Finding);
  const [open, setOpen] = useState(nested && depth < OPEN_DEPTH && size <= OPEN_CHILDREN);
  useLayoutEffect(() => {
    if (nested && !open && words.length && hides(words, treeText(value), preview(value, 80))) setOpen(true);
  }, [words]);
  const label = <span class={index ? "index" : "key"}>{visible(name) || '""'}</span>;
  if (!nested || !size) {
    return (
      <div class="entry">
        {label} <Leaf value={value} />
      </div>
    );
  }
  return (
    <div class="entry">
      <button class="twist" aria-expanded={open} onClick={() => setOpen(!open)}>
        <i aria-hidden="true" />
        {label} <span class="dim">{open ? (Array.isArray(value) ? `[${size}]` : `{${size}}`) : preview(value)}</span>
      </button>
      {open && (
        <div class="nest">
          <Children of={value as Json[]} depth={depth + 1} />
        </div>
      )}
    </div>
  );
}

function Leaf({ value }: { value: Json }) {
  const words = useContext(Finding);
  const [whole, setWhole] = useState(false);
  useLayoutEffect(() => {
    if (words.length && typeof value === "string" && hides(words, value, beginOf(value))) setWhole(true);
  }, [words]);
  if (typeof value !== "string") {
    if (value !== null && typeof value === "object")
      return <span class="dim">{Array.isArray(value) ? "[ ]" : "{ }"}</span>;
    return <span class={value === null ? "dim" : "lit"}>{String(value)}</span>;
  }
  const shown = whole ? value : beginOf(value);
  return (
    <span class={value.includes("\n") ? "str lines" : "str"}>
      {isDiff(value) ? <Diff text={shown} /> : visible(shown)}
      {shown.length < value.length && (
        <button class="link" onClick={() => setWhole(true)}>
          … {(value.length - LONG).toLocaleString("en-US")} more characters
        </button>
      )}
    </span>
  );
}

const beginOf = (text: string): string => (text.length > LONG + REST ? text.slice(0, LONG) : text);

/** Of a picture, a file or a long text what it is; all else as it stands. */
function inWords(value: Json): Json {
  const attached = attachedIn(value);
  return attached ? attachedWords(attached) : value;
}

/** A value in one line. */
export function preview(given: Json | undefined, most = 160): string {
  if (given === undefined) return "";
  const value = inWords(given);
  if (typeof value === "string") return visible(value.slice(0, most)).replace(/\s+/g, " ");
  return visible(clip(value, most)).replace(/\s+/g, " ");
}

/** JSON text of a value, not much longer than `most`, without writing all of a large one. */
function clip(given: Json, most: number): string {
  const value = inWords(given);
  if (typeof value === "string") return JSON.stringify(value.slice(0, most));
  if (value === null || typeof value !== "object") return String(value);
  let text = "";
  const list = Array.isArray(value);
  for (const [key, child] of Object.entries(value)) {
    if (text.length > most) return `${list ? "[" : "{"}${text}, …`;
    text += (text ? ", " : "") + (list ? "" : `${key}: `) + clip(child, most - text.length);
  }
  return list ? `[${text}]` : `{${text}}`;
}
