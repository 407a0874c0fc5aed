"""What a forward model explains beyond copying the present latent."""

from __future__ import annotations

from lary_policy.scores.proxies.registry import Proxy, register_proxy

FORWARD_GAIN = register_proxy(
    Proxy(
        name="forward_gain",
        words="forward-model gain",
        question="forward",
        metric="gain",
        higher_is_better=True,
        unit="explained variance",
        source="arXiv 2608.19613, against a copy",
    )
)
