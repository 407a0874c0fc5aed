"""Processors of the drop-in policies, where LeRobot looks for them: stock ones, statistics checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lerobot.configs import PreTrainedConfig
from lerobot.policies.act.processor_act import make_act_pre_post_processors
from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors
from lerobot.policies.gaussian_actor.processor_gaussian_actor import make_gaussian_actor_pre_post_processors
from lerobot.policies.multi_task_dit.processor_multi_task_dit import make_multi_task_dit_pre_post_processors
from lerobot.policies.vqbet.processor_vqbet import make_vqbet_pre_post_processors

from lary_policy.policy.normalise import Pipelines, checked, given_statistics, normalised_features

GivenStats = Mapping[str, Mapping[str, Any]] | None
Maker = Callable[..., Pipelines]


def with_checks(make: Maker) -> Maker:
    """Return LeRobot's maker of the pipelines before and after a policy with steps that check statistics.

    It raises EmbodimentError where statistics that were given are of another length or not finite.
    """

    def pipelines(config: PreTrainedConfig, dataset_stats: GivenStats = None) -> Pipelines:
        return checked(make(config, given_statistics(config, dataset_stats)), normalised_features(config))

    return pipelines


make_lary_act_pre_post_processors = with_checks(make_act_pre_post_processors)
make_lary_diffusion_pre_post_processors = with_checks(make_diffusion_pre_post_processors)
make_lary_gaussian_actor_pre_post_processors = with_checks(make_gaussian_actor_pre_post_processors)
make_lary_multi_task_dit_pre_post_processors = with_checks(make_multi_task_dit_pre_post_processors)
make_lary_vqbet_pre_post_processors = with_checks(make_vqbet_pre_post_processors)
