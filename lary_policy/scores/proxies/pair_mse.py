"""Error of the inverse model: what LARYBench's regression tables report."""

from __future__ import annotations

from lary_policy.scores.proxies.registry import Proxy, register_proxy

PAIR_MSE = register_proxy(
    Proxy(
        name="pair_mse",
        words="inverse-model MSE",
        question="pair",
        metric="mse",
        higher_is_better=False,
        unit="training variance",
        source="LARYBench; weak in arXiv 2602.04880",
    )
)
