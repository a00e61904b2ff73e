// Loaded by node at its start in a program that `tracewatch run` started: OpenTelemetry's spans are told of when they begin.
//
// Rule 1: the program must not notice. Nothing here throws into it, and nothing keeps it running.
// Rule 2: no module is replaced. OpenTelemetry's API keeps its global tracer provider in a property of globalThis that
//         all its versions share; whoever sets it is seen there, and its tracers' spans at their start and end.
"use strict";
const url = process.env.TRACEWATCH_LIVE;
const GLOBAL = Symbol.for("opentelemetry.js.api.1"); // @opentelemetry/api, src/internal/global-utils.ts
const MOST_WAITING = 20000;
const GATHER_MS = 2; // a span is read so long after its start: what it is may be said only then

if (url) {
  try {
    begin();
  } catch {}
}

function begin() {
  let api = globalThis[GLOBAL];
  Object.defineProperty(globalThis, GLOBAL, {
    configurable: true,
    enumerable: false,
    get: () => api,
    set: (given) => {
      api = given;
      quietly(() => given && watchProperty(given, "trace", join));
    },
  });
}

function quietly(f) {
  try {
    f();
  } catch {}
}

function watchProperty(holder, name, seen) {
  let value = holder[name];
  if (value) quietly(() => seen(value));
  Object.defineProperty(holder, name, {
    configurable: true,
    enumerable: true,
    get: () => value,
    set: (given) => {
      value = given;
      if (given) quietly(() => seen(given));
    },
  });
}

/** A provider: the API's proxy, which is given the real one later, or a real one. */
function join(provider) {
  if (typeof provider.setDelegate === "function") {
    const set = provider.setDelegate;
    provider.setDelegate = function (real) {
      quietly(() => real && joinReal(real));
      return set.call(this, real);
    };
    return;
  }
  joinReal(provider);
}

const joined = new WeakSet();

function joinReal(provider) {
  if (joined.has(provider) || typeof provider.getTracer !== "function") return;
  joined.add(provider);
  const get = provider.getTracer;
  provider.getTracer = function (...args) {
    const tracer = get.apply(this, args);
    quietly(() => joinTracer(tracer, String(args[0] ?? "")));
    return tracer;
  };
}

function joinTracer(tracer, scope) {
  if (joined.has(tracer)) return;
  joined.add(tracer);
  const start = tracer.startSpan;
  tracer.startSpan = function (...args) {
    const span = start.apply(this, args);
    quietly(() => joinSpan(span, scope));
    return span;
  };
}

function joinSpan(span, scope) {
  const context = span.spanContext();
  if (!span.isRecording() || !(context.traceFlags & 1)) return;
  put({ span, scope, over: false });
  const end = span.end;
  span.end = function (...args) {
    const result = end.apply(this, args);
    quietly(() => put({ span, scope, over: true }));
    return result;
  };
}

// --- sending ---------------------------------------------------------------------------------------------------------

let waiting = [];
let timer = null;
let sending = false;

function put(one) {
  if (waiting.length >= MOST_WAITING) return;
  waiting.push(one);
  if (!timer && !sending) timer = setTimeout(send, GATHER_MS);
}

function send() {
  timer = null;
  const some = waiting.splice(0, 500);
  const spans = [];
  for (const one of some) quietly(() => (one.over || !one.span.ended) && spans.push(asOtlp(one)));
  if (spans.length === 0) return;
  const resource = spans[0].resource;
  const body = JSON.stringify({
    resourceSpans: [
      {
        resource: { attributes: resource },
        scopeSpans: spans.map(({ scope, span }) => ({ scope: { name: scope }, spans: [span] })),
      },
    ],
  });
  sending = true;
  const done = () => {
    sending = false;
    if (waiting.length && !timer) timer = setTimeout(send, GATHER_MS);
  };
  const http = require("node:http");
  const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body), "user-agent": "tracewatch-live" };
  const request = http.request(`${url}/v1/traces`, { method: "POST", headers, agent: agent(http) }, (answer) => {
    answer.resume();
    answer.on("end", done);
    answer.on("error", done);
  });
  request.on("socket", (socket) => socket.setNoDelay(true));
  request.on("error", done);
  request.setTimeout(5000, () => request.destroy());
  request.end(body);
}

let kept = null;
function agent(http) {
  kept ??= new http.Agent({ keepAlive: true, maxSockets: 1 });
  return kept;
}

const nanos = (time) => (Array.isArray(time) ? String(BigInt(time[0]) * 1000000000n + BigInt(Math.round(time[1]))) : "0");

function asOtlp({ span, scope, over }) {
  const { traceId, spanId } = span.spanContext();
  const made = {
    traceId,
    spanId,
    parentSpanId: span.parentSpanContext?.spanId ?? span.parentSpanId ?? undefined,
    name: span.name,
    kind: (span.kind ?? 0) + 1,
    startTimeUnixNano: nanos(span.startTime),
    attributes: pairs(span.attributes),
  };
  if (over) {
    made.endTimeUnixNano = nanos(span.endTime);
    made.status = { code: span.status?.code ?? 0, message: span.status?.message ?? "" };
    made.events = (span.events ?? []).map((event) => ({
      name: event.name,
      timeUnixNano: nanos(event.time),
      attributes: pairs(event.attributes),
    }));
    made.links = (span.links ?? []).map((link) => ({ traceId: link.context.traceId, spanId: link.context.spanId }));
  }
  return { scope, span: made, resource: pairs(span.resource?.attributes) };
}

const pairs = (given) =>
  Object.entries(given ?? {})
    .filter(([, value]) => value !== undefined && value !== null && typeof value.then !== "function")
    .map(([key, value]) => ({ key, value: asValue(value) }));

function asValue(value) {
  if (typeof value === "boolean") return { boolValue: value };
  if (typeof value === "number") {
    if (Number.isSafeInteger(value)) return { intValue: String(value) };
    return Number.isFinite(value) ? { doubleValue: value } : { stringValue: String(value) };
  }
  if (Array.isArray(value)) return { arrayValue: { values: value.map(asValue) } };
  return { stringValue: typeof value === "string" ? value.toWellFormed?.() ?? value : String(JSON.stringify(value)) };
}

// Before the program ends by itself, what waits is sent: its own exporters have the same of what has ended
process.on("beforeExit", () => quietly(() => waiting.length && !sending && send()));
