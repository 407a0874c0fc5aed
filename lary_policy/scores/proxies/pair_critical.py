"""Error of the inverse model at the steps that decide over success."""

from __future__ import annotations

from lary_policy.scores.proxies.registry import Proxy, register_proxy

PAIR_CRITICAL = register_proxy(
    Proxy(
        name="pair_critical",
        words="critical inverse-model MSE",
        question="inverse-critical",
        metric="mse",
        higher_is_better=False,
        unit="training variance",
        source="arXiv 2606.29898",
    )
)
