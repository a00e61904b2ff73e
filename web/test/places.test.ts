import { expect, test } from "vitest";
import { visible } from "../src/format";
import { shownBehind } from "../src/parts/growing";
import { sameWord } from "../src/parts/place";

test("the same word is found in a text that was drawn anew", () => {
  const plain = "It is **the [cookie](https://example.com/the/cookie)**.\n\n1. the _first_\n2. the second";
  const drawn = "It is the cookie.\n the first the second";
  const at = (word: string, nth = 0) => plain.split(word, nth + 1).join(word).length;
  expect(sameWord(plain, 0, drawn)).toBe(0);
  expect(sameWord(plain, at("cookie") + 2, drawn)).toBe(drawn.indexOf("cookie") + 2);
  expect(sameWord(plain, at("first"), drawn)).toBe(drawn.indexOf("first"));
  expect(sameWord(plain, at("second"), drawn)).toBe(drawn.indexOf("second"));
  expect(sameWord(plain, plain.length, drawn, true), "the end of a selection").toBe(drawn.length);
  expect(sameWord(plain, at("second"), "It is the cookie."), "it was folded away").toBe(null);
  expect(sameWord(drawn, drawn.indexOf("second"), plain), "and back").toBe(at("second"));
});

test("a text in pieces is shown as the whole would be", () => {
  const whole = "a👩‍💻b\u200dc\u0007\u001b[31mد‌ر\r\nend";
  for (let first = 0; first <= whole.length; first++) {
    if (/[\ud800-\udbff\r]/.test(whole[first - 1] ?? "")) continue; // held back until its other half is here
    const shown = visible(whole.slice(0, first)) + shownBehind(whole, first, whole.length);
    expect(shown, String(first)).toBe(visible(whole));
  }
});
