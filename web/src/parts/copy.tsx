// The two buttons that copy something as text or as Markdown.

import { copy } from "../app";
import type { Form } from "../log/transcript";
import type { Json } from "../net/protocol";
import { Later } from "./later";

export const transcripts = new Later(() => import("../log/transcript"));

const WORDS: Record<Form, string> = { text: "as text", markdown: "as Markdown" };

/** `of` gives what is copied, `what` names it. */
export function CopyAs({ of, what }: { of: (form: Form) => string | Promise<string>; what: string }) {
  return (
    <>
      {(Object.keys(WORDS) as Form[]).map((form) => (
        <button key={form} class="link" title={`Copy ${what} ${WORDS[form]}`} onClick={() => copyAs(of, form, what)}>
          {WORDS[form]}
        </button>
      ))}
    </>
  );
}

export const copyAs = (of: (form: Form) => string | Promise<string>, form: Form, what: string): Promise<void> =>
  copy(of(form), `${what} ${WORDS[form]}`);

/** Copies one value: a text as it is, others as JSON. */
export function CopyValue({ value, what }: { value: Json; what: string }) {
  const text = () => (typeof value === "string" ? value : JSON.stringify(value, null, 2));
  return (
    <button class="link copyit" title={`Copy ${what}`} onClick={() => copy(text(), what)}>
      Copy
    </button>
  );
}
