"""`auto:<model>`: encoders from a folder or hub name of timm and transformers."""

from __future__ import annotations

from lary_policy.encoders.auto.scheme import *  # noqa: F403
