// Open questions: the question, its time limit, and the means to answer in place.
//
// Rule: text that a person has typed stays on the page, even if somebody else has answered meanwhile, or the question
//       has expired.

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { copy, say } from "../app";
import { clock, count, fullTime, visible } from "../format";
import { type ApiError, answerInput, fetchInput, fetchQuestion, type Outcome } from "../net/api";
import { callMe, me } from "../net/auth";
import { isObject, type Json, type PendingInput } from "../net/protocol";
import { now } from "./clock";
import { FieldRow } from "./form";
import { useInside } from "./inside";
import { preview } from "./json";
import { Damaged } from "./marks";
import { Asked, Decide, isChoice, permissionOf } from "./permission";
import { type Draft, type Fault, fieldOf, valueIn } from "./schema";
import { Refused } from "./token";

export interface OpenQuestion {
  traceId: string;
  asked: PendingInput;
  of?: preact.ComponentChildren; // whose question it is, where that is not clear
  brief?: boolean; // one among others: a large form opens on request
}

const keyOf = ({ traceId, asked }: OpenQuestion): string => `${traceId}/${asked.request_id}`;

/**
 * Open questions, and closed ones in which somebody has typed an answer that was not sent. While the pointer or the
 * focus is among them they stay where they are, so that a click answers the question that was pointed at: those that
 * close stay as closed, and what is new is counted.
 */
export function Questions({ asked }: { asked: OpenQuestion[] }) {
  const [typed, setTyped] = useState<ReadonlyMap<string, OpenQuestion>>(new Map());
  const box = useRef<HTMLDivElement>(null);
  const inside = useInside(box, true);
  const held = useRef<OpenQuestion[] | null>(null);
  const [, again] = useState(0);
  const open = new Set(asked.map(keyOf));
  const touch = (one: OpenQuestion, has: boolean) =>
    setTyped((before) => {
      if (before.has(keyOf(one)) === has) return before;
      const next = new Map(before);
      if (has) next.set(keyOf(one), one);
      else next.delete(keyOf(one));
      return next;
    });
  const gone = [...typed.values()].filter((one) => !open.has(keyOf(one)));
  const mine = useRef(new Set<string>()).current; // answered here
  const left = (held.current ?? []).filter((one) => open.has(keyOf(one)) || !mine.has(keyOf(one)));
  if (!inside || !left.length) held.current = [...gone, ...asked];
  const shown = held.current!;
  const known = new Set(shown.map(keyOf));
  const more = asked.filter((one) => !known.has(keyOf(one))).length;
  const current = new Map(asked.map((one) => [keyOf(one), one]));
  const put = (one: OpenQuestion) => {
    held.current = held.current!.filter((other) => other !== one);
    touch(one, false);
    again((n) => n + 1);
  };
  return (
    <div ref={box} class="questions">
      {more > 0 && (
        <button
          class="float more"
          onClick={() => {
            held.current = null;
            again((n) => n + 1);
          }}
        >
          {count(more)} more {more === 1 ? "question" : "questions"}
        </button>
      )}
      {shown.map((one) => (
        <Question
          key={keyOf(one)}
          {...(current.get(keyOf(one)) ?? one)}
          gone={!open.has(keyOf(one))}
          typed={(has) => touch(one, has)}
          kept={typed.has(keyOf(one))}
          sent={() => {
            mine.add(keyOf(one));
            again((n) => n + 1); // it may be closed already
          }}
          dismiss={() => put(one)}
        />
      ))}
    </div>
  );
}

interface QuestionProps extends OpenQuestion {
  gone: boolean;
  typed: (has: boolean) => void;
  kept: boolean; // whether something was typed
  sent: () => void;
  dismiss: () => void;
}

/** A question, whole. A large snapshot has a preview of it. */
function useWhole(traceId: string, given: PendingInput): PendingInput {
  const [whole, setWhole] = useState<PendingInput | null>(null);
  useEffect(() => {
    if (given.cut) fetchQuestion(traceId, given.request_id).then(setWhole, () => undefined);
  }, [given.request_id, given.cut === undefined]);
  return whole ?? given;
}

function Question({ traceId, asked: given, of, brief, gone, typed, kept, sent: answered, dismiss }: QuestionProps) {
  const asked = useWhole(traceId, given);
  const [busy, setBusy] = useState(false);
  const [fault, setFault] = useState<ApiError | null>(null);
  const [outcome, setOutcome] = useState<Outcome | null>(null);
  const sent = useRef(false);
  const permission = permissionOf(asked);
  const over = gone || outcome !== null;
  const box = useRef<HTMLDivElement>(null);
  const height = useRef(0); // px, while it was open: what stands below a closed one does not move up
  useLayoutEffect(() => {
    if (!over) height.current = box.current!.offsetHeight;
  });

  useEffect(() => {
    if (!gone || outcome || sent.current) return;
    fetchInput(traceId, asked.request_id).then(setOutcome, () => setOutcome({ state: "closed" }));
  }, [gone]);

  async function answer(value: Json): Promise<void> {
    setBusy(true);
    setFault(null);
    try {
      await answerInput(traceId, asked.request_id, value, me.value);
      sent.current = true;
      answered();
      typed(false);
      setOutcome({ state: "answered", value, by: me.value });
      say("Answer sent");
    } catch (error) {
      const refused = error as ApiError;
      if (refused.status === 409 || refused.status === 410)
        setOutcome(await fetchInput(traceId, asked.request_id).catch(() => ({ state: "closed" }) as Outcome));
      else setFault(refused);
    }
    setBusy(false);
  }

  return (
    <div
      ref={box}
      role="group"
      tabIndex={permission ? -1 : undefined}
      class={`question${over ? " over" : ""}${permission ? " leave" : ""}`}
      style={over && !kept ? { minHeight: `${height.current}px` } : undefined}
      aria-label={`Question: ${visible(asked.question)}`}
    >
      <header>
        <span class="mark is-waiting" aria-hidden="true">
          ?
        </span>
        <b dir="auto">{visible(asked.question)}</b>
        {asked.damaged && <Damaged />}
        <span class="grow" />
        {of}
        {asked.expires_at && !over && <Expiry at={asked.expires_at} />}
      </header>
      {permission && <Asked asked={asked} permission={permission} />}
      {outcome && <Told outcome={outcome} mine={sent.current} kept={kept} />}
      {!(outcome && sent.current) && (
        <Answering asked={asked} brief={brief} busy={busy} over={over} fault={fault} answer={answer} typed={typed} />
      )}
      {fault && !(isForm(asked) && fault.code === "invalid_value" && fault.details.length) && (
        <Refused error={fault} to="answer" />
      )}
      {over && !sent.current && (
        <button class="link" onClick={dismiss}>
          Dismiss
        </button>
      )}
    </div>
  );
}

/** The outcome of a question, and who answered. */
function Told({ outcome, mine, kept }: { outcome: Outcome; mine: boolean; kept: boolean }) {
  const words =
    outcome.state === "expired"
      ? "It expired before an answer arrived."
      : outcome.state === "answered"
        ? ""
        : "The run ended before an answer arrived.";
  return (
    <p role="status">
      {words || (outcome.by === "terminal" && !mine) ? (
        words || <AtTerminal value={outcome.value} />
      ) : (
        <>
          {mine ? (
            "Answered: "
          ) : (
            <>
              <b>{visible(outcome.by ?? "Somebody")}</b> has answered:{" "}
            </>
          )}
          <span class="answer">{preview(outcome.value, 400)}</span>
        </>
      )}
      {kept && " Yours was not sent; it is kept here."}
    </p>
  );
}

/** What was decided at the agent's own terminal, as far as it is known. */
function AtTerminal({ value }: { value?: Json }) {
  const known = { allow: "Allowed", deny: "Denied" }[String(value)];
  if (known) return <>{known} at the terminal.</>;
  return value === null || value === undefined ? (
    <>Left to the terminal, or answered there.</>
  ) : (
    <>
      Answered at the terminal: <span class="answer">{preview(value, 400)}</span>
    </>
  );
}

function Expiry({ at }: { at: string }) {
  const left = Date.parse(at) - now.value;
  return (
    <span class={`num expiry${left < 60_000 ? " soon" : ""}`} title={fullTime(at)}>
      {left > 0 ? `expires in ${clock(left)}` : "expired"}
    </span>
  );
}

interface AnsweringProps {
  asked: PendingInput;
  brief?: boolean;
  busy: boolean;
  over: boolean;
  fault: ApiError | null;
  answer: (value: Json) => void;
  typed: (has: boolean) => void;
}

/** The possible answers, as words and values; null where they can't be listed. */
function optionsOf({ options, schema }: PendingInput): [string, Json][] | null {
  const values =
    Array.isArray(options) && options.length
      ? options
      : isObject(schema) && Array.isArray(schema.enum)
        ? schema.enum
        : null;
  if (values) return values.map((value) => [preview(value, 200), value]);
  return isObject(schema) && schema.type === "boolean"
    ? [
        ["Yes", true],
        ["No", false],
      ]
    : null;
}

const isForm = (asked: PendingInput): boolean => optionsOf(asked) === null;

function Answering(props: AnsweringProps) {
  const { asked, busy, over, brief, answer } = props;
  const [open, setOpen] = useState(!brief || !isObject(asked.schema) || !isObject(asked.schema.properties));
  const options = optionsOf(asked);
  if (asked.answerable === "terminal")
    return over ? null : <p class="dim">Only the agent's own terminal can answer this.</p>;
  const permission = permissionOf(asked);
  if (permission && !isChoice(permission))
    return over ? null : (
      <Decide busy={busy} whole={asked.cut === undefined && permission.input !== null} answer={answer}>
        <As />
      </Decide>
    );
  if (options) return over ? null : <Options values={options} busy={busy} answer={answer} />;
  return open ? (
    <SchemaForm {...props} />
  ) : (
    <div class="options">
      <button onClick={() => setOpen(true)}>Answer…</button>
    </div>
  );
}

function Options({ values, busy, answer }: { values: [string, Json][]; busy: boolean; answer: (value: Json) => void }) {
  return (
    <div class="options" role="group" aria-label="Answers">
      {values.map(([words, value], i) => (
        <button key={i} disabled={busy} onClick={() => answer(value)}>
          {words}
        </button>
      ))}
      <As />
    </div>
  );
}

const ANYTHING = { type: "string", maxLength: 100_000 };

function SchemaForm({ asked, busy, over, fault, answer, typed }: AnsweringProps) {
  const free = !isObject(asked.schema) || !Object.keys(asked.schema).length;
  const form = useMemo(() => (free ? { ...fieldOf(ANYTHING), help: "" } : fieldOf(asked.schema)), [asked.request_id]);
  const [draft, setDraft] = useState<Draft>(form.start);
  const [asJson, setAsJson] = useState<string | null>(null); // written by hand instead
  const [own, setOwn] = useState<Fault[]>([]);
  const box = useRef<HTMLFormElement>(null);
  const told = useMemo(
    () => (fault?.details ?? []).flatMap(({ path, message }) => (path && message ? [{ path, message }] : [])),
    [fault],
  );
  const field = asJson === null ? form : ({ kind: "json", title: "Your answer as JSON", help: "", start: "" } as const);
  const faults = own.length ? own : told;
  // A fault without a field of its own is shown at the nearest field that contains it, in the end at the form
  const placed = useMemo(
    () =>
      faults.map((one) => ({
        ...one,
        path: asJson === null ? nearest(one.path, paths(form, draft)) : "value",
        message:
          one.path === nearest(one.path, paths(form, draft))
            ? one.message
            : `${one.path.replace(/^value\./, "")}: ${one.message}`,
      })),
    [faults],
  );

  useEffect(() => {
    if (placed.length) box.current?.querySelector<HTMLElement>("[aria-invalid=true]")?.focus();
  }, [placed]);

  const change = (to: Draft) => {
    if (asJson === null) setDraft(to);
    else setAsJson(to as string);
    setOwn([]);
    typed(true);
  };
  function send(event: Event): void {
    event.preventDefault();
    const found: Fault[] = [];
    const value = valueIn(field, asJson ?? draft, true, found);
    setOwn(found);
    if (!found.length && value !== undefined) answer(value);
  }
  function byHand(): void {
    const value = valueIn(form, draft, true, []);
    setAsJson(asJson === null ? JSON.stringify(value ?? null, null, 2) : null);
    setOwn([]);
  }
  const typing = asJson ?? draft;
  return (
    <form
      ref={box}
      onSubmit={send}
      noValidate
      onKeyDown={(event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && box.current!.requestSubmit()}
    >
      <fieldset class="whole" disabled={over}>
        <FieldRow field={field} draft={typing} set={change} name="Your answer" required path="value" faults={placed} />
      </fieldset>
      <div class="options">
        {over ? (
          typeof typing === "string" && (
            <button type="button" onClick={() => copy(typing, "what you typed")}>
              Copy what I typed
            </button>
          )
        ) : (
          <>
            <button class="main" disabled={busy || (free && !draft)}>
              {busy ? "Sending…" : "Answer"}
            </button>
            {!free && form.kind !== "json" && (
              <button type="button" class="quiet" onClick={byHand}>
                {asJson === null ? "as JSON" : "as a form"}
              </button>
            )}
            <As />
          </>
        )}
      </div>
    </form>
  );
}

/** The paths of all fields as they stand. */
function paths(field: ReturnType<typeof fieldOf>, draft: Draft, path = "value"): string[] {
  if (field.kind === "object")
    return [
      path,
      ...field.fields.flatMap((one) =>
        paths(one.field, (draft as { [name: string]: Draft })[one.name] ?? one.field.start, `${path}.${one.name}`),
      ),
    ];
  if (field.kind === "list")
    return [path, ...(draft as Draft[]).flatMap((one, i) => paths(field.item, one, `${path}.${i}`))];
  if (field.kind === "either")
    return paths(field.forms[Number((draft as [string])[0])]!.field, (draft as Draft[])[1]!, path);
  return [path];
}

function nearest(path: string, known: string[]): string {
  let at = path;
  while (at.includes(".") && !known.includes(at)) at = at.slice(0, at.lastIndexOf("."));
  return known.includes(at) ? at : "value";
}

/** The name under which the person answers. */
function As() {
  return (
    <label class="as">
      as{" "}
      <input
        type="text"
        value={me.value}
        maxLength={256}
        aria-label="Your name, kept with the answer"
        onChange={(event) => callMe(event.currentTarget.value)}
      />
    </label>
  );
}
