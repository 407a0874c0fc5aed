"""What a forward model explains of the latent to come."""

from __future__ import annotations

from lary_policy.scores.proxies.registry import Proxy, register_proxy

FORWARD_MODEL = register_proxy(
    Proxy(
        name="forward_model",
        words="forward-model R²",
        question="forward",
        metric="r2",
        higher_is_better=True,
        unit="explained variance",
        source="arXiv 2608.19613",
    )
)
