// Text of agents: plain while it streams, markdown once complete, folded where it is long.

import { useLayoutEffect, useRef } from "preact/hooks";
import { copy } from "../app";
import { count, terminal, visible } from "../format";
import { errorLine, errorWhole } from "../log/error";
import type { Json } from "../net/protocol";
import { Growing } from "./growing";
import { hasMarkdown, loadMarkdown, markdown, rendered } from "./markdown";
import { redrawn } from "./place";

const FOLD_LINES = 24;
const FOLD_CHARS = 2400;
const MOST_MARKDOWN = 200_000; // longer text is shown as it is

interface Folded {
  text: string;
  cut: boolean;
  lines: number;
}

/** The first lines of a long text. */
export function fold(text: string, lines = FOLD_LINES, chars = FOLD_CHARS): Folded {
  let at = -1;
  for (let i = 0; i < lines; i++) {
    at = text.indexOf("\n", at + 1);
    if (at < 0 || at > chars) break;
  }
  const end = at < 0 ? chars : Math.min(at, chars);
  const rest = text.length - end;
  if (rest <= 0 || (rest < 200 && text.indexOf("\n", end + 1) < 0)) return { text, cut: false, lines: 0 };
  return { text: text.slice(0, end), cut: true, lines: text.split("\n").length };
}

interface TextProps {
  text: string;
  open: boolean | undefined;
  toggle: () => void;
}

function More({ text, open, lines, toggle }: { text: string; open: boolean; lines: number; toggle: () => void }) {
  return (
    <button class="link more" aria-expanded={open} onClick={toggle}>
      {open ? "Show less" : lines > 4 ? `Show all ${count(lines)} lines` : `Show all ${count(text.length)} characters`}
    </button>
  );
}

export function Prose({ text, open, toggle, streaming }: TextProps & { streaming: boolean }) {
  if (streaming) return <Streaming text={text} />;
  const folded = fold(text);
  const shown = open || !folded.cut ? text : folded.text;
  const as = shown.length < MOST_MARKDOWN && hasMarkdown(shown);
  return (
    <>
      {as ? (
        <Markdown text={shown} />
      ) : (
        <div class="plain" dir="auto">
          {visible(shown)}
        </div>
      )}
      {folded.cut && <More text={text} open={Boolean(open)} lines={folded.lines} toggle={toggle} />}
    </>
  );
}

function Streaming({ text }: { text: string }) {
  const box = useRef<HTMLDivElement>(null);
  const growing = useRef<Growing | null>(null);
  growing.current ??= new Growing();
  useLayoutEffect(() => growing.current!.show(box.current!, text), [text]);
  return <div ref={box} class="plain streaming" dir="auto" />;
}

function Markdown({ text }: { text: string }) {
  const box = useRef<HTMLDivElement>(null);
  const render = markdown.value;
  useLayoutEffect(() => {
    if (!render) return loadMarkdown();
    box.current!.replaceChildren(rendered(text, render));
    for (const find of redrawn) find();
  }, [text, render]);
  const copied = (event: MouseEvent) => {
    const block = (event.target as Element).closest(".copyit")?.closest("pre");
    if (block) void copy(block.querySelector("code")?.textContent ?? "", "the code");
  };
  return render ? (
    <div key="md" ref={box} class="prose" dir="auto" onClick={copied} />
  ) : (
    <div key="plain" ref={box} class="plain" dir="auto">
      {visible(text)}
    </div>
  );
}

const HUNK = /^@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@/m;
const MOST_LINES = 3_000; // of a diff that is coloured

/** Whether a text is a unified diff. */
export const isDiff = (text: string): boolean => HUNK.test(text);

/** The lines of a diff: those with one meaning that follow one another are one element. */
export function Diff({ text }: { text: string }) {
  const lines = text.split("\n");
  if (lines.length > MOST_LINES) return <>{terminal(text)}</>;
  const parts: [look: string, lines: string[]][] = [];
  for (const line of lines) {
    const look = /^(\+\+\+|---|@@|diff |index )/.test(line)
      ? "about"
      : line[0] === "+"
        ? "added"
        : line[0] === "-"
          ? "gone"
          : "";
    if (parts.at(-1)?.[0] === look) parts.at(-1)![1].push(line);
    else parts.push([look, [line]]);
  }
  return (
    <>
      {parts.map(([look, some], i) => (
        <span key={i} class={look ? `diff ${look}` : "diff"}>
          {terminal(some.join("\n"))}
          {i < parts.length - 1 ? "\n" : ""}
        </span>
      ))}
    </>
  );
}

/** A text that was replaced by another as a diff: the lines that both begin and end with stand around it. */
export function replaced(before: string, after: string): string {
  const [old, now] = [before.split("\n"), after.split("\n")];
  let same = 0;
  while (same < old.length && same < now.length && old[same] === now[same]) same++;
  let end = 0;
  while (end < old.length - same && end < now.length - same && old.at(-1 - end) === now.at(-1 - end)) end++;
  const as = (sign: string, some: string[]) => some.map((line) => sign + line);
  return [
    ...as(" ", old.slice(0, same)),
    ...as("-", old.slice(same, old.length - end)),
    ...as("+", now.slice(same, now.length - end)),
    ...as(" ", old.slice(old.length - end)),
  ].join("\n");
}

export function Terminal({ text, open, toggle, bad, lines }: TextProps & { bad?: boolean; lines?: number }) {
  const folded = fold(text, lines, lines && lines * 120);
  const shown = open || !folded.cut ? text : folded.text;
  return (
    <>
      <pre class={bad ? "term bad" : "term"}>{isDiff(text) ? <Diff text={shown} /> : terminal(shown)}</pre>
      {folded.cut && <More text={text} open={Boolean(open)} lines={folded.lines} toggle={toggle} />}
    </>
  );
}

/** An error as a line, with all of it folded below. */
export function ErrorText({ error }: { error: Json }) {
  const whole = errorWhole(error);
  return (
    <div class="errortext">
      <span class="mono">{visible(errorLine(error) || "failed")}</span>
      {whole && (
        <details>
          <summary>{/Traceback|\n\s+at /.test(whole) ? "traceback" : "all of it"}</summary>
          <pre class="term bad">{terminal(whole)}</pre>
        </details>
      )}
    </div>
  );
}
