"""Whether an answer fits its question's options and JSON Schema. Both come from an agent and are not trusted.

Rule 1: nothing is fetched. A ``$ref`` finds what is in the schema itself.
Rule 2: neither the check of a schema nor that of a value by it costs more than ``MAX_CHECKS`` steps.
Rule 3: only the first ``QUICK_CHECKS`` steps of a check are done on the loop, which is enough for nearly every one.
        What needs more is done in one thread for all, one after the other, so that the loop has its turns meanwhile.
Rule 4: patterns are matched in linear time. Those that can't be (with look-around or back-references) are not checked
        here; the agent's own model still checks them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError as BrokenSchema
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.validators import extend, validator_for
from pydantic_core import SchemaError, SchemaValidator
from pydantic_core import ValidationError as NoMatch
from referencing import Registry

from ..errors import InvalidValue
from ..model.preview import size_of

QUICK_CHECKS = 1_000  # some 20 ms
MAX_CHECKS = 100_000  # keywords applied to values, as a chain of references can ask for any number
STEP_BYTES = 64  # of a value that is compared as a whole
SAID_BYTES = 2048  # of a value that is written into the words of a fault
SEARCH_STEPS = 100  # of a reference that is no path: the library looks through the schema for it each time
MAX_FAULTS = 20  # told in one answer
Keyword = Callable[[Any, Any, Any, Any], Iterable[ValidationError] | None]


class _TooMuch(Exception):
    """The schema asks for more than ``MAX_CHECKS``."""


class Checker:
    """Checks answers for one application, most of them at once.

    checker = Checker()
    await checker.check({"options": ["yes", "no"]}, "yes")
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracewatch-answers")

    async def check(self, question: Mapping[str, Any], value: Any) -> None:
        """As ``check_value``, without keeping the loop."""
        try:
            _check(question, value, QUICK_CHECKS)
        except _TooMuch:
            await asyncio.get_running_loop().run_in_executor(self._thread, check_value, question, value)

    def close(self) -> None:
        """End the thread, after what it does now. Checks that wait for it are cancelled."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def check_value(question: Mapping[str, Any], value: Any) -> None:
    """Raise InvalidValue unless ``value`` is one of the question's ``options`` and matches its ``schema``.

    Without both of them any value will do. ``details`` has the path of each fault, which begins with ``value``.
    """
    try:
        _check(question, value, MAX_CHECKS)
    except _TooMuch as error:
        raise InvalidValue(f"value: the question's schema is too much work to check ({error})") from error


def _check(question: Mapping[str, Any], value: Any, most: int) -> None:
    """As ``check_value``. Raises _TooMuch where ``most`` steps are not enough."""
    options, schema = question.get("options"), question.get("schema")
    if options:
        _check_options(options, value, most)
    if schema is None:
        return
    try:
        faults = list(_faults(schema, value, most))
    except _TooMuch:
        raise
    except BrokenSchema as error:
        where = ".".join(["schema", *map(str, error.absolute_path)])
        message = f"the question's own JSON Schema is broken, so no value can be checked against it: {error.message}"
        raise InvalidValue(message[:500], details=[{"path": where, "message": error.message[:500]}]) from error
    except Exception as error:  # a foreign schema can make a validator fail in any way: recursion, lost references
        why = "it refers to itself without end" if isinstance(error, RecursionError) else str(error)[:300]
        message = f"the question's own JSON Schema can't be used: {why}"
        raise InvalidValue(message, details=[{"path": "schema", "message": why}]) from error
    if faults:
        raise _invalid(faults)


def _invalid(faults: list[dict[str, Any]]) -> InvalidValue:
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return InvalidValue(f"{faults[0]['path']}: {faults[0]['message']}{more}", details=faults)


def _check_options(options: list[Any], value: Any, most: int) -> None:
    forms = _Keywords(0, most)
    form = forms.form(value)
    if not any(form == forms.form(option) for option in options):
        shown = ", ".join(orjson.dumps(option).decode()[:80] for option in options[:20])
        raise _invalid([{"path": "value", "message": f"is none of: {shown}"}])


def _faults(schema: Any, value: Any, most: int) -> Iterator[dict[str, Any]]:
    if (size_of(schema) + size_of(value)) // STEP_BYTES > most:  # they are read as a whole before the first step
        raise _TooMuch(f"more than {most:,} steps")
    named = validator_for(schema, default=Draft202012Validator)
    _check_schema(named, schema, most)
    limited = _limited(named, schema, most, search_steps=SEARCH_STEPS)
    validator = limited(schema, registry=Registry())  # an empty one, which fetches nothing
    for error in islice(validator.iter_errors(value), MAX_FAULTS):
        path = ".".join(["value", *(str(part) for part in error.absolute_path)])
        yield {"path": path, "message": error.message[:500]}


def _check_schema(named: Any, schema: Any, most: int) -> None:
    """As the library's ``check_schema``, but with its work counted. Raises BrokenSchema, _TooMuch."""
    meta = validator_for(named.META_SCHEMA, default=named)
    error = best_match(
        islice(_limited(meta, named.META_SCHEMA, most)(named.META_SCHEMA).iter_errors(schema), MAX_FAULTS)
    )
    if error is not None:
        raise BrokenSchema.create_from(error)


def _limited(named: Any, schema: Any, most: int, *, search_steps: int = 0) -> Any:
    """The validator class with its work counted, in all of the schema. ``search_steps``: see ``SEARCH_STEPS``."""
    keywords = _Keywords(search_steps, most).over(named.VALIDATORS, schema)
    limited: Any = extend(named, keywords)  # type: ignore[no-untyped-call]
    names = [(field.name, field.alias) for field in limited.__attrs_attrs__ if field.init]

    def evolve(self: Any, **changes: Any) -> Any:
        # The library's own would take another class, which counts nothing, where a part of a schema has a ``$schema``
        return limited(**{alias: getattr(self, name) for name, alias in names} | changes)

    limited.evolve = evolve
    return limited


class _Keywords:
    """What the keywords of one check share: how much work is left, and the patterns.

    Python's engine for patterns can be made to search for years. Rust's, which pydantic has, takes linear time.
    """

    def __init__(self, search_steps: int, most: int) -> None:
        self._search_steps = search_steps
        self._most = self._left = most
        self._enums: dict[int, set[bytes]] = {}
        self._sizes: dict[int, int] = {}  # by id of a part of the value
        self._matchers: dict[str, SchemaValidator | None] = {}

    def over(self, keywords: Mapping[str, Keyword], schema: Any) -> dict[str, Keyword]:
        """These keywords with their work counted, and with those that match patterns replaced by ours."""
        ours: dict[str, Keyword] = {
            "pattern": self._pattern,
            "patternProperties": self._pattern_properties,
            "additionalProperties": self._additional_properties,
            "uniqueItems": self._unique_items,
            "enum": self._enum,
            "const": self._const,
        }
        if b'"patternProperties"' in orjson.dumps(schema):
            ours["unevaluatedProperties"] = _unchecked  # the library matches patterns for it with Python's engine
        return {name: self._counted(name, check) for name, check in {**keywords, **ours}.items()}

    def _spend(self, steps: int = 1) -> None:
        self._left -= steps
        if self._left < 0:
            raise _TooMuch(f"more than {self._most:,} steps")

    def _counted(self, name: str, check: Keyword) -> Keyword:
        def counted(validator: Any, given: Any, instance: Any, schema: Any) -> Iterable[ValidationError] | None:
            self._spend(1 + self._said_bytes(instance) // SAID_BYTES)
            if name in ("$ref", "$dynamicRef") and given != "#" and not str(given).startswith("#/"):
                self._spend(self._search_steps)
            return check(validator, given, instance, schema)

        return counted

    def _said_bytes(self, instance: Any) -> int:
        """The bytes of what the library writes into a fault: all of the value, however long."""
        if not isinstance(instance, dict | list | str):
            return 0
        size = self._sizes.get(id(instance))
        if size is None:
            size = self._sizes[id(instance)] = size_of(instance)
        return size

    def _matches(self, pattern: str, text: str) -> bool | None:
        """Whether the pattern is in the text; None if the pattern can't be matched."""
        self._spend()
        if pattern not in self._matchers:
            try:
                self._matchers[pattern] = SchemaValidator({"type": "str", "pattern": pattern, "strict": True})
            except SchemaError:
                self._matchers[pattern] = None
        matcher = self._matchers[pattern]
        if matcher is None:
            return None
        try:
            matcher.validate_python(text)
        except NoMatch:
            return False
        return True

    def form(self, value: Any) -> bytes:
        """A form that equal JSON values share. Its making is a step for each ``STEP_BYTES``."""
        self._spend(1 + size_of(value) // STEP_BYTES)
        return orjson.dumps(_plain(value), option=orjson.OPT_SORT_KEYS)

    def _unique_items(self, validator: Any, given: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        """In one pass: the library compares each item with each other one."""
        if given and isinstance(instance, list) and len(set(map(self.form, instance))) < len(instance):
            yield ValidationError(f"{str(instance)[:80]} has non-unique elements")

    def _enum(self, validator: Any, given: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if id(given) not in self._enums:
            self._enums[id(given)] = set(map(self.form, given))
        if self.form(instance) not in self._enums[id(given)]:
            yield ValidationError(f"{str(instance)[:80]!r} is not one of {str(given)[:200]}")

    def _const(self, validator: Any, given: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if self.form(given) != self.form(instance):
            yield ValidationError(f"{str(given)[:200]!r} was expected")

    def _pattern(self, validator: Any, given: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str) and self._matches(given, instance) is False:
            yield ValidationError(f"{instance[:80]!r} does not match {given[:200]!r}")

    def _pattern_properties(self, validator: Any, given: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        for key, value in instance.items() if isinstance(instance, dict) else ():
            for pattern, below in given.items():
                if self._matches(pattern, key):
                    yield from validator.descend(value, below, path=key, schema_path=pattern)

    def _additional_properties(
        self, validator: Any, given: Any, instance: Any, schema: Any
    ) -> Iterator[ValidationError]:
        known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        for key, value in instance.items() if isinstance(instance, dict) else ():
            # A pattern that can't be matched may well allow this key
            if key in known or any(self._matches(one, key) is not False for one in patterns):
                continue
            if given is False:
                yield ValidationError(f"{key[:80]!r} is not a property there may be")
            else:
                yield from validator.descend(value, given, path=key)


def _plain(value: Any) -> Any:
    """The value with whole floats as integers: to JSON Schema 1.0 is 1."""
    if isinstance(value, dict):
        return {key: _plain(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_plain(below) for below in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _unchecked(validator: Any, given: Any, instance: Any, schema: Any) -> None:
    return None
