// One row of the list: a message, a tool call from its start to its result, or an event of another kind.

import { useContext, useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { app } from "../app";
import { bytes, cost, count, counted, duration, short, timeOfDay, visible } from "../format";
import { attachedIn, attachedTo, isPicture } from "../log/attached";
import { errorLine } from "../log/error";
import type { Item } from "../log/rows";
import type { TraceView } from "../log/view";
import { asJson, callOf, partsOf, payloadOf, timesOf, wordsOf } from "../log/words";
import { keep, kept } from "../net/places";
import { isEnded, isObject, type Json, type Message, type TraceStatus } from "../net/protocol";
import { traceHref } from "../net/route";
import { Contents, OfTrace } from "./contents";
import { CopyValue } from "./copy";
import { JsonTree, preview } from "./json";
import { classes, Damaged, Lasting, StateMark } from "./marks";
import { memo } from "./memo";
import { Finding, hides, testsOf } from "./search";
import { Diff, ErrorText, fold, Prose, replaced, Terminal } from "./text";

const FRESH_MS = 1200;

export interface RowProps {
  item: Item;
  version: number; // of the item: drawn again when it is another
  log: TraceView;
  heading: string | null; // the goal that begins with this row
  date: string | null; // the day that begins with this row
  branch: number; // messages of a branch that was left and begins with this row
  branchOpen: boolean;
  openBranch: (item: Item) => void;
  selected: boolean;
  hit: boolean;
  find: string; // of the row that a search has led to: its words are unfolded
  seek: string; // of a row that a search has found: what its fold hides is shown as a snippet
  ended: boolean; // the trace has ended: a call that still runs will not return
  select: (item: Item) => void;
}

export const MessageRow = memo(function MessageRow(props: RowProps) {
  const { item, heading, date, selected, hit } = props;
  if (item.hole !== undefined) return <HoleRow from={item.id} to={item.hole} />;
  const words = useMemo(() => testsOf(props.find), [props.find]);
  const fresh = item.live > 0 && performance.now() - item.live < FRESH_MS;
  const kind = item.gap ? "gap" : item.message ? (item.message.role === "tool" ? "tool" : "text") : "note";
  return (
    <OfTrace.Provider value={props.log.id}>
      <Finding.Provider value={words}>
        {date !== null && <div class="daybreak">{date}</div>}
        {heading !== null && <div class="goalhead">{visible(heading)}</div>}
        {props.branch > 0 && (
          <button class="branch link" aria-expanded={props.branchOpen} onClick={() => props.openBranch(item)}>
            {props.branchOpen ? "▾" : "▸"} {counted(props.branch, "message")} of a branch that was left
          </button>
        )}
        <div
          hidden={props.branch > 0 && !props.branchOpen}
          class={classes(
            "row",
            kind,
            item.message?.left === true && "left",
            item.error && "error",
            selected && "selected",
            hit && "hit",
            fresh && "fresh",
          )}
          data-event={item.id}
        >
          <button
            class="at"
            title={[...timesOf(item), `event ${Math.floor(item.id)}`, "inspect"].join(" · ")}
            onClick={() => props.select(item)}
          >
            {item.at ? timeOfDay(item.at) : item.gap ? "" : `#${item.id}`}
          </button>
          {item.gap ? (
            <GapRow item={item} log={props.log} />
          ) : item.message ? (
            kind === "tool" ? (
              <Tool {...props} message={item.message} />
            ) : (
              <Said {...props} message={item.message} />
            )
          ) : (
            <EventRow {...props} />
          )}
        </div>
      </Finding.Provider>
    </OfTrace.Provider>
  );
});

function HoleRow({ from, to }: { from: number; to: number }) {
  return (
    <div class="row hole dim" data-hole={`${from}-${to}`}>
      {count(to - from + 1)} {from === to ? "event" : "events"} here {from === to ? "is" : "are"} being read
    </div>
  );
}

function GapRow({ item, log }: { item: Item; log: TraceView }) {
  const row = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const observer = new IntersectionObserver(([seen]) => {
      if (seen!.isIntersecting && item.id > log.gapSeen.peek()) log.gapSeen.value = item.id;
    });
    observer.observe(row.current!);
    return () => observer.disconnect();
  }, [item, log]);
  return (
    <div ref={row} class="body wide">
      ⚡ {item.gap}
    </div>
  );
}

const MOST_KEPT = 300; // rows that a page remembers as unfolded or folded by hand

/** Whether a row is unfolded or folded by hand, also before the page was left. */
function useFold(item: Item, log: TraceView): [boolean | undefined, () => void] {
  const [, redraw] = useState(0);
  const name = `rows ${log.id}`;
  const id = String(item.id);
  item.open ??= kept<Record<string, boolean>>(name)?.[id];
  return [
    item.open,
    () => {
      item.open = !item.open;
      const before = Object.entries(kept<Record<string, boolean>>(name) ?? {}).filter(([other]) => other !== id);
      keep(name, Object.fromEntries([...before, [id, item.open]].slice(-MOST_KEPT)));
      redraw((n) => n + 1);
    },
  ];
}

function Said({ item, message, ended, log, seek }: RowProps & { message: Message }) {
  const [open, toggle] = useFold(item, log);
  const { content } = message;
  const words = useContext(Finding);
  const hidden = (part: Json) => typeof part === "string" && hides(words, part, fold(part).text);
  useLayoutEffect(() => {
    if (words.length && !open && partsOf(content)?.some(hidden)) toggle();
  }, [words]);
  const streaming = message.status !== "complete" && !ended;
  if (streaming) item.open ??= true; // it is not folded under the eyes of who reads it
  const texts = partsOf(content);
  const more = message as Message & { kind?: Json };
  return (
    <>
      <div class={`role is-${message.role}`} title={message.agent ? visible(String(message.agent)) : undefined}>
        {visible(message.role)}
        {message.agent ? <small>{visible(String(message.agent))}</small> : null}
      </div>
      <div class="body">
        {typeof more.kind === "string" && <span class="kind">{visible(more.kind)}</span>}
        {message.damaged ? (
          <>
            <Damaged /> <span class="dim">This message can't be read.</span>
          </>
        ) : texts === null ? (
          <JsonTree value={content} />
        ) : (
          texts.map((part, i) =>
            typeof part === "string" ? (
              <Prose key={i} text={part} open={open} toggle={toggle} streaming={streaming} />
            ) : (
              <JsonTree key={i} value={part} />
            ),
          )
        )}
        {!open && texts?.some(hasFold) && (
          <Snippet
            words={seek}
            text={() => texts.filter((part) => typeof part === "string").join("\n")}
            shown={() => texts.map((part) => (typeof part === "string" ? fold(part).text : "")).join("\n")}
            toggle={toggle}
          />
        )}
        {streaming && !texts?.length && <span class="plain streaming" />}
        {message.status !== "complete" && ended && <span class="dim"> — broke off</span>}
      </div>
      <Meta message={message} />
    </>
  );
}

const hasFold = (part: Json): boolean => typeof part === "string" && fold(part).cut;

/** `model · 1.5k → 200 · 1.2k cached · 3.1 s`, as far as it is known. */
function Meta({ message }: { message: Message }) {
  const { model, usage, tokens } = message;
  const took = message.role === "user" ? undefined : tookOf(message);
  const facts = [
    model ? visible(model) : "",
    usage
      ? `${short(usage.input_tokens ?? 0)} → ${short(usage.output_tokens ?? 0)}`
      : tokens
        ? `${short(tokens)} tok`
        : "",
    usage?.cache_read_tokens ? `${short(usage.cache_read_tokens)} cached` : "",
    message.cost ? cost(message.cost) : "",
    took ? duration(took) : "",
  ].filter(Boolean);
  const all = [tokens ? `${count(tokens)} tokens` : "", message.cost ? `$${message.cost}` : ""].filter(Boolean);
  return (
    <div class="meta used" title={all.join(" · ")}>
      {facts.map((fact, i) => (
        <span key={fact}>{i < facts.length - 1 ? `${fact} · ` : fact}</span>
      ))}
    </div>
  );
}

/** How long a message took, in ms, if that is known. */
function tookOf(message: Message): number | undefined {
  if (message.duration_ms !== undefined) return message.duration_ms;
  const ms = Date.parse(message.ended_at ?? "") - Date.parse(message.started_at ?? "");
  return ms > 0 ? ms : undefined;
}

function Tool(props: RowProps & { message: Message }) {
  const { item, message, ended, log } = props;
  const [open, toggle] = useFold(item, log);
  const failed = item.error;
  const { name, args, output, rest } = callOf(message, failed);
  const running = message.status !== "complete";
  const pictures = useMemo(() => (open ? [] : attachedTo(output).filter(isPicture)), [open, item.version]);
  const words = useContext(Finding);
  const shownText = () => `${name} ${args === undefined ? preview(output) : argsPreview(args)}`;
  useLayoutEffect(() => {
    if (!words.length || open) return; // the words of a row that nobody looks for are not made
    if (hides(words, wordsText(item), shownText())) toggle();
  }, [words]);
  return (
    <>
      <div class="call">
        <button class="line" aria-expanded={Boolean(open)} onClick={toggle}>
          <i aria-hidden="true" />
          <b>{visible(name)}</b>
          {!isEmpty(args ?? output ?? []) && (
            <span class="args">{args === undefined ? preview(output) : argsPreview(args)}</span>
          )}
        </button>
        <Contents of={pictures} />
        {failed && !open && <ErrorText error={errorOf(output, message)} />}
        {!open && <Snippet words={props.seek} text={() => wordsText(item)} shown={shownText} toggle={toggle} />}
        {open && (
          <div class="opened">
            {args !== undefined && !isEmpty(args) && <Block name="arguments" value={args} />}
            {output !== undefined && <Block name={failed ? "error" : "result"} value={output} bad={failed} />}
            {output === undefined && (
              <p class="dim">
                {running ? (ended ? "The run ended before this call returned." : "Running…") : "It returned nothing."}
              </p>
            )}
            {Object.keys(rest).length > 0 && <Block name="more" value={rest} />}
          </div>
        )}
      </div>
      <div class="meta state">
        <span class="size">{output === undefined || output === null ? "" : bytes(lengthOf(output))}</span>
        <span class="took">
          {running && !ended ? (
            <Lasting from={item.at} to={log.past ? log.state!.head.active_at : null} />
          ) : tookOf(message) === undefined ? (
            ""
          ) : (
            duration(tookOf(message)!)
          )}
        </span>
        <StateMark state={failed ? "failed" : running ? (ended ? "lost" : "running") : "completed"} />
      </div>
    </>
  );
}

const wordsText = (item: Item): string =>
  wordsOf(item)
    .map(({ text }) => text)
    .join("\n");

const AROUND = 60; // characters of a snippet on either side

interface SnippetProps {
  words: string; // that are looked for
  text: () => string; // of the row
  shown: () => string; // what its fold shows
  toggle: () => void;
}

/** What a search has found in the folded part of a row; it opens it. */
function Snippet({ words, text, shown, toggle }: SnippetProps) {
  if (!words) return null;
  const [all, seen] = [text(), shown()];
  const hidden = testsOf(words).find((word) => word.test(all) && !word.test(seen));
  const found = hidden?.exec(all);
  if (!found) return null;
  const [from, to] = [found.index, found.index + found[0].length];
  const before = all.slice(Math.max(0, from - AROUND), from);
  const after = all.slice(to, to + AROUND);
  return (
    <button class="link snippet" title="Open it" onClick={toggle}>
      {from > AROUND && "…"}
      {visible(before)}
      <mark>{visible(found[0])}</mark>
      {visible(after)}
      {to + AROUND < all.length && "…"}
    </button>
  );
}

const isEmpty = (value: Json): boolean => (Array.isArray(value) || isObject(value)) && !Object.keys(value).length;

function argsPreview(args: Json): string {
  if (!isObject(args)) return preview(args);
  const values = Object.entries(args);
  return values.length === 1 && typeof values[0]![1] === "string"
    ? preview(values[0]![1])
    : values
        .map(([key, value]) => `${key}: ${preview(value, 80)}`)
        .join("  ")
        .slice(0, 240);
}

function errorOf(output: Json | undefined, message: Message): Json {
  return output === undefined || output === true ? ((message as { error?: Json }).error ?? "failed") : output;
}

/** Roughly how many bytes a value has, with the content that it refers to. */
function lengthOf(value: Json): number {
  const attached = attachedIn(value);
  if (attached) return attached.bytes;
  if (typeof value === "string") return value.length;
  return JSON.stringify(value).length + attachedTo(value).reduce((sum, one) => sum + (one.blob ? one.bytes : 0), 0);
}

const EDITS = [
  ["old_string", "new_string"],
  ["old_str", "new_str"],
  ["oldText", "newText"],
] as const;

/** What a call replaces by what, as a diff, and its other arguments; null for one that replaces nothing. */
function editOf(args: Json): { diff: string; rest: Json } | null {
  if (!isObject(args)) return null;
  for (const [from, to] of EDITS) {
    const { [from]: before, [to]: after, ...rest } = args;
    if (typeof before === "string" && typeof after === "string") return { diff: replaced(before, after), rest };
  }
  return null;
}

function Block({ name, value, bad }: { name: string; value: Json; bad?: boolean }) {
  const edit = editOf(value);
  const words = useContext(Finding);
  const [open, setOpen] = useState(
    () => words.length > 0 && typeof value === "string" && hides(words, value, fold(value).text),
  );
  const parsed = typeof value === "string" ? asJson(value) : value;
  return (
    <div class="block">
      <h3>{visible(name)}</h3>
      <CopyValue value={value} what={name === "result" || name === "error" ? `the ${name}` : visible(name)} />
      {edit ? (
        <>
          {!isEmpty(edit.rest) && <JsonTree value={edit.rest} />}
          <pre class="term">
            <Diff text={edit.diff} />
          </pre>
        </>
      ) : bad && !open ? (
        <ErrorText error={value} />
      ) : typeof parsed === "string" ? (
        <Terminal text={parsed} open={open} toggle={() => setOpen(!open)} bad={bad} />
      ) : (
        <JsonTree value={parsed} />
      )}
    </div>
  );
}

function EventRow({ item, log, seek }: RowProps) {
  const [open, toggle] = useFold(item, log);
  const event = item.event!;
  switch (event.event) {
    case "sub_trace_started":
    case "sub_trace_completed":
      return <SubAgentRow item={item} event={event} log={log} />;
    case "trace_completed":
    case "trace_status_changed":
      return (
        <div class="body wide status">
          <StateMark state={event.status} />
          <b>{event.event === "trace_completed" ? `Run ${event.status}` : `Now ${event.status}`}</b>
          {typeof event.reason === "string" && <span>{visible(event.reason)}</span>}
          {event.error && <ErrorText error={event.error} />}
          {typeof event.summary === "string" && (
            <div class="below">
              <Prose text={event.summary} open={open} toggle={toggle} streaming={false} />
            </div>
          )}
        </div>
      );
    case "cancel_requested":
      return (
        <div class="body wide status">
          <StateMark state="stopped" quiet />
          <b>Cancel requested</b>{" "}
          <span class="dim">
            by <bdi>{visible(String(event.by ?? "somebody"))}</bdi>
          </span>{" "}
          <bdi>{visible(String(event.reason ?? ""))}</bdi>
        </div>
      );
    case "input_requested":
      return <QuestionRow event={event} log={log} />;
    default: {
      const payload = payloadOf(event);
      return (
        <div class="call">
          <button class="line" aria-expanded={Boolean(open)} onClick={toggle}>
            <i aria-hidden="true" />
            <span class="name">{visible(event.event)}</span>
            <span class="args">{argsPreview(payload)}</span>
          </button>
          {!open && (
            <Snippet
              words={seek}
              text={() => wordsText(item)}
              shown={() => `${event.event} ${argsPreview(payload)}`}
              toggle={toggle}
            />
          )}
          {open && (
            <div class="opened">
              <Payload value={payload} />
            </div>
          )}
        </div>
      );
    }
  }
}

/** A sub-agent: who, what, and how it is or how it ended. */
function SubAgentRow({ item, event, log }: { item: Item; event: NonNullable<Item["event"]>; log: TraceView }) {
  app.traces.version.value;
  const sub = log.state?.subTraces.get(event.sub_trace_id);
  const end = event.event === "sub_trace_completed" ? event : log.rows.outcomeOf(item);
  const live = log.past ? undefined : app.traces.byId.get(event.sub_trace_id); // newer than the parent's copy
  const status = live?.status ?? (end?.status as TraceStatus | undefined) ?? sub?.status ?? "running";
  const totals = live?.tree_totals ?? sub?.stats;
  const said = errorLine(end?.error ?? sub?.error) || String(end?.summary ?? "");
  const begun = sub?.started_at ?? item.at;
  const over = isEnded(status) || status === "lost";
  const until = over ? (sub?.ended_at ?? end?.ts ?? begun) : log.past ? log.state!.head.active_at : null;
  return (
    <>
      <div class="body wide sub">
        <StateMark state={status} />
        <a href={traceHref(event.sub_trace_id)}>{visible(sub?.agent_type ?? event.agent_type ?? "agent")}</a>
        <span class="words">
          {visible(String(sub?.task ?? event.task ?? ""))}{" "}
          {said && <span class={item.error ? "outcome bad" : "outcome"}>{visible(said)}</span>}
        </span>
      </div>
      <div class="meta">
        {begun && item.at && <Lasting from={begun} to={until} />}
        {totals?.total_cost
          ? `  ${cost(totals.total_cost)}`
          : totals?.total_tokens
            ? `  ${short(totals.total_tokens)} tok`
            : ""}
      </div>
    </>
  );
}

/** The payload of an event of another kind; a single text is shown as text. */
function Payload({ value }: { value: { [key: string]: Json } }) {
  const values = Object.values(value);
  return values.length === 1 && typeof values[0] === "string" ? (
    <Block name={Object.keys(value)[0]!} value={values[0]} />
  ) : (
    <div class="block">
      <CopyValue value={value} what="the event" />
      <JsonTree value={value} />
    </div>
  );
}

function QuestionRow({ event, log }: { event: NonNullable<Item["event"]>; log: TraceView }) {
  const answer = log.rows.outcomes.get(event.request_id);
  const open = log.state?.pendingInputs.has(event.request_id) ?? false;
  return (
    <div class="body wide asked">
      <StateMark state={open ? "waiting" : answer?.event === "input_provided" ? "completed" : "abandoned"} quiet />
      <span>
        <b>{visible(String(event.question))}</b>{" "}
        {answer?.event === "input_provided" ? (
          <span class="answer">
            {preview(answer.value, 400)}{" "}
            <span class="dim">
              by <bdi>{visible(String(answer.by ?? "somebody"))}</bdi>, {timeOfDay(answer.ts)}
            </span>
          </span>
        ) : answer ? (
          <span class="dim">expired unanswered</span>
        ) : open ? (
          <span class="waits">waits for an answer</span>
        ) : (
          <span class="dim">closed unanswered</span>
        )}
      </span>
    </div>
  );
}
