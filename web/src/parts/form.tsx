// The form for a question's schema: each kind of field with its help and its faults.

import { useId } from "preact/hooks";
import { visible } from "../format";
import type { Draft, Fault, Field } from "./schema";

interface FieldProps {
  field: Field;
  draft: Draft;
  set: (draft: Draft) => void;
  name: string;
  required: boolean;
  path: string;
  faults: readonly Fault[];
  first?: boolean; // takes the keyboard when it is drawn
}

const INPUTS: Record<string, string> = {
  email: "email",
  uri: "url",
  date: "date",
  time: "time",
  "date-time": "datetime-local",
};
const asArray = (draft: Draft): Draft[] => (Array.isArray(draft) ? draft : []);

/** A field with its label, to any depth. */
export function FieldRow(props: FieldProps) {
  const { field, name, required, path, faults } = props;
  const id = useId();
  const own = faults.filter((fault) => fault.path === path);
  const label = (
    <>
      {visible(field.title ?? name)}
      {required && field.kind !== "boolean" && field.kind !== "fixed" && (
        <i class="must" aria-hidden="true">
          {" "}
          *
        </i>
      )}
    </>
  );
  const below = (
    <>
      {field.help && <small id={`${id}-help`}>{visible(field.help)}</small>}
      {own.map((fault, i) => (
        <p key={i} id={`${id}-fault`} class="fault" role="alert">
          {visible(fault.message)}
        </p>
      ))}
    </>
  );
  const described = [field.help && `${id}-help`, own.length && `${id}-fault`].filter(Boolean).join(" ") || undefined;
  if (field.kind === "object" || field.kind === "list" || field.kind === "several" || field.kind === "either") {
    return (
      <fieldset class="part" aria-describedby={described} data-path={path}>
        <legend>{label}</legend>
        {below}
        <Group {...props} field={field} />
      </fieldset>
    );
  }
  return (
    <div class={`field is-${field.kind}`}>
      <label for={id}>{label}</label>
      <Input {...props} id={id} described={described} invalid={own.length > 0} />
      {below}
    </div>
  );
}

type GroupField = Extract<Field, { kind: "object" | "list" | "several" | "either" }>;

function Group(props: FieldProps & { field: GroupField }) {
  const { field, draft, set, name, path, faults } = props;
  switch (field.kind) {
    case "object": {
      const drafts = draft as { [name: string]: Draft };
      return (
        <div class="fields">
          {field.fields.map((one) => (
            <FieldRow
              key={one.name}
              field={one.field}
              name={one.name}
              required={one.required}
              path={`${path}.${one.name}`}
              faults={faults}
              draft={drafts[one.name] ?? one.field.start}
              set={(to) => set({ ...drafts, [one.name]: to })}
            />
          ))}
        </div>
      );
    }
    case "several": {
      const picked = asArray(draft);
      return (
        <div class="ticks">
          {field.choices.map((choice, i) => (
            <label key={i} class="tick">
              <input
                type="checkbox"
                checked={picked.includes(String(i))}
                onChange={(event) =>
                  set(event.currentTarget.checked ? [...picked, String(i)] : picked.filter((one) => one !== String(i)))
                }
              />
              {visible(choice.label)}
            </label>
          ))}
        </div>
      );
    }
    case "list": {
      const items = asArray(draft);
      return (
        <div class="fields">
          {items.map((one, i) => (
            <div class="entry" key={i}>
              <FieldRow
                field={{ ...field.item, title: field.item.title ?? `${name} ${i + 1}` }}
                name={`${name} ${i + 1}`}
                required
                path={`${path}.${i}`}
                faults={faults}
                draft={one}
                set={(to) => set(items.map((other, at) => (at === i ? to : other)))}
              />
              <button
                type="button"
                class="quiet"
                aria-label={`Remove ${name} ${i + 1}`}
                onClick={() => set(items.filter((_, at) => at !== i))}
              >
                Remove
              </button>
            </div>
          ))}
          <button type="button" class="quiet add" onClick={() => set([...items, field.item.start])}>
            + Add{items.length ? " another" : ""}
          </button>
        </div>
      );
    }
    case "either": {
      const [at, inner] = draft as [string, Draft];
      const chosen = field.forms[Number(at)]!;
      return (
        <div class="fields">
          <div class="shows" role="group" aria-label={`What kind of ${name}`}>
            {field.forms.map((form, i) => (
              <button
                key={i}
                type="button"
                aria-pressed={String(i) === at}
                onClick={() => String(i) === at || set([String(i), form.field.start])}
              >
                {visible(form.label)}
              </button>
            ))}
          </div>
          {chosen.field.kind !== "fixed" && (
            <FieldRow
              key={at}
              field={chosen.field}
              name={chosen.label}
              required
              path={path}
              faults={faults}
              draft={inner}
              set={(to) => set([at, to])}
            />
          )}
        </div>
      );
    }
  }
}

function Input({
  field,
  draft,
  set,
  id,
  described,
  invalid,
  required,
  first,
}: FieldProps & { id: string; described?: string; invalid: boolean }) {
  const text = typeof draft === "string" ? draft : "";
  const common = { id, "aria-describedby": described, "aria-invalid": invalid || undefined, autoFocus: first };
  switch (field.kind) {
    case "boolean":
      return (
        <input
          {...common}
          type="checkbox"
          checked={draft === true}
          onChange={(event) => set(event.currentTarget.checked)}
        />
      );
    case "fixed":
      return <output {...common}>{visible(JSON.stringify(field.value))}</output>;
    case "choice":
      return (
        <select {...common} value={text} required={required} onChange={(event) => set(event.currentTarget.value)}>
          <option value="">{required ? "choose…" : "none"}</option>
          {field.choices.map((choice, i) => (
            <option key={i} value={String(i)}>
              {visible(choice.label)}
            </option>
          ))}
        </select>
      );
    case "number":
      return (
        <input
          {...common}
          type="text"
          inputMode={field.whole ? "numeric" : "decimal"}
          autoComplete="off"
          required={required}
          value={text}
          onInput={(event) => set(event.currentTarget.value)}
        />
      );
    case "json":
      return (
        <textarea
          {...common}
          class="mono"
          rows={4}
          spellcheck={false}
          value={text}
          onInput={(event) => set(event.currentTarget.value)}
        />
      );
    case "text":
      if (field.long)
        return (
          <textarea
            {...common}
            rows={3}
            required={required}
            value={text}
            onInput={(event) => set(event.currentTarget.value)}
          />
        );
      return (
        <input
          {...common}
          type={(INPUTS[field.format] ?? "text") as "text"}
          step={field.format === "date-time" || field.format === "time" ? 1 : undefined}
          autoComplete="off"
          required={required}
          value={text}
          onInput={(event) => set(event.currentTarget.value)}
        />
      );
    default:
      return null;
  }
}
