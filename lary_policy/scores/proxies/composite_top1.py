"""Accuracy of a probe for composite actions, as LARYBench reports it."""

from __future__ import annotations

from lary_policy.scores.proxies.registry import Proxy, register_proxy

COMPOSITE_TOP1 = register_proxy(
    Proxy(
        name="composite_top1",
        words="composite accuracy",
        question="composite",
        metric="top1",
        higher_is_better=True,
        unit="share",
        source="LARYBench",
    )
)
