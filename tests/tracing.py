"""OpenTelemetry's spans as JSON, for tests that send them."""

from __future__ import annotations

from typing import Any

TRACE, SPAN, ABOVE = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"


def value_of(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"arrayValue": {"values": [value_of(one) for one in value]}}
    names = {bool: "boolValue", int: "intValue", float: "doubleValue", str: "stringValue"}
    return {names[type(value)]: str(value) if type(value) is int else value}


def pairs(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value_of(value)} for key, value in attributes.items()]


def body_of(name: str, attributes: dict[str, Any], *, scope: str = "", **more: Any) -> dict[str, Any]:
    span = {"traceId": TRACE, "spanId": SPAN, "parentSpanId": ABOVE, "name": name, "attributes": pairs(attributes)}
    span |= {"startTimeUnixNano": "1796000000000000000", "endTimeUnixNano": "1796000001000000000", **more}
    return {"resourceSpans": [{"scopeSpans": [{"scope": {"name": scope}, "spans": [span]}]}]}
