// The two buttons that copy something as text or as Markdown.

import { copy } from "../app";
import type { Form } from "../log/transcript";
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
