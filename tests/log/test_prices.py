"""What a model call costs: by the library, by a file, by nobody; and that it is stored when the event is."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import genai_prices
import orjson
import pytest
from genai_prices.data_snapshot import get_snapshot

from tests.log.helpers import opened
from tracewatch.errors import LogError
from tracewatch.log import Prices, read_prices
from tracewatch.log.prices import MOST_RATES
from tracewatch.model.events import validate_trace

AT = "2026-03-20T08:00:00.000Z"
Json = dict[str, Any]
pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def prices() -> Prices:
    return Prices()


def cost(prices: Prices, model: str, usage: Json, at: str = AT) -> float | None:
    return prices({"model": model, "usage": usage}, at)


def asked(model: str, usage: Json, at: str = AT) -> float | None:
    """What the library itself says."""
    try:
        found = genai_prices.calc_price(
            genai_prices.Usage(**usage), model, genai_request_timestamp=datetime.fromisoformat(at)
        )
    except (LookupError, ValueError):
        return None
    return float(found.total_price)


def test_rates_give_what_the_library_gives_for_every_model_below_and_above_its_tiers(prices: Prices) -> None:
    drawn = random.Random(20261130)
    known = 0
    for provider in get_snapshot().providers:
        for model in provider.models[:25]:
            total = drawn.choice([1000, 200_000, 200_001, 1_000_000])
            usage = {
                "input_tokens": total,
                "output_tokens": drawn.randrange(5000),
                "cache_read_tokens": drawn.randrange(total // 2),
                "cache_write_tokens": drawn.randrange(total // 3),
            }
            expected = asked(model.id, usage)
            if expected is not None:
                known += 1
                assert cost(prices, model.id, usage) == pytest.approx(expected, abs=1e-9), (provider.id, model.id)
    assert known > 200


def test_a_known_price_by_hand(prices: Prices) -> None:
    """Claude Sonnet 4.5: 3 dollars for a million of input, 15 of output, 0.30 read from and 3.75 written to a cache."""
    used = {"input_tokens": 10_000, "cache_read_tokens": 8000, "cache_write_tokens": 1000, "output_tokens": 200}
    assert cost(prices, "claude-sonnet-4-5", used) == round((1000 * 3 + 8000 * 0.3 + 1000 * 3.75 + 200 * 15) / 1e6, 10)


@pytest.mark.parametrize("hour", ["08:00", "20:00"])
def test_a_price_by_the_time_of_day_is_asked_for_each_call(prices: Prices, hour: str) -> None:
    at = f"2026-03-20T{hour}:00.000Z"
    assert cost(prices, "deepseek-chat", {"input_tokens": 1000}, at) == asked(
        "deepseek-chat", {"input_tokens": 1000}, at
    )


def test_a_price_is_that_of_the_day(prices: Prices) -> None:
    for day in ("2025-06-01", "2026-11-01"):
        at = f"{day}T00:00:00.000Z"
        assert cost(prices, "o3", {"input_tokens": 1000}, at) == asked("o3", {"input_tokens": 1000}, at)


@pytest.mark.parametrize(
    "model", ["openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5", "us.anthropic.claude-sonnet-4-20250514-v1:0"]
)
def test_names_with_a_provider_in_front_are_known(prices: Prices, model: str) -> None:
    assert cost(prices, model, {"input_tokens": 1000})


@pytest.mark.parametrize(
    ("model", "usage"),
    [
        ("<synthetic>", {"input_tokens": 9}),
        ("my-own", {"input_tokens": 9}),
        ("", {"input_tokens": 9}),
        ("gpt-4o " * 10_000, {"input_tokens": 9}),
        ("gpt-4o", {}),
        ("gpt-4o", {"reasoning_tokens": 0}),
        ("gpt-4o", {"input_tokens": 10, "cache_read_tokens": 1000, "output_tokens": 5}),
        ("gpt-4o", {"input_tokens": 10, "output_tokens": 5, "reasoning_tokens": 6}),
    ],
)
def test_what_nobody_knows_has_no_cost(prices: Prices, model: str, usage: Json) -> None:
    assert cost(prices, model, usage) is None


def test_what_is_remembered_of_models_is_bounded(prices: Prices) -> None:
    for number in range(MOST_RATES + 5):
        assert cost(prices, f"nobodys-{number}", {"input_tokens": 1}) is None
    assert cost(prices, "gpt-4o", {"input_tokens": 1_000_000}) == 2.5


# --- a file ------------------------------------------------------------------------------------------------------

TOML = """
[models."my-*"]
input = 1
output = 4

[models."my-exact"]
input = 2
output = 8
cache_read = 0.5
reasoning = 10

[models."deployment-7"]
like = "gpt-4o"

[models."gpt-4o-mini"]
input = 0
output = 0
"""


def test_a_file_adds_models_and_overrides_them(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(TOML)
    prices = Prices(read_prices(str(file)))
    used = {"input_tokens": 1000, "output_tokens": 100, "cache_read_tokens": 400, "reasoning_tokens": 60}
    assert cost(prices, "my-other", used) == 0.0014
    assert cost(prices, "my-exact", used) == round((600 * 2 + 400 * 0.5 + 40 * 8 + 60 * 10) / 1e6, 10)
    assert (
        cost(prices, "deployment-7", {"input_tokens": 1000}) == cost(prices, "gpt-4o", {"input_tokens": 1000}) == 0.0025
    )
    assert cost(prices, "gpt-4o-mini", {"input_tokens": 1000}) == 0.0
    as_json = tmp_path / "prices.JSON"
    as_json.write_bytes(orjson.dumps({"models": {"my-*": {"input": 1, "output": 4}}}))
    assert cost(Prices(read_prices(str(as_json))), "my-other", used) == 0.0014


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models = 3", "must have one table, models"),
        ("[model.x]\ninput = 1", "must have one table, models"),
        ("[models.x]\ninput = 1", "models.x.output: missing"),
        ("[models.x]\ninput = 1\noutput = 1\ncached = 1", "models.x.cached: unknown"),
        ("[models.x]\ninput = -1\noutput = 1", "models.x.input: -1 is not a number of dollars"),
        ("[models.x]\ninput = nan\noutput = 1", "models.x.input: nan is not a number"),
        ("[models.x]\ninput = true\noutput = 1", "models.x.input: True is not a number"),
        ("[models]\nx = 1", "models.x: must be a table"),
        ("[models.x]\nlike = 'a'\ninput = 1", "models.x.like"),
        ("{", "is not TOML"),
    ],
)
def test_a_fault_of_a_file_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(LogError, match=r"prices\.toml") as caught:
        read_prices(str(file))
    assert said in caught.value.message


def test_a_bad_file_ends_the_start_with_a_line(tmp_path: Path) -> None:
    for file, said in ((tmp_path / "none.toml", "No such file"), (tmp_path / "bad.json", "is not JSON")):
        if file.suffix == ".json":
            file.write_text("{")
        done = subprocess.run(
            [sys.executable, "-m", "tracewatch", "serve", "--port", "0", "--db", str(tmp_path / "x.db")],
            env={**os.environ, "TRACEWATCH_PRICES": str(file)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1
        assert said in done.stderr
        assert str(file) in done.stderr
        assert "Traceback" not in done.stderr


# --- in the log --------------------------------------------------------------------------------------------------


def said(**fields: Any) -> Json:
    return {"event": "message_added", "message": {"role": "assistant", "content": "hi", **fields}}


async def _stored(url: str, *batches: list[Json]) -> tuple[list[Json], Any]:
    async with opened(url) as log:
        await log.create_trace(validate_trace({"task": "t", "trace_id": "t"}))
        await asyncio.gather(*(log.append("t", batch, producer=None) for batch in batches))
        page = await log.read("t", 0, max_events=100, max_bytes=1 << 20)
        return [orjson.loads(body) for body in page.bodies], (await log.snapshot("t")).state


async def test_a_call_is_priced_when_it_is_appended_and_one_with_a_cost_is_not(url: str) -> None:
    used = {"input_tokens": 1000, "output_tokens": 100}
    events, state = await _stored(
        url,
        [said(model="claude-opus-4-6", usage=used, message_id="a")],
        [
            said(model="claude-haiku-4-5", usage=used, message_id="b"),
            said(model="gpt-4o", usage=used, cost=0.5, message_id="c"),
            said(model="my-own", usage=used, message_id="d"),
            said(model="gpt-4o", message_id="e"),
        ],
    )
    messages = {event["message"]["message_id"]: event["message"] for event in events}
    assert [(m.get("cost"), m.get("cost_source")) for _, m in sorted(messages.items())] == [
        (0.0075, "priced"),
        (0.0015, "priced"),
        (0.5, None),
        (None, None),
        (None, None),
    ]
    assert state.total_cost == pytest.approx(0.509)
    assert [event["event_id"] for event in events] == [1, 2, 3, 4, 5]
    assert [event["message"]["message_id"] for event in events] == list("abcde")  # in order, though `a` had to wait


async def test_a_patch_prices_again_what_was_priced_and_leaves_what_was_given(url: str) -> None:
    used = {"input_tokens": 1000, "output_tokens": 100}

    def patch(message_id: str, **fields: Any) -> Json:
        return {"event": "message_updated", "message_id": message_id, "patch": fields}

    events, state = await _stored(
        url,
        [
            said(model="gpt-4o", status="streaming", message_id="a"),
            patch("a", usage={"input_tokens": 1000}),
            patch("a", usage=used),
            patch("a", model="gpt-4o-mini"),
            patch("a", cost=0.25),
            patch("a", usage=used | {"output_tokens": 200}),
            said(cost=0.5, message_id="b"),
            patch("b", model="gpt-4o", usage=used),
        ],
    )
    given = [(e["patch"].get("cost"), e["patch"].get("cost_source")) for e in events if "patch" in e]
    assert given == [
        (0.0025, "priced"),
        (0.0035, "priced"),
        (0.00021, "priced"),
        (0.25, None),
        (None, None),
        (None, None),
    ]
    assert state.total_cost == 0.75


async def test_a_call_is_priced_as_of_when_it_was(url: str) -> None:
    used = {"input_tokens": 1_000_000}
    before, after = "2025-06-01T00:00:00.000Z", "2026-01-01T00:00:00.000Z"  # o3 became cheaper on 2025-06-10
    events, _ = await _stored(url, [{**said(model="o3", usage=used), "occurred_at": at} for at in (before, after)])
    assert [event["message"]["cost"] for event in events] == [
        asked("o3", used, before),
        asked("o3", used, after),
    ]
    assert events[0]["message"]["cost"] > events[1]["message"]["cost"]


async def test_a_library_that_cannot_be_loaded_costs_no_append(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    events, state = await _stored(url, [said(model="gpt-4o", usage={"input_tokens": 9})])
    assert "cost" not in events[0]["message"]
    assert state.total_cost is None
    assert "genai-prices can't be loaded" in caplog.text


def test_the_library_is_loaded_for_the_first_usage_only_and_starts_no_thread(tmp_path: Path) -> None:
    code = """if True:
        import asyncio, sys, threading
        from tracewatch.log import open_log
        from tracewatch.model.events import validate_trace
        async def main():
            log = await open_log(sys.argv[1])
            await log.create_trace(validate_trace({"task": "t", "trace_id": "t"}))
            said = {"role": "assistant", "content": "hi", "model": "gpt-4o", "tokens": 9}
            await log.append("t", [{"event": "message_added", "message": said}])
            assert "genai_prices" not in sys.modules
            await log.append("t", [{"event": "message_added", "message": {**said, "usage": {"input_tokens": 9}}}])
            assert "genai_prices" in sys.modules
            assert not [one.name for one in threading.enumerate() if "price" in one.name.lower()]
            from genai_prices import data_snapshot
            assert data_snapshot._custom_snapshot is None
            await log.close()
        asyncio.run(main())
    """
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "log.db")], check=True, timeout=120)
