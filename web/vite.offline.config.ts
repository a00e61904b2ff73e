// Builds offline.html beside the page: the whole viewer in one file. An export puts the traces in.
import { createHash } from "node:crypto";
import { defineConfig, type Plugin } from "vite";

const hash = (text: string) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

const onePage: Plugin = {
  name: "one-page",
  enforce: "post",
  generateBundle(_options, bundle) {
    let script = "";
    let style = "";
    for (const [name, file] of Object.entries(bundle)) {
      // Vite leaves a name where the files to load before a chunk would stand; here there are none
      if (file.type === "chunk") script += file.code.replaceAll("__VITE_PRELOAD__", "void 0");
      else if (name.endsWith(".css")) style += String(file.source);
      delete bundle[name];
    }
    script = script.replace(/<(?=!--|\/?script)/gi, "\\x3c"); // HTML would read these
    const hashes = `script-src ${hash(script)}; style-src ${hash(style)}`;
    const policy = `default-src 'none'; ${hashes}; img-src blob:; base-uri 'none'; form-action 'none'`;
    const source = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>tracewatch</title>
<style>${style}</style>
</head>
<body>
<div id="app"></div>
<script type="application/x-ndjson" id="tracewatch-export"><!-- traces --></script>
<script type="module">${script}</script>
</body>
</html>
`;
    this.emitFile({ type: "asset", fileName: "offline.html", source });
  },
};

export default defineConfig({
  base: "./",
  build: {
    outDir: "../tracewatch/web",
    emptyOutDir: false,
    cssCodeSplit: false,
    modulePreload: false,
    target: "es2022",
    reportCompressedSize: false,
    rolldownOptions: { input: "src/main.tsx", output: { codeSplitting: false } },
  },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  plugins: [onePage],
});
