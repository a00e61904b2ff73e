"""Guessing tokens: one IPv4 address or IPv6 /64 has one try a minute, and the limiter has bounded memory."""

from __future__ import annotations

import pytest

from tests.log.helpers import Clock
from tracewatch.server.auth import limiter
from tracewatch.server.auth.limiter import Limiter, network_of

A, B = b"a" * 32, b"b" * 32


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> Limiter:
    return Limiter(failures=30, retry_s=60, clock=clock)


def test_thirty_then_one_a_minute(limits: Limiter, clock: Clock) -> None:
    assert [limits.attempt("192.0.2.1", A) for _ in range(30)] == [0] * 30
    assert limits.attempt("192.0.2.1", A) == 60
    assert limits.attempt("192.0.2.2", A) == 0
    clock.now += 59
    assert limits.attempt("192.0.2.1", A) == pytest.approx(1)
    clock.now += 1
    assert limits.attempt("192.0.2.1", A) == 0
    assert limits.attempt("192.0.2.1", A) == 60
    clock.now += 30 * 60
    assert [limits.attempt("192.0.2.1", A) for _ in range(30)] == [0] * 30
    assert limits.attempt("192.0.2.1", A) > 0


def test_a_right_token_costs_nothing_and_goes_on_working(limits: Limiter) -> None:
    for _ in range(100):
        assert limits.attempt("192.0.2.1", A) == 0
        limits.right("192.0.2.1", A)
    assert sum(limits.attempt("192.0.2.1", B) == 0 for _ in range(100)) == 30
    assert limits.attempt("192.0.2.1", A) == 0  # of somebody at work
    assert limits.attempt("192.0.2.1", B) > 0
    limits.wrong("192.0.2.1", A)
    assert limits.attempt("192.0.2.1", A) > 0


def test_a_right_token_does_not_make_wrong_ones_cheaper(limits: Limiter) -> None:
    for _ in range(30):
        limits.attempt("192.0.2.1", B)
        limits.attempt("192.0.2.1", A)
        limits.right("192.0.2.1", A)
    assert limits.attempt("192.0.2.1", B) > 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1:2:3", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("unix", "unix", True),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) == same


def test_memory_is_bounded(limits: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter, "REMEMBERED", 100)
    for n in range(1000):
        limits.attempt(f"192.0.{n // 250}.{n % 250}", B)
        limits.right("192.0.2.1", n.to_bytes(32, "big"))
    assert len(limits._buckets) <= 100 and len(limits._known) <= 100
