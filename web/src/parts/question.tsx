// An open question: what is asked, by when, and the means to answer it in place.

import { useState } from "preact/hooks";
import { answerInput, ApiError } from "../api";
import { say } from "../app";
import { now } from "../clock";
import { isObject } from "../fold";
import { clock, visible } from "../format";
import type { Json, PendingInput } from "../types";
import { preview } from "./json";

interface Props {
  traceId: string;
  asked: PendingInput;
  of?: preact.ComponentChildren; // whose question it is, where that is not clear
}

export function Question({ traceId, asked, of }: Props) {
  const [busy, setBusy] = useState(false);
  const [fault, setFault] = useState("");
  const [closed, setClosed] = useState("");

  async function answer(value: Json): Promise<void> {
    setBusy(true);
    setFault("");
    try {
      await answerInput(traceId, asked.request_id, value);
      setClosed("Answered");
      say("Answer sent");
    } catch (error) {
      const { status, code, message } = error as ApiError;
      if (code === "not_running") setClosed("The run ended before the answer arrived");
      else if (status === 409) setClosed("Somebody else has answered already");
      else if (status === 410) setClosed("It expired before the answer arrived");
      else setFault(message);
      setBusy(false);
    }
  }

  return (
    <section class="question" aria-label={`Question: ${asked.question}`}>
      <header>
        <span class="mark is-waiting" aria-hidden="true">?</span>
        <b>{visible(asked.question)}</b>
        <span class="grow" />
        {of}
        {asked.expires_at && <Expiry at={asked.expires_at} />}
      </header>
      {closed ? <p class="dim">{closed}</p> : <Form asked={asked} busy={busy} answer={answer} />}
      {fault && <p class="fault" role="alert">{visible(fault)}</p>}
    </section>
  );
}

function Expiry({ at }: { at: string }) {
  const left = Date.parse(at) - now.value;
  return <span class={`num expiry${left < 60_000 ? " soon" : ""}`}>{left > 0 ? `expires in ${clock(left)}` : "expired"}</span>;
}

interface FormProps { asked: PendingInput; busy: boolean; answer: (value: Json) => void }

function Form({ asked, busy, answer }: FormProps) {
  const options = Array.isArray(asked.options) ? asked.options : null;
  if (options?.length) {
    return (
      <div class="options">
        {options.map((option, i) => <button key={i} disabled={busy} onClick={() => answer(option)}>{preview(option, 200)}</button>)}
      </div>
    );
  }
  const schema = isObject(asked.schema) ? asked.schema : {};
  if (Array.isArray(schema.enum)) return <Form asked={{ ...asked, options: schema.enum }} busy={busy} answer={answer} />;
  if (schema.type === "boolean") {
    return <div class="options"><button disabled={busy} onClick={() => answer(true)}>Yes</button><button disabled={busy} onClick={() => answer(false)}>No</button></div>;
  }
  if (schema.type === "object" && isObject(schema.properties)) return <ObjectForm schema={schema} busy={busy} answer={answer} />;
  return <SingleForm schema={schema} busy={busy} answer={answer} />;
}

type Schema = { [key: string]: Json };

function SingleForm({ schema, busy, answer }: { schema: Schema; busy: boolean; answer: (value: Json) => void }) {
  const [text, setText] = useState("");
  const [fault, setFault] = useState("");
  function send(event: Event): void {
    event.preventDefault();
    const value = read(text, schema);
    if (value === undefined) setFault(wants(schema));
    else answer(value);
  }
  return (
    <form onSubmit={send}>
      <Field schema={schema} text={text} set={setText} label="Your answer" />
      <button class="main" disabled={busy || !text}>Answer</button>
      {fault && <p class="fault" role="alert">{fault}</p>}
    </form>
  );
}

function ObjectForm({ schema, busy, answer }: { schema: Schema; busy: boolean; answer: (value: Json) => void }) {
  const properties = Object.entries(schema.properties as Schema).map(([name, value]) => [name, isObject(value) ? value : {}] as const);
  const required = new Set(Array.isArray(schema.required) ? schema.required : []);
  const [texts, setTexts] = useState<Record<string, string>>({});
  const [fault, setFault] = useState("");
  function send(event: Event): void {
    event.preventDefault();
    setFault("");
    const value: Schema = {};
    for (const [name, one] of properties) {
      const text = texts[name] ?? (one.type === "boolean" ? "false" : "");
      if (text === "" && !required.has(name)) continue;
      const read_ = read(text, one);
      if (read_ === undefined || (text === "" && one.type !== "string")) return setFault(`${name}: ${wants(one)}`);
      value[name] = read_;
    }
    answer(value);
  }
  return (
    <form onSubmit={send} class="fields">
      {properties.map(([name, one]) => (
        <label key={name}>
          <span>{visible(typeof one.title === "string" ? one.title : name)}{required.has(name) && <i title="required"> *</i>}</span>
          <Field schema={one} text={texts[name] ?? ""} set={(text) => setTexts({ ...texts, [name]: text })} label={name} />
          {typeof one.description === "string" && <small>{visible(one.description)}</small>}
        </label>
      ))}
      <button class="main" disabled={busy}>Answer</button>
      {fault && <p class="fault" role="alert">{visible(fault)}</p>}
    </form>
  );
}

function Field({ schema, text, set, label }: { schema: Schema; text: string; set: (text: string) => void; label: string }) {
  if (Array.isArray(schema.enum)) {
    return (
      <select aria-label={label} value={text} onChange={(event) => set(event.currentTarget.value)}>
        <option value="" />
        {schema.enum.map((value, i) => <option key={i} value={typeof value === "string" ? value : JSON.stringify(value)}>{preview(value)}</option>)}
      </select>
    );
  }
  if (schema.type === "boolean") return <input type="checkbox" aria-label={label} checked={text === "true"} onChange={(event) => set(String(event.currentTarget.checked))} />;
  const number = schema.type === "number" || schema.type === "integer";
  return <input type="text" inputMode={number ? "decimal" : "text"} aria-label={label} value={text} onInput={(event) => set(event.currentTarget.value)} />;
}

/** What was typed as a value of the schema; undefined if it is none. The server has the last word. */
function read(text: string, schema: Schema): Json | undefined {
  if (Array.isArray(schema.enum)) return schema.enum.find((value) => (typeof value === "string" ? value : JSON.stringify(value)) === text);
  switch (schema.type) {
    case "number":
    case "integer": {
      const n = Number(text.trim().replace(",", "."));
      return text.trim() === "" || !Number.isFinite(n) || (schema.type === "integer" && !Number.isInteger(n)) ? undefined : n;
    }
    case "boolean":
      return text === "true";
    case "array":
    case "object":
      try {
        return JSON.parse(text) as Json;
      } catch {
        return undefined;
      }
    default:
      return text;
  }
}

function wants(schema: Schema): string {
  if (schema.type === "integer") return "a whole number";
  if (schema.type === "number") return "a number";
  if (Array.isArray(schema.enum)) return "one of the choices";
  return schema.type === "array" || schema.type === "object" ? "JSON" : "an answer";
}
