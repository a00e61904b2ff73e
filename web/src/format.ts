// Numbers, times and text as people read them. Pure; nothing here reads the clock.

export const NONE = "–";

// Made once: making one takes as long as a hundred uses
const NUMBER = new Intl.NumberFormat("en-US");
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "short", year: "numeric", month: "short", day: "numeric" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

/** A span of time, in ms: `240 ms`, `12.4 s`, `4m 12s`, `1h 04m`, `2d 3h`. */
export function duration(ms: number): string {
  if (!Number.isFinite(ms) || ms < 0) return NONE;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${pad(seconds % 60)}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)}h ${pad(minutes % 60)}m`;
  const hours = Math.floor(minutes / 60);
  return `${Math.floor(hours / 24)}d ${hours % 24}h`;
}

/** A span that ticks in whole seconds: `0:12`, `4:12`, `1:04:12`. */
export function clock(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const hours = Math.floor(seconds / 3600);
  const rest = `${pad(Math.floor(seconds / 60) % 60, hours ? 2 : 1)}:${pad(seconds % 60)}`;
  return hours ? `${hours}:${rest}` : rest;
}

/** How long ago, in ms: `now`, `4 s`, `3 min`, `2 h`, `5 d`. */
export function ago(ms: number): string {
  if (ms < 1500) return "now";
  if (ms < 60_000) return `${Math.floor(ms / 1000)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min`;
  if (ms < 48 * 3_600_000) return `${Math.floor(ms / 3_600_000)} h`;
  return `${Math.floor(ms / 86_400_000)} d`;
}

/** For how long, in ms, the words of `ago` stay the same. */
export function agoLasts(ms: number): number {
  if (ms < 1500) return 1500 - ms;
  const step = ms < 60_000 ? 1000 : ms < 3_600_000 ? 60_000 : ms < 48 * 3_600_000 ? 3_600_000 : 86_400_000;
  return step - (ms % step);
}

/** `812`, `48.2k`, `1.3M`. */
export function short(n: number): string {
  if (n < 1000) return String(n);
  const [value, unit] = n < 999_950 ? [n / 1000, "k"] : n < 999_950_000 ? [n / 1e6, "M"] : [n / 1e9, "B"];
  return `${value.toFixed(value < 99.95 ? 1 : 0)}${unit}`;
}

/** `1,204`. */
export const count = (n: number): string => NUMBER.format(n);

/** `1 message`, `1,204 messages`. */
export const counted = (n: number, what: string): string => `${count(n)} ${what}${n === 1 ? "" : "s"}`;

/** US dollars: `$0.61`, `$12`, `$0.0042`, `$0`; a dash for what is not known. */
export function cost(dollars: number | null): string {
  if (dollars === null) return NONE;
  if (!dollars) return "$0";
  if (dollars >= 1000) return `$${short(Math.round(dollars))}`;
  if (dollars >= 0.1) return `$${dollars.toFixed(2)}`;
  if (dollars < 0.00001) return "<$0.00001";
  return `$${dollars.toFixed(Math.min(6, 1 - Math.floor(Math.log10(dollars))))}`;
}

/** `640 B`, `3 kB`, `1.2 MB`. */
export function bytes(n: number): string {
  if (n < 1000) return `${n} B`;
  if (n < 999_500) return `${(n / 1000).toFixed(n < 9950 ? 1 : 0)} kB`;
  return `${(n / 1e6).toFixed(1)} MB`;
}

/** The local time of day, to the second. */
export function timeOfDay(ts: string): string {
  const time = new Date(ts);
  return Number.isNaN(time.getTime())
    ? ""
    : `${pad(time.getHours())}:${pad(time.getMinutes())}:${pad(time.getSeconds())}`;
}

/** The local day: `Fri, Nov 20, 2026`. */
export function dayOf(ts: string): string {
  const time = new Date(ts);
  return Number.isNaN(time.getTime()) ? "" : DAY.format(time);
}

/** The whole time for a title: local with its zone, then as in the log. */
export function fullTime(ts: string): string {
  const time = new Date(ts);
  return Number.isNaN(time.getTime()) ? ts : `${FULL.format(time)} · ${ts}`;
}

/** A long id cut in the middle. */
export function shortId(id: string, most = 18): string {
  return id.length <= most ? id : `${id.slice(0, most - 8)}…${id.slice(-7)}`;
}

const COLOURS = /\u001b\[[0-9;:]*m/g;
// Control, direction and zero-width characters, fillers, tags and selectors that show nothing of themselves
const UNSEEN = new RegExp(
  "[\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f\\u00ad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5" +
    "\\u180b-\\u180f\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufeff\\uffa0\\ufff0-\\ufffb" +
    "\\u{e0000}-\\u{e0fff}]",
  "gu",
);
// Joiners belong between the parts of an emoji and in scripts that join letters; elsewhere they hide
const JOINERS = /(?<![\p{Extended_Pictographic}\p{Emoji_Modifier}\ufe0f\p{Script=Arabic}\p{M}])[\u200c\u200d]/gu;

/** Text in which nothing hides: control, direction and zero-width characters are shown as signs. */
export function visible(text: string): string {
  return text.replace(/\r\n?/g, "\n").replace(UNSEEN, sign).replace(JOINERS, sign);
}

function sign(character: string): string {
  const code = character.codePointAt(0)!;
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  if (code === 0x7f) return "␡";
  return `‹U+${code.toString(16).toUpperCase().padStart(4, "0")}›`;
}

const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/;

/** Text that does not change the order of the text beside it, for places where no element can hold it. */
export const isolated = (text: string): string =>
  RIGHT_TO_LEFT.test(text) ? `\u2068${visible(text)}\u2069` : visible(text);

/** Text as a terminal would show it, without colours. */
export const terminal = (text: string): string => visible(text.replace(COLOURS, ""));

function pad(n: number, width = 2): string {
  return String(n).padStart(width, "0");
}
