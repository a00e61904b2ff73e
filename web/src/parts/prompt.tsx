// The panel of what a model call was asked: model, use and cost, the whole input, with what is new in it since the call
// before, params and tools. What repeats at its beginning is one line until it is asked for.

import { useEffect, useMemo, useState } from "preact/hooks";
import { cost, count, counted, duration, visible } from "../format";
import { wasSent } from "../log/prompt";
import { fetchPrompt } from "../net/api";
import { isObject, type Json, type Message, type Prompt as Whole } from "../net/protocol";
import { OfTrace } from "./contents";
import { CopyValue } from "./copy";
import { JsonTree } from "./json";

const SHOWN = 30; // items drawn at first: the newest
const LONG = 2000; // characters of a text that is folded, if
const REST = 400; // it has so many more

interface PromptProps {
  traceId: string;
  message: Message;
  first: number | null; // ms to the first token
}

export function Prompt({ traceId, message, first }: PromptProps) {
  const [whole, setWhole] = useState<Whole | null>(null);
  const [fault, setFault] = useState("");
  const request = message.request;
  useEffect(() => {
    let over = false;
    setWhole(null);
    setFault("");
    if (!request) return;
    fetchPrompt(traceId, message.message_id).then(
      ({ prompt }) => over || (prompt ? setWhole(prompt) : setFault("The log no longer has this call.")),
      (error: Error) => over || setFault(error.message),
    );
    return () => {
      over = true;
    };
  }, [traceId, message.message_id, !request]);
  const sent = useMemo(() => (request ? wasSent(request) : []), [request]);
  return (
    <section class="prompt block" aria-label={request ? "Prompt" : "Use"}>
      <h3>{request ? "prompt" : "use"}</h3>
      <Use message={message} first={first} />
      {fault && <p class="fault">{fault}</p>}
      {request && !whole && !fault && <p class="dim small">Reading it …</p>}
      {whole && (
        <OfTrace.Provider value={traceId}>
          {whole.lost.length > 0 && (
            <p class="fault">The trace no longer has {counted(whole.lost.length, "part")} of it.</p>
          )}
          {whole.exact === false && !whole.lost.length && (
            <p class="fault">A message in it was changed after the call.</p>
          )}
          {whole.input && <Input items={whole.input} sent={sent} />}
          {whole.params !== undefined && (
            <details>
              <summary>params</summary>
              <JsonTree value={whole.params} />
            </details>
          )}
          {whole.tools && (
            <details>
              <summary>{counted(whole.tools.length, "tool")} offered</summary>
              <JsonTree value={whole.tools} />
            </details>
          )}
        </OfTrace.Provider>
      )}
    </section>
  );
}

/** The parts of a call's use: those of the input and the output that are counted by themselves are taken out. */
export function partsOf({ usage = {} }: Pick<Message, "usage">): [name: string, tokens: number, look: string][] {
  const { input_tokens = 0, output_tokens = 0 } = usage;
  const { cache_read_tokens: read = 0, cache_write_tokens: written = 0, reasoning_tokens: thought = 0 } = usage;
  const parts: [string, number, string][] = [
    ["input", Math.max(0, input_tokens - read - written), "fresh"],
    ["from cache", read, "read"],
    ["to cache", written, "written"],
    ["reasoning", thought, "thought"],
    ["output", Math.max(0, output_tokens - thought), "output"],
  ];
  return parts.filter(([, tokens]) => tokens > 0);
}

function Use({ message, first }: { message: Message; first: number | null }) {
  const parts = partsOf(message);
  const { model, tokens, duration_ms, started_at, ended_at } = message;
  const took = duration_ms ?? Date.parse(ended_at ?? "") - Date.parse(started_at ?? "");
  const said = [
    ...(model ? [visible(model)] : []),
    ...(!parts.length && tokens ? [counted(tokens, "token")] : []),
    ...(message.cost === undefined ? [] : [cost(message.cost)]),
    ...(took > 0 ? [duration(took)] : []),
    ...(first === null ? [] : [`first token after ${duration(first)}`]),
  ];
  return (
    <>
      {said.length > 0 && <p class="num small">{said.join(" · ")}</p>}
      {parts.length > 0 && (
        <>
          <div class="usage" aria-hidden="true">
            {parts.map(([name, n, look]) => (
              <i key={name} class={look} style={{ flexGrow: n }} />
            ))}
          </div>
          <p class="num small usagewords">
            {parts.map(([name, n, look]) => (
              <span key={name}>
                <i class={look} aria-hidden="true" />
                {count(n)} {name}
              </span>
            ))}
          </p>
        </>
      )}
    </>
  );
}

function Input({ items, sent }: { items: Json[]; sent: boolean[] }) {
  const before = sent.findIndex((was) => !was);
  const repeats = before < 0 ? Math.min(sent.length, items.length) : before;
  const [all, setAll] = useState(false);
  const [most, setMost] = useState(SHOWN);
  const from = all ? 0 : repeats < items.length ? repeats : 0;
  const first = Math.max(from, items.length - most);
  const any = sent.some(Boolean);
  const fresh = items.length - sent.filter(Boolean).length;
  return (
    <>
      <p class="dim small">
        {counted(items.length, "item")}
        {any && `, ${count(fresh)} new since the call before`}
      </p>
      {from > 0 && (
        <button class="link asbefore" aria-expanded={false} onClick={() => setAll(true)}>
          {counted(from, "item")} as before
        </button>
      )}
      {first > from && (
        <button class="link" onClick={() => setMost(most + 10 * SHOWN)}>
          {count(first - from)} before
        </button>
      )}
      <ol class="asked" start={first + 1}>
        {items.slice(first).map((item, index) => (
          <Asked key={first + index} item={item} fresh={!sent[first + index] && any} />
        ))}
      </ol>
    </>
  );
}

function Asked({ item, fresh }: { item: Json; fresh: boolean }) {
  const [open, setOpen] = useState(false);
  const text = textOf(item);
  const cut = text !== null && !open && text.length > LONG + REST;
  const name = isObject(item) ? (item.role ?? item.type) : null;
  return (
    <li class={fresh ? "fresh" : undefined}>
      <span class="who">{typeof name === "string" ? visible(name) : "text"}</span>
      {fresh && <span class="new">new</span>}
      <CopyValue value={text ?? item} what="this part of the prompt" />
      {text === null ? (
        <JsonTree value={item} />
      ) : (
        <pre>
          {visible(cut ? text.slice(0, LONG) : text)}
          {cut && (
            <button class="link" onClick={() => setOpen(true)}>
              … {count(text.length - LONG)} more
            </button>
          )}
        </pre>
      )}
    </li>
  );
}

/** The text of an item that says nothing else; null for one that is shown as a tree. */
function textOf(item: Json): string | null {
  if (typeof item === "string") return item;
  if (!isObject(item) || Object.keys(item).some((key) => !TEXT_KEYS.has(key))) return null;
  const content = item.content ?? item.parts ?? item.output;
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return null;
  const texts = content.map((part) =>
    isObject(part) && Object.keys(part).every((key) => key === "type" || key === "text") ? part.text : null,
  );
  return texts.every((text) => typeof text === "string") ? texts.join("\n") : null;
}
const TEXT_KEYS = new Set(["role", "type", "content", "parts", "output", "name", "tool_call_id", "call_id"]);
