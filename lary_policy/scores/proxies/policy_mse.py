"""Error of the policy's own head on held-out demonstrations: plain action MSE."""

from __future__ import annotations

from lary_policy.scores.proxies.registry import Proxy, register_proxy

POLICY_MSE = register_proxy(
    Proxy(
        name="policy_mse",
        words="policy MSE",
        question="policy",
        metric="mse",
        higher_is_better=False,
        unit="training variance",
        source="arXiv 2602.04880, 2606.29898",
    )
)
