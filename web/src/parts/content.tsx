// Big and binary content that a message refers to: what it is, a picture of it, and ways to read, open and save it.
//
// Rule: what an agent recorded runs nowhere. An address of our own origin is only made of what can't run, with a type
//       of our choice; all else can be saved.

import { useEffect, useState } from "preact/hooks";
import { bytes, visible } from "../format";
import { fetchContent } from "../net/api";
import type { Reference } from "../net/protocol";

const PICTURE = /^image\/(png|jpeg|gif|webp|avif|bmp)$/;
const TEXT = /^(text\/[\w.+-]+|application\/([\w.-]+\+)?(json|xml))$/;
const MOST_PICTURE = 8 * 1024 * 1024; // bytes of one that is shown without being asked for
const MOST_TEXT = 200_000; // characters that are shown in the page

export function Contents({ of, traceId }: { of: Reference[]; traceId: string }) {
  return (
    <div class="contents">
      {of.map((one) => (
        <Content key={one.blob} of={one} traceId={traceId} />
      ))}
    </div>
  );
}

function Content({ of, traceId }: { of: Reference; traceId: string }) {
  const [fault, setFault] = useState("");
  const [picture, setPicture] = useState("");
  const [text, setText] = useState<string | null>(null);
  const isPicture = PICTURE.test(of.media_type);
  const isText = TEXT.test(of.media_type);
  const name = visible(typeof of.name === "string" && of.name ? of.name : `${of.blob.slice(0, 12)}`);

  const read = async (use: (content: Blob) => void | Promise<void>) => {
    try {
      setFault("");
      await use(await fetchContent(traceId, of.blob));
    } catch (error) {
      setFault((error as Error).message);
    }
  };

  useEffect(() => {
    if (!isPicture || of.bytes > MOST_PICTURE) return;
    let address = "";
    let gone = false;
    void read((content) => {
      if (gone) return;
      address = URL.createObjectURL(new Blob([content], { type: of.media_type }));
      setPicture(address);
    });
    return () => {
      gone = true;
      URL.revokeObjectURL(address);
    };
  }, [of.blob, traceId]);

  const open = () =>
    read((content) => follow(content, isPicture ? of.media_type : "text/plain;charset=utf-8", { target: "_blank" }));
  const save = () => read((content) => follow(content, "application/octet-stream", { download: name }));
  const show = () => read(async (content) => setText((await content.text()).slice(0, MOST_TEXT)));
  return (
    <div class="content">
      {isPicture && of.bytes <= MOST_PICTURE && (
        <button class="thumb" title="open the picture" onClick={open}>
          {picture && <img src={picture} alt={name} />}
        </button>
      )}
      {isText && <pre class="plain">{visible(text ?? (typeof of.preview === "string" ? of.preview : ""))}</pre>}
      <p class="dim small">
        {name} · {visible(of.media_type)} · {bytes(of.bytes)}{" "}
        {isText && text === null && (
          <button class="link" onClick={show}>
            show
          </button>
        )}{" "}
        {(isText || isPicture) && (
          <button class="link" onClick={open}>
            open
          </button>
        )}{" "}
        <button class="link" onClick={save}>
          save
        </button>
        {text !== null && text.length === MOST_TEXT && " · the beginning"}
      </p>
      {fault && <p class="fault">{visible(fault)}</p>}
    </div>
  );
}

function follow(content: Blob, type: string, how: { target?: string; download?: string }): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.rel = "noopener";
  Object.assign(link, how);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
