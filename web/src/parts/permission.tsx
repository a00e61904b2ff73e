// A question by which an agent asks leave: all that is to be allowed, who asks and since when, and two equal answers.
//
// Rule 1: nothing of what would be allowed is cut, folded or laid out so that a part of it looks like something else.
//         What can't be seen in it (control characters, marks that turn the direction) is written out.
// Rule 2: no answer is the default: none is focused, first in line for a key, or larger.

import { ago, count, fullTime, visible } from "../format";
import { isObject, type Json, type PendingInput } from "../net/protocol";
import { now } from "./clock";

/** What an agent asks leave for, as protocol.md says. */
interface Permission {
  tool: string;
  input: { [key: string]: Json } | null; // null: too large to be shown
  agent: string;
  cwd: string | null;
  source: string;
}

const text = (value: Json | undefined): string | null => (typeof value === "string" && value !== "" ? value : null);

/** The leave that a question asks for; null for any other question. */
export function permissionOf(asked: PendingInput): Permission | null {
  const given = asked.permission;
  if (!isObject(given)) return null;
  return {
    tool: text(given.tool) ?? "a tool",
    input: isObject(given.input) ? given.input : null,
    agent: text(given.agent) ?? "an agent",
    cwd: text(given.cwd),
    source: text(given.source) ?? "",
  };
}

/** Whether the question is one with options of its own, and not whether to allow something. */
export const isChoice = (permission: Permission): boolean => permission.tool === "AskUserQuestion";

/** What is asked, whole. */
export function Asked({ asked, permission }: { asked: PendingInput; permission: Permission }) {
  const { agent, cwd, tool, input } = permission;
  return (
    <div class="permission">
      <p class="dim">
        <b>{visible(agent)}</b> asks
        {cwd && (
          <>
            {" "}
            in <code>{visible(cwd)}</code>
          </>
        )}
        , since{" "}
        <span class="num" title={fullTime(asked.requested_at)}>
          {ago(Math.max(0, now.value - Date.parse(asked.requested_at)))}
        </span>
      </p>
      {isChoice(permission) ? <Choices input={input} /> : <Input tool={tool} input={input} />}
    </div>
  );
}

function Input({ tool, input }: { tool: string; input: Permission["input"] }) {
  if (input === null) return <p>What {visible(tool)} would be given is too large to be shown here.</p>;
  return (
    <dl>
      {Object.entries(input).map(([name, value]) => (
        <Part key={name} name={name} value={value} />
      ))}
    </dl>
  );
}

function Part({ name, value }: { name: string; value: Json }) {
  const words = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  const lines = words.split("\n").length;
  return (
    <>
      <dt>
        {visible(name)}
        {lines > 15 && <span class="dim"> · {count(lines)} lines</span>}
      </dt>
      <dd>
        <pre tabIndex={lines > 15 ? 0 : undefined}>{visible(words)}</pre>
      </dd>
    </>
  );
}

function Choices({ input }: { input: Permission["input"] }) {
  const questions = Array.isArray(input?.questions) ? input.questions.filter(isObject) : [];
  return (
    <>
      {questions.map((question, i) => (
        <ul key={i}>
          {(Array.isArray(question.options) ? question.options : []).filter(isObject).map((option, j) => (
            <li key={j}>
              <b>{visible(text(option.label) ?? "")}</b> {visible(text(option.description) ?? "")}
            </li>
          ))}
        </ul>
      ))}
    </>
  );
}

interface DecideProps {
  busy: boolean;
  whole: boolean; // all of the question is here
  answer: (value: Json) => void;
  children: preact.ComponentChildren;
}

/** The two answers, and that neither is taken back. */
export function Decide({ busy, whole, answer, children }: DecideProps) {
  return (
    <>
      <div class="decide" role="group" aria-label="Answers">
        <button disabled={busy || !whole} onClick={() => answer("allow")}>
          Allow
        </button>
        <button disabled={busy || !whole} onClick={() => answer("deny")}>
          Deny
        </button>
      </div>
      <p class="dim last">
        {whole ? "It can't be undone. The terminal asks, too: whoever is first is heard." : "Loading all of it…"}
        {children}
      </p>
    </>
  );
}
