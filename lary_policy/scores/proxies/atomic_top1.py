"""Accuracy of a probe for atomic primitives, as LARYBench reports it."""

from __future__ import annotations

from lary_policy.scores.proxies.registry import Proxy, register_proxy

ATOMIC_TOP1 = register_proxy(
    Proxy(
        name="atomic_top1",
        words="atomic accuracy",
        question="atomic",
        metric="top1",
        higher_is_better=True,
        unit="share",
        source="LARYBench",
    )
)
