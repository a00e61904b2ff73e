// The inspector: the raw event behind a row, read from the log itself, with buttons to copy it or a link to it.

import { useEffect, useState } from "preact/hooks";
import { copy } from "../app";
import { counted, fullTime } from "../format";
import type { Item } from "../log/rows";
import { fetchEvent } from "../net/api";
import type { Json, StoredEvent } from "../net/protocol";
import { traceHref, wholeLink } from "../net/route";
import { JsonTree } from "./json";
import { useKeys } from "./keys";

export function Inspector({
  traceId,
  item,
  close,
  step,
}: {
  traceId: string;
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
  useKeys("Inspector", [
    { keys: "y", does: "Copy a link to the event", run: () => copy(link, "a link to this event") },
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
        <button class="quiet" disabled={!event} onClick={() => copy(JSON.stringify(event, null, 2), "the event")}>
          Copy
        </button>
        <button class="quiet" onClick={() => copy(link, "a link to this event")}>
          Link
        </button>
        <button class="quiet icon" aria-label="Close" title="Close (Esc)" onClick={close}>
          ✕
        </button>
      </div>
      <div class="scroll">
        <p class="dim small">
          {fullTime(item.at)}
          {item.message && item.version > 0
            ? ` · then updated ${counted(item.version, "time")}; as it now stands:`
            : ""}
        </p>
        {item.message && item.version > 0 && (
          <div class="block">
            <JsonTree value={item.message as unknown as Json} />
          </div>
        )}
        {fault && <p class="fault">{fault}</p>}
        {event && event.event_id === id && (
          <div class="block">
            <h3>stored event</h3>
            <JsonTree value={event as unknown as Json} />
          </div>
        )}
      </div>
    </aside>
  );
}
