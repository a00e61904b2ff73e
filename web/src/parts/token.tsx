// The token that this server wants: the dialog that asks for it and forgets it, and the message for a token that was
// not enough.

import { signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { copy } from "../app";
import { clock, visible } from "../format";
import { type ApiError, tryToken } from "../net/api";
import { aside, forget, give, isToken, token, wanted } from "../net/auth";
import { keepsValues } from "../net/storage";
import { serverNow } from "../net/time";
import { now } from "./clock";
import { Dialog } from "./dialog";

export const COMMAND = "tracewatch token create --scope read --scope control";

/** Whether the dialog was opened by hand, to see or change the token of this tab. */
export const tokenOpen = signal(false);

export function TokenDialog() {
  const asked = wanted.value !== null && !aside.value;
  if (!asked && !tokenOpen.value) return null;
  const close = () => {
    tokenOpen.value = false;
    if (wanted.peek() !== null) aside.value = true;
  };
  return (
    <Dialog title={asked ? "This server wants a token" : "This tab's token"} close={close} class="token">
      {asked && <p class="why">{visible(wanted.value!)}</p>}
      {!asked && token.value !== null && (
        <p>Tabs of this server share it while one of them is open; it goes with the last.</p>
      )}
      <TokenForm close={close} />
    </Dialog>
  );
}

function TokenForm({ close }: { close: () => void }) {
  const [text, setText] = useState("");
  const [fault, setFault] = useState("");
  const [until, setUntil] = useState(0); // ms; when the server listens again
  const [busy, setBusy] = useState(false);
  const left = until ? until - now.value : 0;

  async function send(event: Event): Promise<void> {
    event.preventDefault();
    const given = text.trim();
    if (!isToken(given)) return setFault("That is no token: it is one word of at least 8 letters, digits and signs.");
    setBusy(true);
    setFault("");
    try {
      await tryToken(given);
      give(given);
      close();
    } catch (error) {
      const { status, message, retryAfterS } = error as ApiError;
      setFault(status === 401 ? `The server does not take it: ${message}` : message);
      setUntil(retryAfterS ? serverNow() + retryAfterS * 1000 : 0);
    }
    setBusy(false);
  }

  return (
    <form onSubmit={send}>
      {!keepsValues() && <p class="dim">This browser keeps no data of sites: a reload asks for it again.</p>}
      <p class="dim">
        A token lets this page read what agents do and, with the scope <code>control</code>, answer and cancel. On the
        machine of the server, this makes one:
      </p>
      <div class="lines">
        <pre tabIndex={0} role="group" aria-label="The command">
          {COMMAND}
        </pre>
        <button type="button" class="quiet" onClick={() => copy(COMMAND, "the command")}>
          Copy
        </button>
      </div>
      <label>
        Token
        <input
          type="password"
          autoComplete="off"
          spellcheck={false}
          value={text}
          autoFocus
          aria-invalid={Boolean(fault)}
          aria-describedby="token-fault"
          onInput={(event) => setText(event.currentTarget.value)}
        />
      </label>
      <p id="token-fault" class="fault" role="alert">
        {visible(fault)}
      </p>
      {left > 0 && <p class="num dim">It can be tried again in {clock(left + 999)}.</p>}
      <div class="options">
        {token.value !== null && (
          <button type="button" class="danger" onClick={forget}>
            Forget token
          </button>
        )}
        <span class="grow" />
        <button type="button" onClick={close}>
          Not now
        </button>
        <button class="main" disabled={busy || !text || left > 0}>
          {busy ? "Asking…" : "Use it"}
        </button>
      </div>
    </form>
  );
}

/** The server's refusal, shown at the button that was pressed. */
export function Refused({ error, to }: { error: ApiError; to: string }) {
  if (error.status !== 403)
    return (
      <p class="fault" role="alert">
        {visible(error.words)}
      </p>
    );
  return (
    <p class="fault" role="alert">
      {token.value === null ? (
        `This page may not ${to} here: ${visible(error.message)}`
      ) : (
        <>
          This tab's token may not {to}: that takes one with the scope <b>control</b> (<code>{COMMAND}</code>).{" "}
          <button type="button" class="link" onClick={() => (tokenOpen.value = true)}>
            Use another token
          </button>
        </>
      )}
    </p>
  );
}
