// The plain page: lists traces and follows one, over one WebSocket.
//
// Rule 1: text from agents is put in as text (textContent, text nodes), never as markup.
// Rule 2: an event is taken only if its id is the last one's plus one; anything else reconnects from the cursor.
// Rule 3: the goal tree comes with the snapshot and takes only events above it; messages come from the events alone.
"use strict";

const HISTORY = "-1000"; // events of the past a trace is opened with
const MOST_MESSAGES = 1000; // kept on the page
const MOST_TEXT = 20000; // characters of one message that are shown
const LIST = 200; // traces in the list

const $ = (id) => document.getElementById(id);

const traces = new Map(); // trace_id -> summary
let socket = null;
let attempt = 0; // connections failed in a row
let lastHeard = 0; // ms; when the server last said something
let heartbeatMs = 15000;
let watched = null; // {id, cursor, epoch, position, asOf, trace, goals, current, messages, parts}

// --- the socket ---

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/watch`);
  lastHeard = Date.now();
  socket.onopen = () => {
    send({ subscribe_traces: {} });
    if (watched) subscribe();
  };
  socket.onmessage = (message) => {
    lastHeard = Date.now();
    receive(JSON.parse(message.data));
  };
  socket.onclose = () => {
    socket = null;
    const wait = Math.random() * Math.min(20000, 500 * 2 ** attempt++);
    showConnection("lost", "connection lost, trying again");
    setTimeout(connect, 500 + wait);
  };
}

function send(value) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(value));
}

function subscribe() {
  watched.parts = null;
  send({ subscribe: { trace_id: watched.id, since_event_id: watched.cursor || HISTORY } });
}

setInterval(() => {
  // A browser can't see WebSocket pings: a silent socket is a dead one.
  if (socket && Date.now() - lastHeard > heartbeatMs * 2.5) socket.close();
}, 5000);

function receive(frame) {
  if ("event_id" in frame) return receiveEvent(frame);
  if (frame.heartbeat_s) heartbeatMs = frame.heartbeat_s * 1000;
  switch (frame.event) {
    case "traces":
      attempt = 0;
      traces.clear();
      for (const trace of frame.traces) traces.set(trace.trace_id, trace);
      showTraces();
      if (!watched) showConnection("live", "live");
      break;
    case "trace_changed":
      traces.set(frame.trace.trace_id, frame.trace);
      if (watched && frame.trace.trace_id === watched.id) {
        watched.trace = frame.trace;
        schedule();
      }
      showTraces();
      break;
    case "trace_deleted":
      traces.delete(frame.trace_id);
      showTraces();
      break;
    case "error":
      if (watched && frame.trace_id === watched.id) {
        showConnection("lost", frame.message || frame.code);
      }
      break;
    default:
      if (watched && frame.trace_id === watched.id) receiveControl(frame);
  }
}

function receiveControl(frame) {
  if (frame.event === "connected" || frame.event === "snapshot") {
    if (frame.event === "snapshot") forget(); // after a gap: what is on the page is another history
    const [epoch, position] = frame.cursor.split(".");
    watched.epoch = epoch;
    if (watched.position === null) watched.position = Number(position);
    watched.trace = frame.trace;
    watched.asOf = frame.current_event_id;
    watched.parts = frame.goal_tree ? null : [];
    if (frame.goal_tree) takeGoals(frame.goal_tree.goals, frame.goal_tree.current_id);
    showConnection("busy", "catching up");
  } else if (frame.event === "goal_tree_part" && watched.parts) {
    watched.parts.push(...frame.goals);
    if (frame.part === frame.parts) {
      takeGoals(watched.parts, frame.current_id);
      watched.parts = null;
    }
  } else if (frame.event === "caught_up") {
    showConnection("live", "live");
  } else if (frame.event === "fell_behind") {
    showConnection("busy", "catching up");
  }
}

// --- the trace that is followed ---

function follow(id) {
  if (watched && watched.id === id) return;
  if (watched) send({ unsubscribe: { trace_id: watched.id } });
  watched = id ? { id, cursor: null, trace: traces.get(id) || null } : null;
  $("trace").hidden = !watched;
  $("nothing").hidden = Boolean(watched);
  if (watched) {
    forget();
    subscribe();
  }
  showTraces();
  schedule();
}

function forget() {
  Object.assign(watched, { cursor: null, epoch: null, position: null, asOf: 0, parts: null });
  Object.assign(watched, { goals: new Map(), current: null, messages: new Map() });
  $("messages").replaceChildren();
}

function takeGoals(goals, current) {
  watched.goals = new Map(goals.map((goal) => [goal.id, goal]));
  watched.current = current;
  schedule();
}

function receiveEvent(event) {
  if (!watched || event.trace_id !== watched.id) return;
  if (event.event_id !== watched.position + 1) {
    socket.close(); // a hole or a repeat: ask again from the cursor
    return;
  }
  watched.position = event.event_id;
  watched.cursor = `${watched.epoch}.${event.event_id}`;
  if (event.event === "message_added") addMessage(event.message);
  else if (event.event === "message_updated") updateMessage(event);
  else if (event.event === "trace_completed") addNote(event.status, event.summary || "");
  if (event.event_id > watched.asOf) applyToGoals(event);
}

function applyToGoals(event) {
  if (event.event === "goal_added") insertGoal(event.goal);
  else if (event.event === "goal_updated") {
    const goal = watched.goals.get(event.goal_id);
    if (goal) watched.goals.set(goal.id, { ...goal, ...event.patch });
  }
  for (const { goal_id, ...change } of event.affected_goals || []) {
    const goal = watched.goals.get(goal_id);
    if (goal) watched.goals.set(goal_id, { ...goal, ...change });
  }
  schedule();
}

function insertGoal(goal) {
  // The map's order is the order of display: behind the sibling that is named, else last under its parent.
  const rows = [...watched.goals.values()];
  let place = rows.length;
  const anchor = goal.after_id || goal.parent_id;
  if (anchor) {
    const start = rows.findIndex((row) => row.id === anchor);
    const below = new Set([anchor]);
    place = start + 1;
    while (place < rows.length && below.has(rows[place].parent_id)) below.add(rows[place++].id);
  }
  rows.splice(place, 0, goal);
  watched.goals = new Map(rows.map((row) => [row.id, row]));
}

// --- messages ---

function addMessage(message) {
  const item = document.createElement("li");
  item.dataset.role = message.role;
  item.dataset.id = message.message_id;
  const head = document.createElement("span");
  const body = document.createElement("pre");
  item.append(head, body);
  const row = { message: { ...message }, item, head, body };
  watched.messages.set(message.message_id, row);
  showMessage(row);
  append(item);
}

function updateMessage(event) {
  const row = watched.messages.get(event.message_id);
  if (!row) return; // its beginning is further back than the page looks
  const { message } = row;
  if (event.append && typeof message.content === "string") message.content += event.append;
  Object.assign(message, event.patch);
  stickToEnd(() => showMessage(row));
}

function showMessage({ message, head, body }) {
  const failed = message.content && message.content.error !== undefined && message.role === "tool";
  head.dataset.status = failed ? "failed" : message.status;
  const facts = [message.role];
  if (message.duration_ms) facts.push(`${(message.duration_ms / 1000).toFixed(1)} s`);
  if (message.tokens) facts.push(`${message.tokens.toLocaleString("en")} tokens`);
  head.textContent = facts.join(" · ");
  head.className = "dim";
  body.textContent = readable(message.content).slice(0, MOST_TEXT);
}

function readable(content) {
  if (typeof content === "string") return content;
  if (content && content.tool_name) {
    const call = `${content.tool_name} ${content.arguments === undefined ? "" : JSON.stringify(content.arguments)}`;
    const outcome = content.error !== undefined ? content.error : content.result;
    if (outcome === undefined) return call;
    return `${call}\n→ ${typeof outcome === "string" ? outcome : JSON.stringify(outcome)}`;
  }
  return content === null ? "" : JSON.stringify(content, null, 1);
}

function addNote(status, words) {
  const item = document.createElement("li");
  const head = document.createElement("span");
  const body = document.createElement("pre");
  head.dataset.status = status;
  head.className = "dim";
  head.textContent = status;
  body.textContent = words;
  item.append(head, body);
  append(item);
}

function append(item) {
  stickToEnd(() => {
    const list = $("messages");
    list.append(item);
    if (list.childElementCount > MOST_MESSAGES) {
      watched.messages.delete(list.firstElementChild.dataset.id);
      list.firstElementChild.remove();
    }
  });
}

function stickToEnd(change) {
  const pane = document.querySelector("section");
  const atEnd = pane.scrollHeight - pane.scrollTop - pane.clientHeight < 40;
  change();
  if (atEnd) pane.scrollTop = pane.scrollHeight;
}

// --- what is shown ---

let drawing = false;

function schedule() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (watched) showTrace();
  });
}

function showTrace() {
  const { trace } = watched;
  if (trace) {
    const totals = trace.tree_totals || trace;
    $("task").textContent = trace.task;
    $("task").className = "words";
    $("task").dataset.status = trace.status;
    $("facts").textContent = [
      trace.trace_id,
      trace.agent_type,
      trace.status,
      `${totals.total_messages.toLocaleString("en")} messages`,
      `${totals.total_tokens.toLocaleString("en")} tokens`,
      `$${totals.total_cost.toFixed(4)}`,
    ].join(" · ");
  }
  const depths = new Map();
  $("goals").replaceChildren(
    ...[...watched.goals.values()].map((goal) => {
      depths.set(goal.id, goal.parent_id === null ? 0 : (depths.get(goal.parent_id) || 0) + 1);
      const item = document.createElement("li");
      item.dataset.status = goal.status;
      item.style.setProperty("--depth", depths.get(goal.id));
      if (goal.status === "in_progress") item.setAttribute("aria-current", "true");
      const words = document.createElement("span");
      words.className = "words";
      words.textContent = goal.description;
      const stats = document.createElement("span");
      stats.className = "dim";
      stats.textContent = `  ${goal.cumulative_stats.message_count || ""} ${goal.cumulative_stats.preview}`;
      item.append(words, stats);
      return item;
    }),
  );
}

let listing = null;

function showTraces() {
  // Changes come up to ten times a second and trace: drawn at most four times.
  if (listing === null) listing = setTimeout(drawTraces, 250);
}

function drawTraces() {
  listing = null;
  const rows = [...traces.values()].sort((a, b) => (a.created_at < b.created_at ? 1 : -1)).slice(0, LIST);
  $("no-traces").hidden = rows.length > 0;
  const focused = document.activeElement && document.activeElement.dataset.id;
  $("traces").replaceChildren(
    ...rows.map((trace) => {
      const link = document.createElement("a");
      link.href = `#/traces/${encodeURIComponent(trace.trace_id)}`;
      link.dataset.status = trace.status;
      link.dataset.id = trace.trace_id;
      if (trace.parent_trace_id) link.className = "sub";
      if (watched && watched.id === trace.trace_id) link.setAttribute("aria-current", "page");
      const words = document.createElement("span");
      words.className = "words";
      words.textContent = trace.task.slice(0, 200);
      const facts = document.createElement("div");
      facts.className = "dim";
      facts.textContent = `${trace.agent_type} · ${new Date(trace.created_at).toLocaleString()}`;
      link.append(words, facts);
      const item = document.createElement("li");
      item.append(link);
      return item;
    }),
  );
  if (focused) for (const link of $("traces").querySelectorAll("a")) if (link.dataset.id === focused) link.focus();
}

function showConnection(kind, words) {
  $("connection").dataset.kind = kind;
  $("connection").textContent = words;
}

function followLocation() {
  const match = /^#\/traces\/([^/]+)$/.exec(location.hash);
  follow(match ? decodeURIComponent(match[1]) : null);
}

addEventListener("hashchange", followLocation);
followLocation();
connect();
