// What a model call was asked, put together from the messages of its trace: as tracewatch/model/prompt.py does it, for
// a page without a server. The shared vectors (tests/model/prompts.json) say what it gives.

import { isObject, type Json, type Message, type Prompt, type Request } from "../net/protocol";

type Messages = ReadonlyMap<string, Pick<Message, "role" | "content" | "sequence" | "request">>;
type ListName = "input" | "tools";
type Fields = { [key: string]: Json };

const MOST_STEPS = 300_000;
const REFERENCE = { input: "input_of", tools: "tools_of" } as const;

/** The key that makes an item a reference; "" for one that is itself. */
function kindOf(item: Json, name: ListName): string {
  if (!isObject(item)) return "";
  return ["message_id", "value", "list_of", REFERENCE[name], "refused"].find((key) => key in item) ?? "";
}

/** How many items of the whole an item stands for. */
export function countOf(item: Json, name: ListName): number {
  const kind = kindOf(item, name);
  const fields = item as Fields;
  if (kind === "list_of" || kind === REFERENCE[name]) return Number(fields.to) - Number(fields.from ?? 0);
  return kind === "refused" ? Number(fields.count ?? 1) : 1;
}

/** For each item of the whole input whether an earlier call was sent it as well. */
export function wasSent(request: Request): boolean[] {
  return (request.input ?? []).flatMap((item) =>
    new Array<boolean>(countOf(item, "input")).fill(kindOf(item, "input") === REFERENCE.input),
  );
}

export function assemble(messages: Messages, messageId: string): Prompt | null {
  const message = messages.get(messageId);
  const request = message?.request;
  if (!message || !request) return null;
  const prompt: Prompt = { exact: null, lost: [] };
  if (request.params !== undefined) prompt.params = request.params;
  else if (request.params_of !== undefined) {
    const params = messages.get(request.params_of)?.request?.params;
    if (params === undefined) prompt.lost.push("params");
    else prompt.params = params;
  }
  for (const name of ["tools", "input"] as const) {
    const items = request[name];
    if (!Array.isArray(items)) continue;
    const { values, lost } = new List(messages, name).whole(items, message.sequence);
    prompt[name] = values;
    prompt.lost.push(...lost.map((index) => `${name}.${index}`));
  }
  return prompt;
}

class List {
  private readonly values: Json[] = [];
  private readonly lost = new Set<number>();
  private steps = 0;

  constructor(
    private readonly messages: Messages,
    private readonly name: ListName,
  ) {}

  whole(items: Json[], sequence: number): { values: Json[]; lost: number[] } {
    const count = items.reduce<number>((sum, item) => sum + countOf(item, this.name), 0);
    this.values.push(...new Array<Json>(count).fill(null));
    this.take(items, sequence, 0, 0, count);
    return { values: this.values, lost: [...this.lost].sort((a, b) => a - b) };
  }

  private lose(first: number, end: number): void {
    for (let at = first; at < end; at++) this.lost.add(at);
  }

  /** Puts in the items `first` to `end` of a call's list, from `at` on, and those of the calls that it names. */
  private take(items: Json[], sequence: number, at: number, first: number, end: number): void {
    const waiting = [{ items, sequence, at, first, end }];
    for (let part = waiting.pop(); part; part = waiting.pop()) {
      let place = 0;
      for (const item of part.items) {
        if (++this.steps > MOST_STEPS) throw new Error("This prompt leads through too many earlier calls");
        const begin = place;
        place += countOf(item, this.name);
        const low = Math.max(begin, part.first);
        const high = Math.min(place, part.end);
        if (low >= high) continue;
        const to = part.at + low - part.first;
        const kind = kindOf(item, this.name);
        const fields = item as Fields;
        const origin = Number(fields?.from ?? 0) + low - begin;
        if (kind === REFERENCE[this.name]) {
          const named = this.messages.get(String(fields[kind]));
          const list = named?.request?.[this.name];
          if (!named || !Array.isArray(list) || named.sequence >= part.sequence) this.lose(to, to + high - low);
          else waiting.push({ items: list, sequence: named.sequence, at: to, first: origin, end: origin + high - low });
        } else if (kind === "list_of") this.fromList(String(fields.list_of), to, origin, origin + high - low);
        else if (kind === "refused") this.lose(to, to + high - low);
        else if (kind) this.put(fields, to);
        else this.values[to] = item;
      }
      if (part.end > place)
        this.lose(part.at + Math.max(place, part.first) - part.first, part.at + part.end - part.first);
    }
  }

  private fromList(messageId: string, at: number, first: number, end: number): void {
    const items = parsed(this.messages.get(messageId)?.content);
    if (!Array.isArray(items) || items.length < end) this.lose(at, at + end - first);
    else for (let index = first; index < end; index++) this.values[at + index - first] = items[index]!;
  }

  private put(item: Fields, at: number): void {
    if ("message_id" in item) {
      const message = this.messages.get(String(item.message_id));
      if (message) this.values[at] = { role: message.role, content: message.content };
      else this.lose(at, at + 1);
      return;
    }
    const holder: Json[] = [structuredClone(item.value ?? null)];
    for (const [pointer, part] of Object.entries((item.parts ?? {}) as { [pointer: string]: Fields })) {
      const message = this.messages.get(String(part.message_id)) as unknown as Json | undefined;
      const found = message === undefined ? undefined : lookUp(message, steps(String(part.at ?? "/content")));
      const value = part.json ? parsed(found) : found;
      const path = ["0", ...steps(pointer)];
      const inside = lookUp(holder, path.slice(0, -1));
      const key = path.at(-1)!;
      if (value === undefined || inside === null || typeof inside !== "object") this.lose(at, at + 1);
      else (inside as Fields)[key] = value;
    }
    this.values[at] = holder[0]!;
  }
}

function parsed(text: Json | undefined): Json | undefined {
  try {
    return typeof text === "string" ? (JSON.parse(text) as Json) : undefined;
  } catch {
    return undefined;
  }
}

const steps = (pointer: string) =>
  pointer
    .split("/")
    .slice(1)
    .map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));

function lookUp(value: Json | undefined, path: string[]): Json | undefined {
  let inside = value;
  for (const step of path) {
    if (inside === null || typeof inside !== "object" || !Object.hasOwn(inside, step)) return undefined;
    inside = (inside as Fields)[step];
  }
  return inside;
}
