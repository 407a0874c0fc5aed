"""Processors of the drop-in policies, where LeRobot looks for them: stock ones, statistics checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lerobot.policies.act.processor_act import make_act_pre_post_processors
from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors
from lerobot.policies.gaussian_actor.processor_gaussian_actor import make_gaussian_actor_pre_post_processors
from lerobot.policies.multi_task_dit.processor_multi_task_dit import make_multi_task_dit_pre_post_processors
from lerobot.policies.vqbet.processor_vqbet import make_vqbet_pre_post_processors

from lary_policy.policy.drop_in.configuration_drop_in import (
    LaryACTConfig,
    LaryDiffusionConfig,
    LaryGaussianActorConfig,
    LaryMultiTaskDiTConfig,
    LaryVQBeTConfig,
)
from lary_policy.policy.normalise import Pipelines, checked, given_statistics, normalised_features

GivenStats = Mapping[str, Mapping[str, Any]] | None


def make_lary_act_pre_post_processors(config: LaryACTConfig, dataset_stats: GivenStats = None) -> Pipelines:
    """Return the pipelines before and after `lary_act`; images pass in [0, 1].

    Raises:
        EmbodimentError: Statistics that were given are of another length or not finite.
    """
    return _checked_pipelines(make_act_pre_post_processors, config, dataset_stats)


def make_lary_diffusion_pre_post_processors(
    config: LaryDiffusionConfig, dataset_stats: GivenStats = None
) -> Pipelines:
    """Return the same of `lary_diffusion`."""
    return _checked_pipelines(make_diffusion_pre_post_processors, config, dataset_stats)


def make_lary_gaussian_actor_pre_post_processors(
    config: LaryGaussianActorConfig, dataset_stats: GivenStats = None
) -> Pipelines:
    """Return the same of `lary_gaussian_actor`."""
    return _checked_pipelines(make_gaussian_actor_pre_post_processors, config, dataset_stats)


def make_lary_multi_task_dit_pre_post_processors(
    config: LaryMultiTaskDiTConfig, dataset_stats: GivenStats = None
) -> Pipelines:
    """Return the same of `lary_multi_task_dit`, whose task text is tokenised."""
    return _checked_pipelines(make_multi_task_dit_pre_post_processors, config, dataset_stats)


def make_lary_vqbet_pre_post_processors(
    config: LaryVQBeTConfig, dataset_stats: GivenStats = None
) -> Pipelines:
    """Return the same of `lary_vqbet`."""
    return _checked_pipelines(make_vqbet_pre_post_processors, config, dataset_stats)


def _checked_pipelines(make: Callable[..., Pipelines], config: Any, stats: GivenStats) -> Pipelines:
    return checked(make(config, given_statistics(config, stats)), normalised_features(config))
