// The layers above every page: the help, the dialog for the token, and the message that is shown for a moment.

import { useEffect } from "preact/hooks";
import { say, spoken, toast } from "../app";
import { go, HOME } from "../net/route";
import { unkept } from "../net/storage";
import { Dialog } from "./dialog";
import { allKeys, helpOpen, useKeys } from "./keys";
import { Live } from "./marks";
import { nextTheme } from "./theme";
import { TokenDialog } from "./token";

export function Overlays() {
  const lost = unkept.value;
  useEffect(() => {
    if (lost) say("This browser keeps no data of sites: what you choose here holds until the page is left", true);
  }, [lost]);
  useKeys("Everywhere", [
    { keys: "?", does: "These keys", run: () => (helpOpen.value = !helpOpen.value) },
    { keys: "t", does: "All traces", run: () => go(HOME) },
    { keys: "d", does: "Light, dark or the system's colours", run: nextTheme },
  ]);
  return (
    <>
      {helpOpen.value && <Help />}
      <TokenDialog />
      {toast.value && (
        <div aria-hidden="true" class={`toast${toast.value.bad ? " bad" : ""}`}>
          {toast.value.words}
        </div>
      )}
      <Live of={spoken} />
    </>
  );
}

const TREE_KEYS = [
  ["↑ ↓ Home End", "Move"],
  ["→ ←", "Open, close, to the parent"],
  ["Enter", "Show only this goal's messages"],
];

function Help() {
  const nice = (keys: string) =>
    keys.split(" ").map((key) => <kbd key={key}>{{ ArrowDown: "↓", ArrowUp: "↑" }[key] ?? key}</kbd>);
  return (
    <Dialog title="Keys" class="help" close={() => (helpOpen.value = false)}>
      {allKeys().map(({ title, keys }) => (
        <section key={title}>
          <h3>{title}</h3>
          <dl>
            {keys.map((key) => (
              <div key={key.keys}>
                <dt>{nice(key.keys)}</dt>
                <dd>{key.does}</dd>
              </div>
            ))}
          </dl>
        </section>
      ))}
      <section>
        <h3>In the goal tree</h3>
        <dl>
          {TREE_KEYS.map(([keys, does]) => (
            <div key={keys}>
              <dt>{nice(keys!)}</dt>
              <dd>{does}</dd>
            </div>
          ))}
        </dl>
      </section>
    </Dialog>
  );
}
