"""Error of a probe for the state of the scene, in units that no reported split can make small."""

from __future__ import annotations

from lary_policy.scores.proxies.registry import Proxy, register_proxy

STATE_MSE = register_proxy(
    Proxy(
        name="state_mse",
        words="state-probe MSE",
        question="state",
        metric="mse",
        higher_is_better=False,
        unit="training variance",
        source="arXiv 2602.04880, normalised by the training split",
    )
)
