// A picture, a file or a long text that an agent gave: pictures as thumbnails that open, texts by their beginning, all
// of it to be saved.
//
// Rule 1: a picture has the height of its place before it is here, so nothing moves when it comes.
// Rule 2: what is shown is made here of bytes that came from the log: no element names an address of elsewhere.

import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { bytes as sized, visible } from "../format";
import { type Attached, attachedWords, isPicture, isText } from "../log/attached";
import { fetchContent } from "../net/api";
import { Dialog } from "./dialog";

const AT_ONCE = 10_000_000; // bytes; larger pictures are asked for
const PAGE = 1_000_000; // bytes of a text that are shown at a time
const MOST_URLS = 60;

/** A content as a Blob. A type that a browser would run is never given to one. */
async function contentOf(traceId: string, one: Attached): Promise<Blob> {
  const type = isPicture(one) ? one.mediaType : "application/octet-stream";
  if (one.blob !== null) return new Blob([await fetchContent(traceId, one.blob)], { type });
  const text = atob(one.base64!);
  return new Blob([Uint8Array.from(text, (character) => character.charCodeAt(0))], { type });
}

const urls = new Map<string, Promise<string>>(); // by content; rows come and go as one scrolls

function urlOf(traceId: string, one: Attached): Promise<string> {
  const key = one.blob === null ? one.base64! : `${traceId}/${one.blob}`;
  let url = urls.get(key);
  if (!url) {
    url = contentOf(traceId, one).then((content) => URL.createObjectURL(content));
    url.catch(() => urls.delete(key));
    if (urls.size >= MOST_URLS) {
      const [oldest, gone] = urls.entries().next().value!;
      urls.delete(oldest);
      void gone.then(URL.revokeObjectURL, () => undefined);
    }
  }
  urls.delete(key);
  urls.set(key, url);
  return url;
}

/** The address of a content in this page, or why there is none. */
function useUrl(traceId: string, one: Attached, wanted: boolean): { url: string; fault: string; again: () => void } {
  const [got, setGot] = useState({ url: "", fault: "" });
  const [tries, setTries] = useState(0);
  useEffect(() => {
    if (!wanted) return;
    let over = false;
    const set = (url: string, fault: string) => over || setGot({ url, fault });
    urlOf(traceId, one).then(
      (url) => set(url, ""),
      (error: Error) => set("", error.name === "InvalidCharacterError" ? "it is no base64" : error.message),
    );
    return () => {
      over = true;
    };
  }, [traceId, one.blob, one.base64, wanted, tries]);
  return { ...got, again: () => setTries((n) => n + 1) };
}

export function Content({ traceId, of: one }: { traceId: string; of: Attached }) {
  if (isPicture(one)) return <Picture traceId={traceId} one={one} />;
  return (
    <span class="attached">
      {isText(one) && one.preview && <pre class="term">{visible(one.preview)}</pre>}
      <span class="about">
        <About one={one} />
        {isText(one) && (
          <button class="link" onClick={() => lookAt(<Text traceId={traceId} one={one} />, one)}>
            Open
          </button>
        )}
        <Save traceId={traceId} one={one} />
      </span>
    </span>
  );
}

function About({ one }: { one: Attached }) {
  return (
    <>
      {one.name && <bdi>{visible(one.name)}</bdi>} <span>{visible(one.mediaType)}</span>{" "}
      <span class="num">{sized(one.bytes)}</span>
    </>
  );
}

function Picture({ traceId, one }: { traceId: string; one: Attached }) {
  const [asked, setAsked] = useState(one.bytes <= AT_ONCE);
  const [broken, setBroken] = useState(false);
  const { url, fault, again } = useUrl(traceId, one, asked);
  const words = visible(attachedWords(one));
  return (
    <span class="attached">
      {!asked ? (
        <span class="thumb">
          <button onClick={() => setAsked(true)}>Show the picture, {sized(one.bytes)}</button>
        </span>
      ) : fault || broken ? (
        <span class="thumb" role="alert">
          <span class="dim">{broken ? "This is no picture that can be drawn." : `Not loaded: ${visible(fault)}.`}</span>
          {!broken && (
            <button class="link" onClick={again}>
              Try again
            </button>
          )}
        </span>
      ) : (
        <button
          class="thumb"
          aria-label={`Open the picture: ${words}`}
          title={words}
          disabled={!url}
          onClick={() => lookAt(<img src={url} alt={words} />, one, <Save traceId={traceId} one={one} />)}
        >
          {url && <img src={url} alt="" decoding="async" onError={() => setBroken(true)} />}
        </button>
      )}
      <span class="about">
        <About one={one} />
        <Save traceId={traceId} one={one} />
      </span>
    </span>
  );
}

function Save({ traceId, one }: { traceId: string; one: Attached }) {
  const [said, setSaid] = useState("");
  const save = async () => {
    setSaid("Saving…");
    try {
      const url = URL.createObjectURL(await contentOf(traceId, one));
      const link = document.createElement("a");
      link.href = url;
      link.download = one.name.replace(/^.*[\\/]/, "") || `${(one.blob ?? "content").slice(0, 12)}.${endingOf(one)}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
      setSaid("");
    } catch (error) {
      setSaid(`Not saved: ${visible((error as Error).message)}`);
    }
  };
  return (
    <>
      <button class="link" onClick={save}>
        Save
      </button>
      {said && <span role="status">{said}</span>}
    </>
  );
}

const ENDINGS: Record<string, string> = {
  jpeg: "jpg",
  plain: "txt",
  "svg+xml": "svg",
  "octet-stream": "bin",
  mpeg: "mp3",
};

function endingOf({ mediaType }: Attached): string {
  const kind = mediaType.split("/")[1] ?? "bin";
  return ENDINGS[kind] ?? (/^[a-z0-9]{1,8}$/.test(kind) ? kind : "bin");
}

/** A long text, a part at a time. */
function Text({ traceId, one }: { traceId: string; one: Attached }) {
  const [parts, setParts] = useState<string[]>([]);
  const [at, setAt] = useState(0);
  const [fault, setFault] = useState("");
  const [decoder] = useState(() => new TextDecoder());
  const more = () => {
    setFault("");
    const read = async () => {
      const part = await (await fetchContent(traceId, one.blob!, at, at + PAGE)).arrayBuffer();
      const next = at + part.byteLength;
      const text = decoder.decode(part, { stream: next < one.bytes });
      setParts((before) => [...before, text]);
      setAt(part.byteLength ? next : one.bytes);
    };
    read().catch((error: Error) => setFault(error.message));
  };
  useEffect(more, []);
  return (
    <>
      {parts.map((part, i) => (
        <pre key={i} class="term" tabIndex={i ? undefined : 0}>
          {visible(part)}
        </pre>
      ))}
      {fault && <p class="fault">Not loaded: {visible(fault)}</p>}
      {(at < one.bytes || fault) && (
        <button class="link" onClick={more}>
          {at === 0 && !fault ? "Loading…" : `Show more, ${sized(one.bytes - at)} to go`}
        </button>
      )}
    </>
  );
}

/** Shown above the page, until it is closed. */
function lookAt(what: preact.ComponentChild, one: Attached, more?: preact.ComponentChild): void {
  const host = document.createElement("div");
  document.body.append(host);
  const close = () => {
    render(null, host);
    host.remove();
  };
  render(
    <Dialog title={one.name || one.mediaType} class="looking" close={close}>
      {what}
      <p class="about">
        <About one={one} /> {more}
      </p>
    </Dialog>,
    host,
  );
}
