// Asking an agent to stop. It is a request: the run ends when the agent says so, or at once where it is gone.

import { useState } from "preact/hooks";
import { say } from "../app";
import { visible } from "../format";
import { type ApiError, cancelTrace } from "../net/api";
import { me } from "../net/auth";
import type { Trace } from "../net/protocol";
import { Dialog } from "./dialog";
import { Refused } from "./token";

export function Cancel({ trace, close }: { trace: Trace; close: () => void }) {
  const [reason, setReason] = useState("");
  const [fault, setFault] = useState<ApiError | null>(null);
  async function send(event: Event): Promise<void> {
    event.preventDefault();
    try {
      const { status } = await cancelTrace(trace.trace_id, me.value, reason.trim());
      say(status === "stopped" ? "Stopped" : "Cancel requested");
      close();
    } catch (error) {
      setFault(error as ApiError);
    }
  }
  return (
    <Dialog title="Cancel this run?" close={close}>
      <form onSubmit={send} class="cancel">
        <p>{visible(trace.task)}</p>
        <label>
          Why, for the agent and for whoever reads this later
          <input type="text" value={reason} onInput={(event) => setReason(event.currentTarget.value)} autoFocus />
        </label>
        {fault && <Refused error={fault} to="cancel" />}
        <div class="options">
          <button type="button" onClick={close}>
            Let it run
          </button>
          <button class="danger">Cancel the run</button>
        </div>
      </form>
    </Dialog>
  );
}
