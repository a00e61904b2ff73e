// The inspector: the raw event behind a row, read from the log itself, with buttons to copy it or a link to it.

import { useEffect, useState } from "preact/hooks";
import { copy } from "../app";
import { counted } from "../format";
import { timeOf } from "../log/fold";
import type { Item } from "../log/rows";
import { type Form, rowAs } from "../log/transcript";
import type { TraceView } from "../log/view";
import { timesOf } from "../log/words";
import { fetchEvent } from "../net/api";
import type { Json, StoredEvent } from "../net/protocol";
import { traceHref, wholeLink } from "../net/route";
import { OfTrace } from "./contents";
import { CopyAs, copyAs } from "./copy";
import { JsonTree } from "./json";
import { useKeys } from "./keys";
import { Prompt } from "./prompt";

/** How long it took, in ms, until the first of a message was there; null where that is not known. */
function firstOf({ rows }: TraceView, { message, at }: Item): number | null {
  const begin = rows.begins.get(message!.message_id);
  return begin && at ? Math.max(0, Date.parse(timeOf(begin)) - Date.parse(message!.started_at ?? at)) : null;
}

export function Inspector({
  traceId,
  log,
  item,
  close,
  step,
}: {
  traceId: string;
  log: TraceView;
  item: Item;
  close: () => void;
  step: (by: 1 | -1) => void;
}) {
  const id = Math.floor(item.id);
  const [event, setEvent] = useState<StoredEvent | null>(null);
  const [fault, setFault] = useState("");
  useEffect(() => {
    let over = false;
    setFault("");
    fetchEvent(traceId, id).then(
      (found) => over || (found ? setEvent(found) : setFault("The log no longer has this event.")),
      (error: Error) => over || setFault(error.message),
    );
    return () => {
      over = true;
    };
  }, [traceId, id]);
  const as = (form: Form) => rowAs(log, item, form);
  const what = item.message ? "the message" : "the event";
  useKeys("Inspector", [
    { keys: "y", does: "Copy a link to the event", run: () => copy(link, "a link to this event") },
    { keys: "T", does: "Copy it as text", run: () => copyAs(as, "text", what) },
    { keys: "M", does: "Copy it as Markdown", run: () => copyAs(as, "markdown", what) },
    { keys: "Y", does: "Copy the event", run: () => event && copy(JSON.stringify(event, null, 2), "the event") },
  ]);
  const link = wholeLink(traceHref(traceId, { event: String(id) }));
  return (
    <aside class="inspector" aria-label="Inspector">
      <div class="panehead">
        <h2 class="num">Event {id}</h2>
        <span class="grow" />
        <button class="quiet" aria-label="Event before" title="Before" onClick={() => step(-1)}>
          ↑
        </button>
        <button class="quiet" aria-label="Next event" title="Next" onClick={() => step(1)}>
          ↓
        </button>
        <button class="quiet icon" aria-label="Close" title="Close (Esc)" onClick={close}>
          ✕
        </button>
      </div>
      <div class="scroll">
        <p class="copies">
          Copy <CopyAs of={as} what={what} />
          <button class="link" disabled={!event} onClick={() => copy(JSON.stringify(event, null, 2), "the event")}>
            the raw event
          </button>
          <button class="link" onClick={() => copy(link, "a link to this event")}>
            a link
          </button>
        </p>
        <p class="dim small">
          {timesOf(item).join(" · ")}
          {item.message && item.version > 0
            ? ` · then updated ${counted(item.version, "time")}; as it now stands:`
            : ""}
        </p>
        {(item.message?.request || item.message?.usage) && (
          <Prompt traceId={traceId} message={item.message} first={firstOf(log, item)} />
        )}
        {item.message && item.version > 0 && (
          <div class="block">
            <OfTrace.Provider value={traceId}>
              <JsonTree value={item.message as unknown as Json} />
            </OfTrace.Provider>
          </div>
        )}
        {fault && <p class="fault">{fault}</p>}
        {event && event.event_id === id && (
          <div class="block">
            <h3>stored event</h3>
            <OfTrace.Provider value={traceId}>
              <JsonTree value={event as unknown as Json} />
            </OfTrace.Provider>
          </div>
        )}
      </div>
    </aside>
  );
}
