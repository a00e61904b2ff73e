// A question's JSON Schema as a form: its fields, and the value of what was entered. Pure.
//
// Rule 1: schemas come from agents and are not trusted. References are followed inside the schema only, and nothing is
//         opened deeper than MOST_DEPTH. A part that can't be a field is a text with JSON in it.
// Rule 2: faults that can be found here are reported here (a missing value, a text that is no number); the server
//         decides whether the value fits.

import { isObject, type Json } from "../net/protocol";

export type Schema = { [key: string]: Json };

const MOST_DEPTH = 8;
const MOST_PROPERTIES = 60;

interface Common {
  title: string | null;
  help: string; // description and limits
  start: Draft; // its first content
}

/** One of several fixed values. */
interface Choice {
  value: Json;
  label: string;
}

export type Field = Common &
  (
    | { kind: "text"; format: string; long: boolean }
    | { kind: "number"; whole: boolean }
    | { kind: "boolean" }
    | { kind: "choice"; choices: Choice[] }
    | { kind: "several"; choices: Choice[] } // any of them, none twice
    | { kind: "object"; fields: { name: string; field: Field; required: boolean }[] }
    | { kind: "list"; item: Field }
    | { kind: "either"; forms: { label: string; field: Field }[] }
    | { kind: "fixed"; value: Json }
    | { kind: "json" }
  );

/** The content of a field: a text, a tick, an index of choices, or the drafts below it. */
export type Draft = string | boolean | Draft[] | { [name: string]: Draft };

export interface Fault {
  path: string; // "value", "value.name", "value.name.0", as the server writes it
  message: string;
}

/** The form of a schema. */
export function fieldOf(schema: Json | undefined, root: Schema = isObject(schema) ? schema : {}, depth = 0): Field {
  const resolved = resolve(schema, root);
  if (!isObject(resolved) || depth > MOST_DEPTH) return { kind: "json", title: null, help: "", start: "" };
  const common = { title: typeof resolved.title === "string" ? resolved.title : null, help: helpOf(resolved) };
  const start = resolved.default;
  const choices = choicesOf(resolved);
  if (Object.hasOwn(resolved, "const")) return { ...common, kind: "fixed", value: resolved.const!, start: "" };
  if (choices) return { ...common, kind: "choice", choices, start: indexOf(choices, start) };
  const either = Array.isArray(resolved.oneOf) ? resolved.oneOf : Array.isArray(resolved.anyOf) ? resolved.anyOf : null;
  if (either)
    return eitherOf(
      either.map((one) => merged(resolved, one)),
      common,
      root,
      depth,
    );
  const types = Array.isArray(resolved.type) ? resolved.type : [resolved.type];
  if (types.length > 1)
    return eitherOf(
      types.map((type) => ({ ...resolved, type: type!, title: null })),
      common,
      root,
      depth,
    );
  switch (types[0]) {
    case "string":
      return {
        ...common,
        kind: "text",
        format: typeof resolved.format === "string" ? resolved.format : "",
        long: isLong(resolved),
        start: typeof start === "string" ? start : "",
      };
    case "number":
    case "integer":
      return {
        ...common,
        kind: "number",
        whole: types[0] === "integer",
        start: typeof start === "number" ? String(start) : "",
      };
    case "boolean":
      return { ...common, kind: "boolean", start: start === true };
    case "null":
      return { ...common, kind: "fixed", value: null, start: "" };
    case "object":
      return objectOf(resolved, common, root, depth);
    case "array":
      return listOf(resolved, common, root, depth);
  }
  if (isObject(resolved.properties)) return objectOf(resolved, common, root, depth);
  return { ...common, kind: "json", start: start === undefined ? "" : JSON.stringify(start, null, 2) };
}

type Shared = Pick<Common, "title" | "help">;

function objectOf(schema: Schema, common: Shared, root: Schema, depth: number): Field {
  const properties = isObject(schema.properties) ? Object.entries(schema.properties) : [];
  if (!properties.length || properties.length > MOST_PROPERTIES) return { ...common, kind: "json", start: "{}" };
  const required = new Set(Array.isArray(schema.required) ? schema.required : []);
  const given = isObject(schema.default) ? schema.default : {};
  const fields = properties.map(([name, one]) => {
    const below = Object.hasOwn(given, name) && isObject(one) ? { ...one, default: given[name]! } : one;
    return { name, field: fieldOf(below, root, depth + 1), required: required.has(name) };
  });
  return {
    ...common,
    kind: "object",
    fields,
    start: Object.fromEntries(fields.map(({ name, field }) => [name, field.start])),
  };
}

function listOf(schema: Schema, common: Shared, root: Schema, depth: number): Field {
  if (schema.items === undefined || Array.isArray(schema.items) || schema.prefixItems !== undefined)
    return { ...common, kind: "json", start: "[]" };
  const item = fieldOf(schema.items, root, depth + 1);
  const given = Array.isArray(schema.default) ? schema.default : [];
  if (item.kind === "choice" && schema.uniqueItems === true) {
    return {
      ...common,
      kind: "several",
      choices: item.choices,
      start: given.map((value) => indexOf(item.choices, value)).filter(Boolean),
    };
  }
  const least = typeof schema.minItems === "number" ? Math.min(schema.minItems, 10) : 0;
  const items = given.map((value) =>
    isObject(schema.items) ? fieldOf({ ...schema.items, default: value }, root, depth + 1).start : item.start,
  );
  while (items.length < least) items.push(item.start);
  return { ...common, kind: "list", item, start: items };
}

function eitherOf(forms: Json[], common: Shared, root: Schema, depth: number): Field {
  const fields = forms.map((one) => fieldOf(one, root, depth + 1));
  if (fields.length === 1) return { ...fields[0]!, help: common.help || fields[0]!.help };
  const label = (field: Field, i: number) =>
    field.title ??
    (field.kind === "fixed"
      ? words(field.value)
      : isObject(forms[i]!) && typeof (forms[i] as Schema).type === "string"
        ? String((forms[i] as Schema).type)
        : `form ${i + 1}`);
  return {
    ...common,
    kind: "either",
    forms: fields.map((field, i) => ({ label: label(field, i), field })),
    start: ["0", fields[0]?.start ?? ""],
  };
}

/** The schema that a reference stands for, and of `allOf` its parts in one. */
function resolve(schema: Json | undefined, root: Schema, left = 20): Json | undefined {
  if (!isObject(schema) || left <= 0) return schema;
  if (typeof schema.$ref === "string") {
    const { $ref, ...beside } = schema;
    const found = pointer(root, $ref as string);
    return isObject(found) ? resolve({ ...found, ...beside }, root, left - 1) : {};
  }
  if (Array.isArray(schema.allOf)) {
    const { allOf, ...beside } = schema;
    return resolve(
      (allOf as Json[]).reduce<Schema>((all, part) => merged(all, resolve(part, root, left - 1) ?? {}), beside),
      root,
      left - 1,
    );
  }
  return schema;
}

function pointer(root: Schema, ref: string): Json | undefined {
  if (ref !== "#" && !ref.startsWith("#/")) return undefined;
  let at: Json | undefined = root;
  for (const part of ref.split("/").slice(1)) {
    const key = part.replaceAll("~1", "/").replaceAll("~0", "~");
    at = (isObject(at) || Array.isArray(at)) && Object.hasOwn(at, key) ? (at as Schema)[key] : undefined;
  }
  return at;
}

function merged(one: Schema, other: Json): Schema {
  if (!isObject(other)) return one;
  const { oneOf: _o, anyOf: _a, ...rest } = one;
  const all: Schema = { ...rest, title: null, ...other };
  if (isObject(one.properties) && isObject(other.properties))
    all.properties = { ...one.properties, ...other.properties };
  if (Array.isArray(one.required) && Array.isArray(other.required)) all.required = [...one.required, ...other.required];
  return all;
}

/** The fixed values of an `enum`, or of a `oneOf` whose forms are constants. */
function choicesOf(schema: Schema): Choice[] | null {
  if (Array.isArray(schema.enum)) return schema.enum.map((value) => ({ value, label: words(value) }));
  const forms = Array.isArray(schema.oneOf) ? schema.oneOf : Array.isArray(schema.anyOf) ? schema.anyOf : [];
  if (!forms.length || !forms.every((one) => isObject(one) && Object.hasOwn(one, "const"))) return null;
  return (forms as Schema[]).map((one) => ({
    value: one.const!,
    label: typeof one.title === "string" ? one.title : words(one.const!),
  }));
}

const words = (value: Json): string => (typeof value === "string" ? value : JSON.stringify(value));
const isLong = (schema: Schema): boolean =>
  schema.format === "textarea" ||
  schema.format === "markdown" ||
  (typeof schema.maxLength === "number" && schema.maxLength > 200);

function indexOf(choices: Choice[], value: Json | undefined): string {
  const i = choices.findIndex((one) => JSON.stringify(one.value) === JSON.stringify(value));
  return i < 0 ? "" : String(i);
}

/** The help of a field: its description and its limits. */
function helpOf(schema: Schema): string {
  const number = (name: string) => (typeof schema[name] === "number" ? (schema[name] as number) : null);
  const parts: string[] = [];
  const range = (least: number | null, most: number | null, unit: string) => {
    if (least !== null && most !== null) parts.push(least === most ? `${least}${unit}` : `${least} to ${most}${unit}`);
    else if (least !== null && least > -Infinity) parts.push(`at least ${least}${unit}`);
    else if (most !== null) parts.push(`at most ${most}${unit}`);
  };
  range(number("minimum"), number("maximum"), "");
  if (number("exclusiveMinimum") !== null) parts.push(`above ${number("exclusiveMinimum")}`);
  if (number("exclusiveMaximum") !== null) parts.push(`below ${number("exclusiveMaximum")}`);
  if (number("multipleOf") !== null) parts.push(`a multiple of ${number("multipleOf")}`);
  const least = number("minLength");
  range(least === 1 ? null : least, number("maxLength"), " characters");
  range(number("minItems"), number("maxItems"), " entries");
  if (typeof schema.pattern === "string") parts.push(`like ${schema.pattern.slice(0, 80)}`);
  const format =
    typeof schema.format === "string" && !["textarea", "markdown"].includes(schema.format) ? schema.format : "";
  if (format && !["date", "time", "date-time"].includes(format)) parts.push(format);
  return [typeof schema.description === "string" ? schema.description : "", parts.join(", ")]
    .filter(Boolean)
    .join(" · ");
}

/** The value of a field's content; its faults are added to `faults`. Undefined for an empty field. */
export function valueIn(
  field: Field,
  draft: Draft,
  required: boolean,
  faults: Fault[],
  path = "value",
): Json | undefined {
  const wrong = (message: string): undefined => void faults.push({ path, message });
  switch (field.kind) {
    case "fixed":
      return field.value;
    case "boolean":
      return draft === true;
    case "text": {
      const text = typeof draft === "string" ? draft : "";
      if (text === "") return required && field.format ? wrong("is needed") : required ? "" : undefined;
      return field.format === "date-time" ? zoned(text) : text;
    }
    case "number": {
      const text = typeof draft === "string" ? draft.trim().replace(",", ".") : "";
      if (text === "") return required ? wrong("is needed") : undefined;
      const n = Number(text);
      return Number.isFinite(n) && (!field.whole || Number.isInteger(n))
        ? n
        : wrong(field.whole ? "a whole number is needed" : "a number is needed");
    }
    case "choice":
      return draft === ""
        ? required
          ? wrong("one of the choices is needed")
          : undefined
        : field.choices[Number(draft)]?.value;
    case "several":
      return (draft as Draft[]).map((i) => field.choices[Number(i)]!.value);
    case "object": {
      // A part that may be left out, and that nobody has touched
      if (!required && JSON.stringify(draft) === JSON.stringify(field.start)) return undefined;
      const drafts = draft as { [name: string]: Draft };
      const entries: [string, Json][] = [];
      for (const one of field.fields) {
        const value = valueIn(
          one.field,
          drafts[one.name] ?? one.field.start,
          one.required,
          faults,
          `${path}.${one.name}`,
        );
        if (value !== undefined && (one.required || !isEmpty(one.field, value))) entries.push([one.name, value]);
      }
      return Object.fromEntries(entries);
    }
    case "list":
      return (draft as Draft[]).map((one, i) => valueIn(field.item, one, true, faults, `${path}.${i}`) ?? null);
    case "either": {
      const [at, inner] = draft as [string, Draft];
      return valueIn(field.forms[Number(at)]!.field, inner, required, faults, path);
    }
    case "json":
      return jsonOf(draft as string, required, wrong);
  }
}

/** Nothing was put into it, so it may be left out where it is not required. */
function isEmpty(field: Field, value: Json): boolean {
  if (field.kind === "list" || field.kind === "several") return Array.isArray(value) && !value.length;
  return field.kind === "boolean" && value === false;
}

function jsonOf(text: string, required: boolean, wrong: (message: string) => undefined): Json | undefined {
  if (text.trim() === "") return required ? wrong("is needed") : undefined;
  try {
    return JSON.parse(text) as Json;
  } catch (error) {
    return wrong(`is no JSON: ${(error as Error).message}`);
  }
}

/** A local time of day on a date with its zone, in UTC. */
function zoned(text: string): string {
  const time = new Date(text);
  return Number.isNaN(time.getTime()) ? text : time.toISOString();
}
