"""Offline scores as predictors of success in closed loop; each is one file here that registers itself."""

from __future__ import annotations

from lary_policy.scores.proxies.registry import Proxy, find_proxy, list_proxies, register_proxy

__all__ = ["Proxy", "find_proxy", "list_proxies", "register_proxy"]
