// Builds into the Python package; `npm run dev` serves the sources and passes the API on to a server on port 8400.
import { defineConfig } from "vitest/config";

const server = process.env.TRACEWATCH_URL ?? "http://127.0.0.1:8400";

export default defineConfig(({ command }) => ({
  base: command === "build" ? "/static/" : "/",
  build: {
    outDir: "../tracewatch/web",
    emptyOutDir: true,
    assetsDir: "",
    assetsInlineLimit: 0, // the page may load nothing but what the server serves: no data: URLs
    modulePreload: false,
    target: "es2022",
    reportCompressedSize: true,
    // What the page begins with is one file, also where a part that is loaded later uses some of it
    rolldownOptions: { output: { codeSplitting: { groups: [{ name: "index", tags: ["$initial"] }] } } },
  },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  server: {
    proxy: { "/api": { target: server, ws: true, changeOrigin: true, rewriteWsOrigin: true } },
  },
  test: { include: ["test/**/*.test.ts"], environment: "node" },
}));
