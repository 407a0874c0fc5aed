"""Processors of `lary_multi_task_dit`: the stock ones, under the name that LeRobot looks for."""

from __future__ import annotations

from typing import Any

from lerobot.policies.multi_task_dit.processor_multi_task_dit import make_multi_task_dit_pre_post_processors

from lary_policy.policy.drop_in.configuration_lary_multi_task_dit import LaryMultiTaskDiTConfig
from lary_policy.policy.drop_in.statistics import require_statistics


def make_lary_multi_task_dit_pre_post_processors(
    config: LaryMultiTaskDiTConfig, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> tuple[Any, Any]:
    """Return the pipelines before and after the policy; images pass in [0, 1].

    Raises:
        EmbodimentError: Statistics are missing, of another length or not finite.
    """
    require_statistics(config, dataset_stats)
    return make_multi_task_dit_pre_post_processors(config, dataset_stats)
