// Text of agents: plain while it streams, markdown once complete, folded where it is long.

import { useLayoutEffect, useRef } from "preact/hooks";
import { count, terminal, visible } from "../format";
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
  return render ? (
    <div key="md" ref={box} class="prose" dir="auto" />
  ) : (
    <div key="plain" ref={box} class="plain" dir="auto">
      {visible(text)}
    </div>
  );
}

export function Terminal({ text, open, toggle, bad, lines }: TextProps & { bad?: boolean; lines?: number }) {
  const folded = fold(text, lines, lines && lines * 120);
  const shown = open || !folded.cut ? text : folded.text;
  return (
    <>
      <pre class={bad ? "term bad" : "term"}>{terminal(shown)}</pre>
      {folded.cut && <More text={text} open={Boolean(open)} lines={folded.lines} toggle={toggle} />}
    </>
  );
}
