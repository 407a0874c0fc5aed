"""What of the world's state the latent of the present frame tells."""

from __future__ import annotations

from lary_policy.scores.proxies.registry import Proxy, register_proxy

STATE_PROBE = register_proxy(
    Proxy(
        name="state_probe",
        words="state probe R²",
        question="state",
        metric="r2",
        higher_is_better=True,
        unit="explained variance",
        source="arXiv 2602.04880",
    )
)
