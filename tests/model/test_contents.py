"""What is big or binary in a value: taken out, and put together again exactly."""

from __future__ import annotations

import base64
import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracewatch.model.blobs import MAX_BLOB_BYTES, references
from tracewatch.model.contents import INLINE_BYTES, MOST_KEPT, kept_bytes, reference, replaced, restored, taken_out

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
B64 = base64.b64encode(PNG).decode()
LONG = "a line of output\n" * 5000


class Kept(dict[str, bytes]):
    """What was kept, by its SHA-256."""

    def __call__(self, data: bytes, media_type: str, preview: str, **more: Any) -> dict[str, Any] | None:
        made = reference(data, media_type, preview, **more)
        self[made["blob"]] = data
        return made


def nothing(data: bytes, media_type: str, preview: str, **more: Any) -> dict[str, Any] | None:
    return None


def back(value: Any, kept: Kept) -> Any:
    return replaced(value, lambda ref: restored(ref, kept[ref["blob"]]))


PICTURES: list[Any] = [
    f"data:image/png;base64,{B64}",
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": B64}},
    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": B64}},
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{B64}", "detail": "low"}},
    {"type": "input_image", "image_url": f"data:image/png;charset=x;base64,{B64}"},
    {"type": "input_audio", "input_audio": {"data": B64, "format": "wav"}},
    {"type": "file", "file": {"filename": "a.pdf", "file_data": B64}},
    {"type": "image", "data": B64, "mimeType": "image/png"},
    {"type": "resource", "resource": {"uri": "file:///a", "mimeType": "text/plain", "blob": B64}},
    {"inline_data": {"mime_type": "image/png", "data": B64}},
    {"inlineData": {"mimeType": "image/png", "data": B64}},
    {"type": "image", "file": {"base64": B64, "type": "image/png", "originalSize": len(PNG)}},
    {"b64_json": B64},
]


@pytest.mark.parametrize("value", PICTURES, ids=[str(value)[:60] for value in PICTURES])
def test_a_picture_in_any_known_form_is_kept_as_its_bytes(value: Any) -> None:
    kept = Kept()
    found = taken_out(copy.deepcopy(value), kept)
    assert list(kept.values()) == [PNG] and B64 not in orjson.dumps(found).decode()
    assert back(found, kept) == value


def test_a_picture_that_is_there_twice_is_kept_once() -> None:
    kept = Kept()
    taken_out(PICTURES, kept)
    assert list(kept.values()) == [PNG]


LARGE: list[Any] = [
    LONG,
    {"tool_name": "run", "result": LONG, "arguments": {"a": 1}},
    [{"type": "text", "text": LONG}, {"type": "text", "text": "short"}],
    {"tool_name": "query", "result": {"rows": list(range(50_000))}},
    [{"n": n, "text": "x" * 100} for n in range(3000)],
    {"result": [{"text": LONG}, {"rows": list(range(50_000))}]},
    "ü" * 40_000,
]


@pytest.mark.parametrize("value", LARGE, ids=[str(value)[:40] for value in LARGE])
def test_what_is_large_is_kept_and_what_is_around_it_stays(value: Any) -> None:
    kept = Kept()
    found = taken_out(copy.deepcopy(value), kept)
    assert kept and len(orjson.dumps(found)) < INLINE_BYTES
    assert back(found, kept) == value
    if isinstance(value, dict):
        assert found.keys() == value.keys()


SMALL: list[Any] = [
    *("words", "x" * INLINE_BYTES, "data: no url", "data:image/png;base64,not base64!", {"data": "abcd"}, 7, None),
    {"type": "text", "media_type": "text/plain", "data": "abcd"},
    {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
    {"type": "application/json", "data": "abcd"},
    {"type": "base64", "media_type": "image/png", "data": "QR=="},  # which we would write in another way
    [{"blob": "x", "bytes": 3}, {"n": list(range(1000))}],
]


@pytest.mark.parametrize("value", SMALL, ids=[str(value)[:40] for value in SMALL])
def test_all_else_stays_as_it_is(value: Any) -> None:
    kept = Kept()
    assert taken_out(copy.deepcopy(value), kept) == value and not kept


def test_what_is_too_long_says_by_how_much() -> None:
    kept = Kept()
    ref = taken_out("x" * (MAX_BLOB_BYTES + 1000), kept)
    assert ref["bytes"] <= MAX_BLOB_BYTES
    assert kept[ref["blob"]].endswith(b" bytes]") and b"shortened by the recorder: 1" in kept[ref["blob"]][-100:]
    assert taken_out(bytes(MAX_BLOB_BYTES + 1), kept).endswith(
        f"[shortened by the recorder: {MAX_BLOB_BYTES + 1} bytes]"
    )
    text = kept_bytes(b"x" * (MAX_BLOB_BYTES + 1), kept, "text/plain", 10**9)
    assert kept[text["blob"]].endswith(b" bytes]") and b"shortened by the recorder: 966" in kept[text["blob"]][-100:]


def test_the_work_for_one_value_has_an_end() -> None:
    kept = Kept()
    found = taken_out(["x" * 2**20 + str(n) for n in range(200)], kept)
    assert sum(map(len, kept.values())) <= MOST_KEPT and len(orjson.dumps(found)) < 6 * 2**20


def test_what_can_not_be_kept_stays_in_part() -> None:
    assert taken_out(LONG, nothing) == LONG
    assert taken_out(PNG, nothing).startswith("image/png, 264 bytes")
    assert taken_out(PICTURES[1], nothing) == PICTURES[1]


json_values = st.recursive(
    st.none() | st.integers(-(2**53), 2**53) | st.text() | st.sampled_from([LONG, B64, f"data:a/b;base64,{B64}"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["data", "type", "text", "media_type"]), inner),
)


@given(json_values)
def test_any_value_comes_back(value: Any) -> None:
    kept = Kept()
    found = taken_out(copy.deepcopy(value), kept)
    assert back(found, kept) == value
    assert references(found).keys() == kept.keys()
