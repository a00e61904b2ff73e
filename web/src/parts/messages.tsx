// The list of messages, with its filter, search, jumps and following.

import type { RefObject } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { app, say } from "../app";
import { count, dayOf, visible } from "../format";
import { type Item, isCustom } from "../log/rows";
import { type TraceView, withBelow } from "../log/view";
import { belongs, lineOf } from "../log/words";
import { entry, keep, kept } from "../net/places";
import { param, setParams } from "../net/route";
import { today } from "./clock";
import { useKeys } from "./keys";
import { Menu } from "./menu";
import { MessageRow } from "./message";
import { highlight, matcher } from "./search";
import { type ListHandle, VirtualList } from "./virtual";

const [SAID, BRANCHES] = ["said", "branches"] as const; // kept with the entry of the history
const NO_BRANCHES: ReadonlyMap<number, number> = new Map();
const SHOWS = { all: "All", text: "Text", tools: "Tools", errors: "Errors" } as const;
export type Show = keyof typeof SHOWS;

interface MessagesProps {
  log: TraceView;
  goalId: string | null;
  clearGoal: () => void;
  inspect: (item: Item) => void;
  inspected: number | null;
  showFall: () => void;
}

export function Messages({ log, goalId, clearGoal, inspect, inspected, showFall }: MessagesProps) {
  const version = log.version.value;
  const show = (param("show") ?? "all") as Show;
  const query = param("q") ?? "";
  const list = useRef<ListHandle>(null);
  const box = useRef<HTMLDivElement>(null);
  const input = useRef<HTMLInputElement>(null);
  const [atEnd, setAtEnd] = useState(!kept(SAID));
  const [seen, setSeen] = useState(0); // event_id of the newest row when the end was left
  const [hit, setHit] = useState(-1); // event_id of the search's current match

  const goals = useMemo(() => (goalId === null ? null : withBelow(log, goalId)), [goalId, log, log.state?.goals.size]);
  const hiding = param("hide") ?? "";
  const [branches, setBranches] = useState<ReadonlySet<number>>(() => new Set(kept<number[]>(BRANCHES) ?? []));
  const { items, left } = useMemo(() => {
    const all = log.rows.items;
    const hidden = new Set(hiding ? hiding.split(",") : []);
    const plain = show === "all" && !goals && !hidden.size;
    const some = plain ? all : all.filter((item) => passes(item, show, goals, hidden));
    return query ? { items: some, left: NO_BRANCHES } : folded(some, branches);
  }, [version, show, goals, log, hiding, branches, !query]);
  const openBranch = (item: Item) => {
    const next = new Set(branches);
    if (!next.delete(item.id)) next.add(item.id);
    setBranches(next);
    keep(BRANCHES, [...next]);
  };

  const test = useMemo(() => matcher(query, (item) => log.rows.outcomeOf(item)), [query, log]);
  const matches = useMemo(() => {
    return test ? items.filter(test) : null;
  }, [test, items, query ? version : 0]);

  const errors = useMemo(() => items.filter((item) => item.error), [items, version]);
  const gap = errors.findLast((item) => item.gap);
  const wholeErrors =
    show === "all" && !goals ? errors.length : log.rows.items.reduce((n, item) => n + (item.error ? 1 : 0), 0);

  const jump = (to: Item | undefined) => {
    if (!to) return;
    const index = items.indexOf(to);
    if (index < 0) return;
    setHit(to.id);
    list.current?.show(index, "center");
  };
  const step = (among: Item[], by: 1 | -1) => {
    if (!among.length) return;
    const from = hit >= 0 ? hit : by > 0 ? -1 : Infinity;
    const next =
      by > 0
        ? (among.find((item) => item.id > from) ?? among[0])
        : (among.findLast((item) => item.id < from) ?? among.at(-1));
    jump(next);
  };
  const toBeginning = async () => {
    if (items[0]?.hole !== undefined) await log.reader.reach(log.first);
    list.current?.show(0, "center");
  };
  const questions = () => items.filter((item) => item.event?.event === "input_requested");

  useKeys(
    "Messages",
    [
      { keys: "/", does: "Search", run: () => input.current?.focus() },
      { keys: "n", does: "Next match", run: () => step(matches ?? [], 1) },
      { keys: "N p", does: "Match before", run: () => step(matches ?? [], -1) },
      { keys: "e", does: "Next error", run: () => step(errors, 1) },
      { keys: "E", does: "Error before", run: () => step(errors, -1) },
      { keys: "?q q", does: "Next question", run: () => step(questions(), 1) },
      {
        keys: "1 2 3 4",
        does: "All, text, tools, errors",
        run: (event: KeyboardEvent) => {
          const name = Object.keys(SHOWS)[Number(event.key) - 1]!;
          setParams({ show: name === "all" ? null : name });
        },
      },
      {
        keys: "j",
        does: "Next message",
        run: () =>
          step(
            items.filter((item) => item.hole === undefined),
            1,
          ),
      },
      {
        keys: "k",
        does: "Message before",
        run: () =>
          step(
            items.filter((item) => item.hole === undefined),
            -1,
          ),
      },
      {
        keys: "i",
        does: "Inspect the marked message",
        run: () => {
          const item = items.find((one) => one.id === hit);
          if (item) inspect(item);
        },
      },
      { keys: "G f", does: "Go to the end and follow", run: () => list.current?.toEnd() },
      { keys: "g", does: "Go to the beginning", run: () => void toBeginning() },
    ].map((key) => ({ ...key, keys: key.keys.replace("?q ", "") })),
  );

  // A link to an event or message: the rows there are read first, however far back
  const wanted = param("event") ?? param("message");
  const shown = useRef<string | null>(null);
  const returned = useRef(Boolean(kept(SAID)));
  const reaching = useRef<string | null>(null);
  useEffect(() => {
    if (!wanted || shown.current === wanted || !log.rows.items.length) return;
    if (Number(param("event")) > (log.position ?? 0) && log.phase.value.kind !== "live") return; // it is still to come
    const item = param("event") ? log.rows.itemOfEvent(Number(wanted)) : log.rows.itemOfMessage(wanted);
    if (item && item.hole === undefined) {
      if (!items.includes(item)) return;
      shown.current = wanted;
      if (!returned.current) jump(item);
      else setHit(item.id); // marked as it was; where one reads is another place
      returned.current = false;
    } else if (reaching.current !== wanted && log.rows.unread) {
      reaching.current = wanted;
      const read = param("event") ? log.reader.reach(Number(wanted)) : log.reader.reachMessage(wanted);
      read.catch((error: Error) => say(`The link leads nowhere: ${error.message}`, true));
    }
  });
  useEffect(() => {
    // Then it is read from the end on
    if (goalId !== null && log.rows.unread) log.reader.reachGoal(goalId).catch(() => undefined);
  }, [goalId, log, log.phase.value.kind]);

  useReturn(list, log, (place) => {
    returned.current = true;
    setSeen(place.seen);
  });

  // In the past: what had just happened. While it plays on, the list follows by itself
  const sought = useRef<number | null>(null);
  const at = log.past ? log.position : null;
  useLayoutEffect(() => {
    if (at === null || sought.current === at || param("at") !== String(at)) return;
    const first = sought.current === null && kept(SAID);
    sought.current = at;
    if (first) return; // gone back to, or reloaded: it is where it was
    const last = items.findLastIndex((item) => item.lastId === at);
    if (last < 0 || last === items.length - 1) list.current?.toEnd();
    else list.current?.show(last, "center");
  });

  // The first match of a new search, before any key can ask for the next one
  const searched = useRef("");
  useLayoutEffect(() => {
    if (!matches || searched.current === query) return;
    if (!matches.length && log.reader.history.peek() !== "complete") return; // a link: it is still to be read
    searched.current = query;
    jump(matches.find((item) => item.id >= hit) ?? matches[0]);
  });
  useEffect(() => highlight(box.current, query));

  const fresh = atEnd ? 0 : countAfter(items, seen);
  const history = log.reader.history.value;
  const goal = goalId === null ? null : log.state?.goals.get(goalId);
  const ended = app.offline || Boolean(log.state?.ended); // a run that is saved in a file does not go on
  const position = matches && hit >= 0 ? matches.findIndex((item) => item.id === hit) + 1 : 0;

  return (
    <div class="messages" ref={box}>
      <div class="panehead">
        {goal ? (
          <h2 class="words">
            <button class="chip" onClick={clearGoal} title="Show all messages">
              {visible(goal.description)} <span aria-hidden="true">✕</span>
            </button>
          </h2>
        ) : (
          <h2>Messages</h2>
        )}
        <button class="quiet" title="Where the time went (w)" onClick={showFall}>
          Waterfall
        </button>
        <div class="shows" role="group" aria-label="Show">
          {(Object.keys(SHOWS) as Show[]).map((name) => (
            <button
              key={name}
              aria-pressed={show === name}
              class={name === "errors" && wholeErrors ? "bad" : ""}
              onClick={() => setParams({ show: name === "all" ? null : name })}
            >
              {SHOWS[name]}
              {name === "errors" && wholeErrors > 0 ? <span class="num"> {count(wholeErrors)}</span> : null}
            </button>
          ))}
        </div>
        <Events kinds={log.rows.kinds} hiding={hiding} />
        <span class="grow" />
        {errors.length > 0 && show !== "errors" && (
          <button class="quiet bad" title="Next error (e)" onClick={() => step(errors, 1)}>
            next error
          </button>
        )}
        <div class="search">
          <input
            ref={input}
            type="search"
            placeholder="Search   /"
            aria-label="Search in messages"
            value={query}
            onInput={(event) => setParams({ q: event.currentTarget.value })}
            onKeyDown={(event) => {
              if (event.key === "Enter") {
                event.preventDefault();
                step(matches ?? [], event.shiftKey ? -1 : 1);
              } else if (event.key === "Escape") {
                setParams({ q: null });
                event.currentTarget.blur();
              }
            }}
          />
          {matches && (
            <span class="num dim">
              {matches.length ? `${position || "–"}/${count(matches.length)}` : "none"}
              {log.rows.unread ? "+" : ""}
            </span>
          )}
          {matches && matches.length > 1 && (
            <>
              <button class="quiet" aria-label="Match before" onClick={() => step(matches, -1)}>
                ↑
              </button>
              <button class="quiet" aria-label="Next match" onClick={() => step(matches, 1)}>
                ↓
              </button>
            </>
          )}
        </div>
      </div>
      {history !== "complete" && log.rows.items.length > 0 && (
        <div class="history dim">
          {history === "failed" ? (
            <>
              Earlier messages could not be read.{" "}
              <button class="link" onClick={() => log.reader.readHistory()}>
                Try again
              </button>
            </>
          ) : history === "loading" ? (
            `Reading earlier messages, ${count(log.rows.unread)} events to go`
          ) : log.phase.value.kind === "live" && log.rows.unread ? (
            `${count(log.rows.unread)} events are read only where one looks: search and filters do not know them`
          ) : null}
        </div>
      )}
      <div class="listbox">
        {items.length === 0 && <Nothing log={log} filtered={log.rows.items.length > 0} />}
        <VirtualList
          items={items}
          estimate={34}
          follow
          place={kept<Left>(SAID)}
          handle={list}
          class="said"
          label="Messages"
          wordsOf={(item) => visible(lineOf(item, log.rows.outcomeOf(item)))}
          onView={(drawn, top) => log.reader.look(drawn, top)}
          onPlace={(place) => keep(SAID, place && { ...place, seen: log.position ?? 0 })}
          onEnd={(end) => {
            setAtEnd(end);
            if (!end) setSeen(items.at(-1)?.id ?? 0);
          }}
          render={(item, i) => (
            <MessageRow
              item={item}
              version={item.version}
              log={log}
              ended={ended}
              select={(chosen) => {
                shown.current = String(Math.floor(chosen.id)); // it is in view: nothing moves
                inspect(chosen);
              }}
              heading={goalId === null || goals!.size > 1 ? headingOf(log, items, i) : null}
              date={dateOf(items, i, today.value)}
              branch={left.get(item.id) ?? 0}
              branchOpen={branches.has(item.id)}
              openBranch={openBranch}
              selected={item.id === inspected}
              hit={item.id === hit}
              find={item.id === hit && test ? query : ""}
              seek={item.id !== hit && test?.(item) ? query : ""}
            />
          )}
        />
        {gap && gap.id > log.gapSeen.value && (
          <button class="float gaphint" title={gap.gap} onClick={() => jump(gap)}>
            ⚡ Events are missing: show where
          </button>
        )}
        {!atEnd && (
          <button class={`float${fresh ? " new" : ""}`} onClick={() => list.current?.toEnd()}>
            ↓ {fresh ? `${count(fresh)} new` : ended || log.past ? "to the end" : "follow"}
          </button>
        )}
      </div>
    </div>
  );
}

type Left = { id: number; shift: number; seen: number };

/** Where the page was left it is read on: here, and on the way back to here. `back` is told before. */
function useReturn(list: RefObject<ListHandle | null>, log: TraceView, back: (place: Left) => void): void {
  const first = useRef(true);
  const place = kept<Left>(SAID) ?? null;
  useLayoutEffect(() => {
    if (place && !first.current) list.current?.restore(place);
    if (place) back(place);
    first.current = false;
  }, [entry.value, log]);
  const live = log.phase.value.kind === "live";
  useEffect(() => {
    if (!place || !live || !list.current?.restoring) return;
    const giveUp = () => list.current?.restoring && list.current.toEnd(); // it is no longer there
    log.reader.reach(Math.floor(place.id)).then(
      () => setTimeout(giveUp, 300),
      () => giveUp(),
    );
  }, [entry.value, log, live]);
}

function passes(item: Item, show: Show, goals: Set<string> | null, hidden: ReadonlySet<string>): boolean {
  if (item.hole !== undefined) return true; // its events are not known
  if (hidden.size && item.event && isCustom(item.event.event) && (hidden.has(item.event.event) || hidden.has("*")))
    return false;
  if (goals && !(item.goalId !== null && goals.has(item.goalId))) return false;
  if (show === "errors") return item.error;
  if (show === "tools") return item.message?.role === "tool";
  if (show === "text") return item.message !== null && item.message.role !== "tool";
  return true;
}

/** Of each branch that was left, unless it is open, the first row; and how many messages each has, by that row. */
function folded(items: Item[], open: ReadonlySet<number>): { items: Item[]; left: ReadonlyMap<number, number> } {
  if (!items.some((item) => item.message?.left)) return { items, left: NO_BRANCHES };
  const left = new Map<number, number>();
  let first: number | null = null;
  const shown = items.filter((item) => {
    if (!item.message?.left) {
      if (item.message) first = null;
      return true;
    }
    first ??= item.id;
    left.set(first, (left.get(first) ?? 0) + 1);
    return first === item.id || open.has(first);
  });
  return { items: shown, left };
}

/** Which kinds of custom events are shown: those of a run that reports its progress may be most of its rows. */
function Events({ kinds, hiding }: { kinds: ReadonlyMap<string, number>; hiding: string }) {
  const hidden = new Set(hiding ? hiding.split(",") : []);
  const names = [...kinds].filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]);
  if (!names.length) return null;
  const set = (to: Iterable<string>) => setParams({ hide: [...to].join(",") || null });
  const toggle = (name: string) => {
    const next = new Set(hidden.has("*") ? names.map(([one]) => one) : hidden);
    if (!next.delete(name)) next.add(name);
    set(next);
  };
  return (
    <Menu class="menu events">
      <summary class="button quiet" title="Which kinds of events are shown">
        Events{hidden.size > 0 && <b> −{hidden.has("*") ? names.length : hidden.size}</b>}
      </summary>
      <div tabIndex={-1}>
        <label>
          <input type="checkbox" checked={!hidden.size} onChange={() => set(hidden.size ? [] : ["*"])} />
          All kinds
        </label>
        {names.slice(0, 40).map(([name, n]) => (
          <label key={name}>
            <input type="checkbox" checked={!hidden.has(name) && !hidden.has("*")} onChange={() => toggle(name)} />
            <bdi class="words">{visible(name)}</bdi> <span class="num">{count(n)}</span>
          </label>
        ))}
      </div>
    </Menu>
  );
}

/** The goal that begins with a row: that to which it belongs, if the row before that belongs somewhere has another. */
function headingOf(log: TraceView, items: readonly Item[], i: number): string | null {
  const item = items[i]!;
  if (!belongs(item)) return null;
  for (let before = i - 1; before >= 0 && before > i - 20; before--) {
    if (!belongs(items[before]!)) continue;
    if (items[before]!.goalId === item.goalId) return null;
    if (item.goalId === null) return "Outside of the goals";
    break;
  }
  return log.state?.goals.get(item.goalId ?? "")?.description ?? null;
}

/** The day that begins with a row: that of the first message if it is not today, later where the day changes. */
function dateOf(items: readonly Item[], i: number, today: string): string | null {
  const item = items[i]!;
  if (!item.message) return null;
  const local = (at: string) => new Date(at).toDateString();
  const quarter = (at: string) => at.slice(0, 14) + Math.floor(Number(at.slice(14, 16)) / 15);
  for (let before = i - 1; before >= 0; before--) {
    const other = items[before]!;
    if (!other.message) continue;
    // Days change at full quarters of an hour, in every zone; only for another quarter is the calendar asked
    return quarter(other.at) === quarter(item.at) || local(other.at) === local(item.at) ? null : dayOf(item.at);
  }
  return !item.at || local(item.at) === today ? null : dayOf(item.at);
}

function countAfter(items: readonly Item[], id: number): number {
  let n = 0;
  for (let i = items.length - 1; i >= 0 && items[i]!.id > id; i--) n++;
  return n;
}

function Nothing({ log, filtered }: { log: TraceView; filtered: boolean }) {
  const phase = log.phase.value.kind;
  if (phase === "loading" || phase === "gone") return null;
  return (
    <p class="nothing">
      {filtered
        ? "Nothing here passes the filter."
        : log.state?.ended
          ? "This run ended without a message."
          : "No messages yet. They appear here as they are recorded."}
    </p>
  );
}
