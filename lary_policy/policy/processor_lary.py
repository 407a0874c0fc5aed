"""Processors of the policy `lary`: LeRobot's own steps, with statistics that are checked first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import NormalizationMode
from lerobot.processor import (
    AbsoluteActionsProcessorStep,
    ProcessorStep,
    RelativeActionsProcessorStep,
    make_default_policy_processor_steps,
    make_policy_processor_pipelines,
)
from lerobot.utils.constants import ACTION, OBS_STATE

from lary_policy.actions import floored, list_embodiments, load_embodiment
from lary_policy.heads import load_meta
from lary_policy.policy.configuration_lary import LaryConfig
from lary_policy.policy.head import PROBE_STATS, probe_stats
from lary_policy.policy.normalise import (
    NEEDED,
    Pipelines,
    Stats,
    checked,
    given_statistics,
    normalised_features,
)


def make_lary_pre_post_processors(
    config: LaryConfig,
    dataset_stats: Mapping[str, Mapping[str, Any]] | None = None,
) -> Pipelines:
    """Build the processors: rename, batch, device, normalise; unnormalise, CPU.

    With `use_relative_actions` LeRobot's own steps make actions relative before they are normalised.
    Statistics of a probe's head take precedence over those of the dataset.

    Raises:
        EmbodimentError: Statistics that were given are incomplete, of another length or not finite. Where
            there are none the pipelines are built, and refuse the first value that needs them.
    """
    own: Stats | None = getattr(config, PROBE_STATS, None)  # of the probe that the policy started with
    if config.head_from is not None:
        own = probe_stats(load_meta(Path(config.head_from)))
    stats = own or dataset_stats or {}
    steps = make_default_policy_processor_steps(config, _usable(config, stats))
    inputs: list[ProcessorStep] = [steps.rename_observations, steps.add_batch_dim, steps.to_device]
    outputs: list[ProcessorStep] = [steps.unnormalize]
    if config.use_relative_actions:
        relative = RelativeActionsProcessorStep(
            enabled=True,
            exclude_joints=list(config.relative_exclude_joints),
            action_names=config.action_feature_names,
        )
        inputs.append(relative)
        outputs.append(AbsoluteActionsProcessorStep(enabled=True, relative_step=relative))
    pipelines = make_policy_processor_pipelines(
        input_steps=[*inputs, steps.normalize], output_steps=[*outputs, steps.to_cpu]
    )
    return checked(pipelines, _seen(config))


def _usable(config: LaryConfig, stats: Mapping[str, Mapping[str, Any]]) -> Stats:
    """Check the statistics that are used, and keep tiny deviations from scaling up what does not vary."""
    layout = load_embodiment(config.embodiment) if config.embodiment in list_embodiments() else None
    seen = _seen(config)
    usable = {key: found for key, found in given_statistics(config, stats).items() if key in seen}
    for key, found in usable.items():
        if NEEDED[NormalizationMode.MEAN_STD] == seen[key][1]:
            fits = layout is not None and found["std"].shape == (layout.action_dim,)
            std = floored(found["std"].double().numpy(), layout if fits else None)
            found["std"] = torch.from_numpy(std).float()
    return usable


def _seen(config: LaryConfig) -> dict[str, Any]:
    """Return what of the normalised features is used: the action, and the state if the head sees it."""
    used = (ACTION, OBS_STATE) if config.use_proprio else (ACTION,)
    return {key: facts for key, facts in normalised_features(config).items() if key in used}
