// Markdown to HTML that is not yet safe, in bounded time. markdown-render.ts loads this lazily and sanitises.
//
// Rule 1: marked tries each emphasis sign against the rest of its paragraph, and each quote inside another one anew.
//         So a paragraph with too many signs is taken some lines at a time; a line with too many of them, and what is
//         nested too deeply, is plain text.
// Rule 2: once a long text has cost much work and its time is up, its other paragraphs are plain text; if not even the
//         paragraphs are known by then, an error is raised. A short text is never measured by a clock, so that a busy
//         machine shows it as any other machine does.

import { Lexer, Marked, type MarkedOptions, type Token, type TokensList } from "marked";

const DEEPEST = 40; // quotes and lists inside one another
const LONGEST = 4000; // characters that are parsed in one piece
const MOST_SIGNS = 400; // of emphasis in one piece
const PIECE = 1000; // characters of a piece, where a paragraph is parsed in pieces
const FREE_WORK = 8_000_000; // characters looked at before the clock counts
const CALL = 4000; // the work of a call, in characters
const DEADLINE_MS = 1000;

function isSmall(text: string): boolean {
  if (text.length > LONGEST) return false;
  let signs = 0;
  for (let i = 0; i < text.length; i++) if (text[i] === "*" || text[i] === "_") signs++;
  return signs <= MOST_SIGNS;
}

function addPlain(text: string, tokens: Token[]): Token[] {
  for (const [n, line] of text.split("\n").entries()) {
    if (n) tokens.push({ type: "br", raw: "\n" });
    tokens.push({ type: "text", raw: line, text: line, escaped: false });
  }
  return tokens;
}

/** The lines of a text in groups of at most PIECE characters; a longer line is a group of its own. */
function* pieces(text: string): Generator<string> {
  let group = "";
  for (const line of text.split("\n")) {
    if (group && group.length + line.length > PIECE) {
      yield group;
      group = line;
    } else group = group ? `${group}\n${line}` : line;
  }
  yield group;
}

class BoundedLexer extends Lexer {
  private depth = 0;
  private work = 0;
  private readonly end = performance.now() + DEADLINE_MS;

  private over(text: string, cost: number): boolean {
    this.work += CALL + text.length * cost;
    return this.work > FREE_WORK && performance.now() > this.end;
  }

  override blockTokens(text: string, tokens?: Token[], clipped?: boolean): Token[];
  override blockTokens(text: string, tokens?: TokensList, clipped?: boolean): TokensList;
  override blockTokens(text: string, tokens: Token[] = [], clipped?: boolean): Token[] {
    if (this.over(text, 1)) throw new Error("this markdown takes too long");
    if (this.depth >= DEEPEST) {
      tokens.push({ type: "paragraph", raw: text, text, tokens: addPlain(text, []) });
      return tokens;
    }
    this.depth++;
    super.blockTokens(text, tokens, clipped);
    this.depth--;
    return tokens;
  }

  override inlineTokens(text: string, tokens: Token[] = []): Token[] {
    if (this.over(text, MOST_SIGNS)) return addPlain(text, tokens);
    if (isSmall(text)) return super.inlineTokens(text, tokens);
    let first = true;
    for (const piece of pieces(text)) {
      if (!first) tokens.push({ type: "br", raw: "\n" });
      first = false;
      if (isSmall(piece) && !this.over(piece, MOST_SIGNS)) super.inlineTokens(piece, tokens);
      else addPlain(piece, tokens);
    }
    return tokens;
  }
}

const marked = new Marked({ gfm: true, breaks: true, async: false });
// HTML in an agent's text is something it says, not something to draw
const escaped = (text: string) => text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
marked.use({
  hooks: {
    provideLexer: () => (text, options) => new BoundedLexer(options as unknown as MarkedOptions).lex(text),
  },
  renderer: {
    html: ({ text }) => escaped(text),
    // Below the page's own headings
    heading({ tokens, depth }) {
      const level = Math.min(6, depth + 2);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
  },
});

/** The text as HTML, with whatever tags and addresses are in it. Raises an error where that takes too long. */
export const parse = (text: string): string => marked.parse(text) as string;
