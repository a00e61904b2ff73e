// Where the server is mounted: "" at the root of its host, else as "/tracewatch".
//
// Rule: every address the page uses begins with it. The server writes it into the page's own links; here it is told by
//       where this script came from.

const onServer = typeof location !== "undefined" && location.protocol !== "file:" && import.meta.url.startsWith("http");

export const PREFIX = onServer ? new URL(/* @vite-ignore */ "..", import.meta.url).pathname.replace(/\/$/, "") : "";
