"""What a model call costs, by its model and its usage: the prices of the library ``genai-prices``, and a file's.

Rule 1: nothing is fetched. The library's prices are those of its release; a file (``read_prices``) adds to them.
Rule 2: the library is loaded for the first usage without a cost, and not before: it takes the better part of a second.
Rule 3: the library is asked for the rates of a model on a day, once, and not for each message: it takes as long as the
        rest of an append. Above a model's first tier, and where prices go by the time of day, it is asked each time.
Rule 4: what nobody knows is None: a model without a price, a usage that contradicts itself. It is never guessed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from ..errors import LogError
from ..model.events import PARTS_OF_MESSAGES
from ..model.usage import PARTS

logger = logging.getLogger("tracewatch.log")
MODEL_CHARS = 200  # a longer name is no model's
MOST_RATES = 1000  # of models and days that are remembered
MOST_DOLLARS = 1e9  # of one message (protocol, section 2)
_MILLION = 1_000_000
_AWS = re.compile(r"(?:^|\.)(?:ai21|amazon|anthropic|cohere|deepseek|meta|mistral|openai|qwen)\.")
_EXAMPLE = '[models."my-model"]\ninput = 0.2\noutput = 0.8'


@dataclass(frozen=True, slots=True)
class Rates:
    """Dollars for a token. Those of cached and reasoning tokens come on top of the input's and the output's."""

    input: float
    output: float
    cache_read: float = 0.0
    cache_write: float = 0.0
    reasoning: float = 0.0
    call: float = 0.0  # for a call, whatever it used
    up_to: float = math.inf  # input tokens: beyond that other rates hold


@dataclass(frozen=True, slots=True)
class PriceList:
    """The models of a file: their rates, or the name of a model whose price is theirs. Names may have ``*``."""

    models: Mapping[str, Rates | str] = field(default_factory=dict)

    def find(self, model: str) -> Rates | str | None:
        """What the file says of a model; None: nothing. The name itself goes first, then patterns in their order."""
        if model in self.models:
            return self.models[model]
        return next((found for name, found in self.models.items() if fnmatchcase(model, name)), None)


def read_prices(path: str) -> PriceList:
    """The price list in a file, TOML or JSON (by its name's end). Raises LogError, which says what is wrong with it.

    Dollars are for a million tokens. ``cache_read`` and ``cache_write`` are ``input`` where they are not given, and
    ``reasoning`` is ``output``. Example, in TOML::

        [models."my-model-*"]
        input = 0.2
        output = 0.8
        cache_read = 0.02

        [models."deployment-7"]
        like = "gpt-4o"
    """
    if not path:
        return PriceList()
    try:
        data = Path(path).read_bytes()
        read = orjson.loads(data) if path.lower().endswith(".json") else tomllib.loads(data.decode())
    except OSError as error:
        raise LogError(f"prices: {path} can't be read: {error.strerror or error}") from error
    except ValueError as error:  # of JSON, TOML and UTF-8
        kind = "JSON" if path.lower().endswith(".json") else "TOML (a file of JSON has a name that ends in .json)"
        raise LogError(f"prices: {path} is not {kind}: {error}") from error
    models = read.get("models") if isinstance(read, dict) else None
    if not isinstance(models, dict) or set(read) != {"models"}:
        raise LogError(f"prices: {path}: must have one table, models, such as\n{_EXAMPLE}")
    return PriceList({name: _listed(f"prices: {path}: models.{name}", row) for name, row in models.items()})


def _listed(where: str, row: dict[str, Any] | Any) -> Rates | str:
    parts = ("input", "output", "cache_read", "cache_write", "reasoning")
    if not isinstance(row, dict):
        raise LogError(f"{where}: must be a table such as {{input = 0.2, output = 0.8}}")
    if "like" in row:
        if set(row) != {"like"} or not isinstance(row["like"], str) or not row["like"]:
            raise LogError(f"{where}.like: the name of a model, and nothing beside it")
        return str(row["like"])
    for key, value in row.items():
        if key not in parts:
            raise LogError(f"{where}.{key}: unknown; known are {', '.join(parts)}, like")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= MOST_DOLLARS:
            raise LogError(f"{where}.{key}: {value!r} is not a number of dollars for a million tokens")
    for key in ("input", "output"):
        if key not in row:
            raise LogError(f"{where}.{key}: missing")
    into, out = float(row["input"]), float(row["output"])
    read, write = (float(row.get(key, into)) - into for key in ("cache_read", "cache_write"))
    thought = float(row.get("reasoning", out)) - out
    return Rates(*(dollars / _MILLION for dollars in (into, out, read, write, thought)))


def concerned(events: Iterable[Mapping[str, Any]]) -> bool:
    """Whether one of a recorder's events may have to be priced."""
    for event in events:
        key = PARTS_OF_MESSAGES.get(event["event"])  # of another event, what stands under such a key may be anything
        part = event.get(key) if key is not None else None
        if part is not None and ("usage" in part or (key == "patch" and "model" in part)) and "cost" not in part:
            return True
    return False


class Prices:
    """The price of messages, for ``model.rules.complete``.

    ``listed`` goes before the library. ``aside``: the library is loaded in a thread of its own, so that a loop with
    others on it goes on; in an agent it is not, as a fork of the agent's must not come in between.
    Example: ``Prices()({"model": "gpt-4o", "usage": {"input_tokens": 1000}}, "2026-11-20T08:00:00.000Z")``.
    """

    def __init__(self, listed: PriceList | None = None, *, aside: bool = True) -> None:
        self.loaded = False
        self._listed = listed or PriceList()
        self._aside = aside
        self._library: _Library | None = None
        self._rates = lru_cache(MOST_RATES)(self._rates_of)

    async def load(self) -> None:
        """Load the library, once."""
        if not self.loaded:
            if self._aside:
                await asyncio.to_thread(self._load)
            else:
                self._load()

    def _load(self) -> None:
        try:
            self._library = _Library()
        except Exception as error:  # whatever an import runs into: a cost is not worth an append
            logger.warning("costs are unknown from now on: genai-prices can't be loaded: %r", error)
        self.loaded = True

    def __call__(self, message: Mapping[str, Any], at: str) -> float | None:
        """The dollars of a message with a model and a usage, at a time (RFC 3339, UTC); None: unknown."""
        model, usage = message.get("model"), message["usage"]
        if not isinstance(model, str) or not model or len(model) > MODEL_CHARS:
            return None
        get = usage.get
        into, out = get("input_tokens", 0), get("output_tokens", 0)
        read, write, reasoning = get("cache_read_tokens", 0), get("cache_write_tokens", 0), get("reasoning_tokens", 0)
        if read + write > into or reasoning > out or not ("input_tokens" in usage or "output_tokens" in usage):
            return None  # they are no parts of what it says
        if not self.loaded:
            self._load()
        name, rates = self._rates(model, at[:10])
        if rates is not None and into <= rates.up_to:
            known = rates.call + rates.input * into + rates.output * out
            if read or write or reasoning:
                known += rates.cache_read * read + rates.cache_write * write + rates.reasoning * reasoning
            cost: float | None = known
        else:
            cost = self._library.ask(name, usage, at) if self._library is not None and name else None
        return None if cost is None or cost > MOST_DOLLARS else max(0.0, round(cost, 10))

    def _rates_of(self, model: str, day: str) -> tuple[str, Rates | None]:
        """The name by which the library knows the model ("": it does not), and the rates, if there are any."""
        listed = self._listed.find(model)
        if isinstance(listed, Rates):
            return "", listed
        name = listed or model
        return self._library.rates(name, day) if self._library is not None else ("", None)


class _Library:
    """genai-prices. It remembers each name it was asked for without end, so that it is begun anew now and then."""

    def __init__(self) -> None:
        from genai_prices import Usage, types
        from genai_prices.data_snapshot import DataSnapshot, get_snapshot

        self._usage, self._types, self._snapshot = Usage, types, DataSnapshot
        self._providers = get_snapshot().providers
        self._asked = 0
        self._prices = self._anew()

    def _anew(self) -> Any:
        return self._snapshot(providers=self._providers, from_auto_update=False)

    def rates(self, model: str, day: str) -> tuple[str, Rates | None]:
        """The library's name of a provider and model, "" if it has none, and its linear rates on a day."""
        self._asked += 1
        if self._asked % MOST_RATES == 0:
            self._prices = self._anew()
        noon = f"{day}T12:00:00.000Z"
        for provider in (None, *_providers(model)):
            name = model if provider is None else f"{provider} {model}"
            try:
                found = self._calculated(name, {"input_tokens": 1}, noon)
                by_clock = self._goes_by_clock(found.model.prices)
                return name, None if by_clock else self._linear(name, noon, found.model_price)
            except (LookupError, ValueError, TypeError):
                continue
        return "", None

    def ask(self, name: str, usage: Mapping[str, int], at: str) -> float | None:
        """The cost of a usage, by a name of ``rates``."""
        try:
            return float(self._calculated(name, usage, at).total_price)
        except (LookupError, ValueError, TypeError):
            return None

    def _calculated(self, name: str, usage: Mapping[str, int], at: str) -> Any:
        provider, _, model = name.rpartition(" ")
        used = self._usage(**{part: usage[part] for part in PARTS if part in usage and part != "reasoning_tokens"})
        if "reasoning_tokens" in usage:
            used.output_reasoning_tokens = usage["reasoning_tokens"]
        return self._prices.calc(used, model, provider or None, None, datetime.fromisoformat(at))

    def _goes_by_clock(self, prices: Any) -> bool:
        conditions = [one.constraint for one in prices] if isinstance(prices, list) else []
        return any(isinstance(one, self._types.TimeOfDateConstraint) for one in conditions)

    def _linear(self, name: str, at: str, price: Any) -> Rates:
        def of(**usage: int) -> float:
            return float(self._calculated(name, usage, at).total_price)

        tiered = [one for one in vars(price).values() if isinstance(one, self._types.TieredPrices)]
        call, into, out = of(input_tokens=0), of(input_tokens=1), of(output_tokens=1)
        return Rates(
            into - call,
            out - call,
            of(input_tokens=1, cache_read_tokens=1) - into,
            of(input_tokens=1, cache_write_tokens=1) - into,
            of(output_tokens=1, reasoning_tokens=1) - out,
            call,
            min((tier.start for one in tiered for tier in one.tiers), default=math.inf),
        )


def _providers(model: str) -> Sequence[str]:
    """Where else the library may know a model by this name: with its provider's name before it, or as at AWS."""
    return ("litellm", "openrouter") if "/" in model else ("aws",) if _AWS.search(model) else ()
