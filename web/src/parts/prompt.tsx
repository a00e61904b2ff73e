// The panel of what a model call was asked: model, use and cost, params, tools, and the whole input, with what is new
// in it since the call before.

import { useEffect, useMemo, useState } from "preact/hooks";
import { cost, count, counted, visible } from "../format";
import { wasSent } from "../log/prompt";
import { fetchPrompt } from "../net/api";
import { isObject, type Json, type Message, type Prompt as Whole } from "../net/protocol";
import { OfTrace } from "./contents";
import { JsonTree } from "./json";

const SHOWN = 30; // items drawn at first: the newest
const LONG = 2000; // characters of a text before it is folded
const PARTS = [
  ["input_tokens", "input"],
  ["cache_read_tokens", "from cache"],
  ["cache_write_tokens", "to cache"],
  ["output_tokens", "output"],
  ["reasoning_tokens", "reasoning"],
] as const;

export function Prompt({ traceId, message }: { traceId: string; message: Message }) {
  const [whole, setWhole] = useState<Whole | null>(null);
  const [fault, setFault] = useState("");
  const request = message.request;
  useEffect(() => {
    let over = false;
    setWhole(null);
    setFault("");
    fetchPrompt(traceId, message.message_id).then(
      ({ prompt }) => over || (prompt ? setWhole(prompt) : setFault("The log no longer has this call.")),
      (error: Error) => over || setFault(error.message),
    );
    return () => {
      over = true;
    };
  }, [traceId, message.message_id]);
  const sent = useMemo(() => (request ? wasSent(request) : []), [request]);
  if (!request) return null;
  return (
    <section class="prompt block" aria-label="Prompt">
      <h3>prompt</h3>
      <Use message={message} />
      {fault && <p class="fault">{fault}</p>}
      {!whole && !fault && <p class="dim small">Reading it …</p>}
      {whole && (
        <OfTrace.Provider value={traceId}>
          {whole.lost.length > 0 && (
            <p class="fault">The trace no longer has {counted(whole.lost.length, "part")} of it.</p>
          )}
          {whole.exact === false && !whole.lost.length && (
            <p class="fault">A message in it was changed after the call.</p>
          )}
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
          {whole.input && <Input items={whole.input} sent={sent} />}
        </OfTrace.Provider>
      )}
    </section>
  );
}

function Use({ message }: { message: Message }) {
  const parts = PARTS.filter(([key]) => message.usage?.[key]).map(
    ([key, name]) => `${count(message.usage![key]!)} ${name}`,
  );
  if (!parts.length && message.tokens) parts.push(counted(message.tokens, "token"));
  const said = [
    ...(message.model ? [visible(message.model)] : []),
    ...parts,
    ...(message.cost === undefined ? [] : [cost(message.cost)]),
  ];
  return said.length ? <p class="num small">{said.join(" · ")}</p> : null;
}

function Input({ items, sent }: { items: Json[]; sent: boolean[] }) {
  const [most, setMost] = useState(SHOWN);
  const first = Math.max(0, items.length - most);
  const fresh = items.length - sent.filter(Boolean).length;
  return (
    <>
      <p class="dim small">
        {counted(items.length, "item")}
        {sent.some(Boolean) && `, ${count(fresh)} new since the call before`}
      </p>
      {first > 0 && (
        <button class="link" onClick={() => setMost(most + 10 * SHOWN)}>
          {count(first)} before
        </button>
      )}
      <ol class="asked" start={first + 1}>
        {items.slice(first).map((item, index) => (
          <Asked key={first + index} item={item} fresh={!sent[first + index] && sent.some(Boolean)} />
        ))}
      </ol>
    </>
  );
}

function Asked({ item, fresh }: { item: Json; fresh: boolean }) {
  const [open, setOpen] = useState(false);
  const text = textOf(item);
  const name = isObject(item) ? (item.role ?? item.type) : null;
  return (
    <li class={fresh ? "fresh" : undefined}>
      <span class="who">{typeof name === "string" ? visible(name) : "text"}</span>
      {fresh && <span class="new">new</span>}
      {text === null ? (
        <JsonTree value={item} />
      ) : (
        <pre>
          {visible(open ? text : text.slice(0, LONG))}
          {!open && text.length > LONG && (
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
