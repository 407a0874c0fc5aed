"""Error of the policy's head at the steps that decide over success."""

from __future__ import annotations

from lary_policy.scores.proxies.registry import Proxy, register_proxy

POLICY_CRITICAL = register_proxy(
    Proxy(
        name="policy_critical",
        words="critical policy MSE",
        question="policy-critical",
        metric="mse",
        higher_is_better=False,
        unit="training variance",
        source="arXiv 2606.29898",
    )
)
