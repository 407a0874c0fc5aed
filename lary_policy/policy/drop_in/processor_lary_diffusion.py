"""Processors of `lary_diffusion`: the stock ones, under the name that LeRobot looks for."""

from __future__ import annotations

from typing import Any

from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors

from lary_policy.policy.drop_in.configuration_lary_diffusion import LaryDiffusionConfig
from lary_policy.policy.drop_in.statistics import require_statistics


def make_lary_diffusion_pre_post_processors(
    config: LaryDiffusionConfig, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> tuple[Any, Any]:
    """Return the pipelines before and after the policy; images pass in [0, 1].

    Raises:
        EmbodimentError: Statistics are missing, of another length or not finite.
    """
    require_statistics(config, dataset_stats)
    return make_diffusion_pre_post_processors(config, dataset_stats)
