"""How often an address may send a wrong token: a leaking bucket for each address, in bounded memory. No I/O.

Rule 1: an attempt is paid for before the token is looked up, and given back if the token was right. So a thousand
        attempts at once count as a thousand. Above its budget no token of an address is looked up at all, so that
        guessing goes at the budget's pace.
Rule 2: a token that was right from this address before is no attempt. A client that guesses behind the same NAT locks
        out newcomers, and never clients at work.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

REMEMBERED = 10_000  # addresses, and as many tokens; those not heard of for the longest time are forgotten


def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 of an IPv6 address, as one customer has all of that."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))


class Limiter:
    """Counts attempts by address.

    ``failures``: the wrong tokens that an address may send at once. ``retry_s``: seconds until one of them is
    forgotten. ``clock``: in seconds.
    """

    def __init__(self, *, failures: int, retry_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures = failures
        self._retry_s = retry_s
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # how full it was, and when
        self._known: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def _level(self, network: str) -> float:
        level, at = self._buckets.get(network, (0.0, 0.0))
        return max(0.0, level - (self._clock() - at) / self._retry_s)

    def attempt(self, address: str, token_hash: bytes) -> float:
        """Pay for an attempt; 0 if it may be made. Otherwise nothing was paid; it may be made after so many seconds."""
        network = network_of(address)
        if (network, token_hash) in self._known:
            return 0.0
        level = self._level(network)
        if level > self._failures - 1:
            self._buckets.move_to_end(network)
            return (level - (self._failures - 1)) * self._retry_s
        self._put(network, level + 1)
        return 0.0

    def unpay(self, address: str, token_hash: bytes) -> None:
        """Give an attempt back: the token could not be looked up, or it was right."""
        network = network_of(address)
        if (network, token_hash) not in self._known:
            self._put(network, self._level(network) - 1)

    def right(self, address: str, token_hash: bytes) -> None:
        """Note that the token was right."""
        self.unpay(address, token_hash)
        key = (network_of(address), token_hash)
        self._known[key] = None
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def wrong(self, address: str, token_hash: bytes) -> None:
        """Note that the token was wrong. If it was right before, it counts as an attempt from now on."""
        self._known.pop((network_of(address), token_hash), None)

    def _put(self, network: str, level: float) -> None:
        if level <= 0:
            self._buckets.pop(network, None)
            return
        self._buckets[network] = (level, self._clock())
        self._buckets.move_to_end(network)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
