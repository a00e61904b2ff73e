// What the server refused, said where it was asked for.

import type { ApiError } from "../api";
import { token } from "../auth";
import { visible } from "../format";
import { COMMAND, tokenOpen } from "./token";

export function Refused({ error, to }: { error: ApiError; to: string }) {
  if (error.status !== 403) return <p class="fault" role="alert">{visible(error.words)}</p>;
  return (
    <p class="fault" role="alert">
      {token.value === null ? `This page may not ${to} here: ${visible(error.message)}` : <>This tab's token may not {to}: that takes one with the scope <b>control</b> (<code>{COMMAND}</code>). <button type="button" class="link" onClick={() => (tokenOpen.value = true)}>Use another token</button></>}
    </p>
  );
}
