"""How much the latent changes with looks, relative to states."""

from __future__ import annotations

from lary_policy.scores.proxies.registry import Proxy, register_proxy

INVARIANCE = register_proxy(
    Proxy(
        name="invariance",
        words="change with looks",
        question="invariance",
        metric="invariance",
        higher_is_better=False,
        unit="ratio of cosine distances",
        source="arXiv 2501.16389",
    )
)
