"""The registry of proxies."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from lary_policy.errors import look_up
from lary_policy.paths import import_modules


@dataclass(frozen=True)
class Proxy:
    """An offline score that may foretell success.

    Attributes:
        name: Short name.
        words: For tables and sentences.
        question: Mode of its score.
        metric: Name of its score.
        higher_is_better: Its direction.
        unit: Unit of the number.
        source: Who proposed or published it.
    """

    name: str
    words: str
    question: str
    metric: str
    higher_is_better: bool
    unit: str
    source: str

    @property
    def sign(self) -> float:
        """Factor that turns its numbers so that higher is better."""
        return 1.0 if self.higher_is_better else -1.0


_PROXIES: dict[str, Proxy] = {}


def register_proxy(proxy: Proxy) -> Proxy:
    """Make a proxy known under its name."""
    _PROXIES[proxy.name] = proxy
    return proxy


@functools.cache
def list_proxies() -> Mapping[str, Proxy]:
    """Return every proxy by name: what the modules of this package register."""
    import_modules("lary_policy.scores.proxies")
    return _PROXIES


def find_proxy(name: str) -> Proxy:
    """Return a proxy.

    Raises:
        UnknownNameError: There is none of that name; the message lists the known ones.
    """
    return look_up("proxy", name, list_proxies())
