// Pictures, sound, files and long texts in what agents say: references to content that stands beside the log, data
// URLs, and the blocks with base64 that model APIs and MCP use.
//
// Rule: only what an event holds or refers to by its hash is ever shown. An address of somewhere else is text.

import { bytes as sized } from "../format";
import { isObject, isReference, type Json } from "../net/protocol";

export interface Attached {
  mediaType: string;
  bytes: number;
  name: string; // of a file, or ""
  preview: string; // the beginning of a text, or ""
  blob: string | null; // SHA-256 of content beside the log
  base64: string | null; // the content itself
}

// Kinds of pictures that every browser draws, and that hold nothing but a picture: no SVG
const PICTURES = new Set(["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp"]);
const TYPES = ["media_type", "mimeType", "mime_type", "mediaType"];
const DATA = ["data", "blob", "base64", "file_data", "b64_json"];
const NAMES = ["name", "filename", "title"];
// Keys of a block that is nothing but its content
const BARE = new Set([
  ...[...TYPES, ...DATA, ...NAMES],
  ...["type", "source", "image_url", "url", "detail", "inline_data", "inlineData", "file", "image", "input_image"],
  ...["cache_control", "text", "uri", "resource", "content", "annotations", "_meta"],
]);
const DATA_URL = /^data:([\w.+-]+\/[\w.+-]+)(?:;[\w.+-]+=[^;,]{0,200})*;base64,/i;
const BEGINNINGS: [string, string][] = [
  ["iVBORw0KGgo", "image/png"],
  ["/9j/", "image/jpeg"],
  ["R0lGOD", "image/gif"],
  ["UklGR", "image/webp"],
];
const BASE64 = /^[A-Za-z0-9+/]{32,}={0,2}$/;
const DEEP = 4;
const MOST_KEYS = 8;
const MOST_LOOKED_AT = 500; // values
const MOST_SHOWN = 24;

export const isPicture = (one: Attached): boolean => PICTURES.has(one.mediaType);
export const isText = (one: Attached): boolean =>
  one.blob !== null && (one.mediaType.startsWith("text/") || one.mediaType === "application/json");

const nameIn = (value: { [key: string]: Json | undefined }): string =>
  String(NAMES.map((key) => value[key]).find((name) => typeof name === "string") ?? "");

function ofText(text: string, mediaType: string, name: string): Attached {
  return { mediaType, bytes: Math.floor((text.length * 3) / 4), name, preview: "", blob: null, base64: text };
}

/** What a value is, if it is nothing but one content: a reference, a data URL, or a block around one. */
export function attachedIn(value: Json, depth = 0): Attached | null {
  if (typeof value === "string") {
    const head = value.startsWith("data:") ? DATA_URL.exec(value.slice(0, 1000)) : null;
    return head && ofText(value.slice(head[0].length), head[1]!.toLowerCase(), "");
  }
  if (!isObject(value)) return null;
  if (isReference(value)) {
    const preview = typeof value.preview === "string" ? value.preview : "";
    return {
      mediaType: value.media_type,
      bytes: value.bytes,
      name: nameIn(value),
      preview,
      blob: value.blob,
      base64: null,
    };
  }
  const keys = Object.keys(value);
  if (depth > DEEP || !keys.length || keys.length > MOST_KEYS || !keys.every((key) => BARE.has(key))) return null;
  return inBlock(value, keys, depth);
}

function inBlock(block: { [key: string]: Json }, keys: string[], depth: number): Attached | null {
  const declared = TYPES.map((key) => block[key]).find((type) => typeof type === "string") as string | undefined;
  let found: Attached | null = null;
  for (const key of keys) {
    const part = block[key]!;
    let one = attachedIn(part, depth + 1);
    if (!one && DATA.includes(key) && typeof part === "string" && BASE64.test(part)) {
      const type = declared ?? BEGINNINGS.find(([begin]) => part.startsWith(begin))?.[1];
      if (type) one = ofText(part, type, "");
    }
    if (one && found) return null; // more than one: they are shown as they stand
    if (!one && key === "text" && typeof part === "string" && part) return null; // words beside it
    found ??= one;
  }
  const name = nameIn(block);
  return found && name && !found.name ? { ...found, name } : found;
}

/** All contents in a value, at any depth, each once, as far as a look at some hundred values goes. */
export function attachedTo(value: Json | undefined): Attached[] {
  const found: Attached[] = [];
  const waiting: (Json | undefined)[] = [value];
  for (let looked = 0; waiting.length && looked < MOST_LOOKED_AT && found.length < MOST_SHOWN; looked++) {
    const one = waiting.pop();
    if (one === undefined || one === null) continue;
    const attached = attachedIn(one);
    if (attached) {
      if (!found.some((other) => sameContent(other, attached))) found.push(attached);
    } else if (typeof one === "object") waiting.push(...Object.values(one).slice(0, MOST_LOOKED_AT).reverse());
  }
  return found;
}

const sameContent = (a: Attached, b: Attached): boolean => a.blob === b.blob && a.base64 === b.base64;

/** In words: `shot.png, image/png, 3.0 MB`; of a text its beginning, too. */
export function attachedWords(one: Attached): string {
  const about = [one.name, one.mediaType, sized(one.bytes)].filter(Boolean).join(", ");
  return isText(one) && one.preview ? `${one.preview}\n(${about})` : about;
}
