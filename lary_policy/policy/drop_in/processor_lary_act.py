"""Processors of `lary_act`: the stock ones, under the name that LeRobot looks for."""

from __future__ import annotations

from typing import Any

from lerobot.policies.act.processor_act import make_act_pre_post_processors

from lary_policy.policy.drop_in.configuration_lary_act import LaryACTConfig
from lary_policy.policy.drop_in.statistics import require_statistics


def make_lary_act_pre_post_processors(
    config: LaryACTConfig, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> tuple[Any, Any]:
    """Return the pipelines before and after the policy; images pass in [0, 1].

    Raises:
        EmbodimentError: Statistics are missing, of another length or not finite.
    """
    require_statistics(config, dataset_stats)
    return make_act_pre_post_processors(config, dataset_stats)
