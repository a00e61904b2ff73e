// Pictures, files and long texts where they are shown; what shows them is loaded with the first one.

import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Attached } from "../log/attached";
import { Later, lazily } from "./later";

/** The trace whose values are shown, which has the contents that they refer to. */
export const OfTrace = createContext("");

const Content = lazily(new Later(() => import("./content")), (module) => module.Content);

export function Contents({ of }: { of: Attached[] }) {
  const traceId = useContext(OfTrace);
  if (!of.length) return null;
  return (
    <div class="contents">
      {of.map((one) => (
        <Content key={one.blob ?? one.base64} traceId={traceId} of={one} />
      ))}
    </div>
  );
}
