"""Processors of the policy `lary`: LeRobot's own steps, with statistics that are checked first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, NormalizationMode
from lerobot.processor import (
    AbsoluteActionsProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    ProcessorStep,
    RelativeActionsProcessorStep,
    make_default_policy_processor_steps,
    make_policy_processor_pipelines,
)
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from lary_policy.actions import list_embodiments, load_embodiment
from lary_policy.errors import EmbodimentError
from lary_policy.heads import load_meta
from lary_policy.policy.configuration_lary import LaryConfig
from lary_policy.policy.head_from import PROBE_STATS, probe_stats
from lary_policy.policy.relative_actions import (
    LaryAbsoluteActionsStep,
    LaryRelativeActionsStep,
    floored,
    least_scale,
)

Stats = dict[str, dict[str, Tensor]]
Pipelines = tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]],
    PolicyProcessorPipeline[PolicyAction, PolicyAction],
]
# Statistics that each of LeRobot's modes needs.
NEEDED: Mapping[NormalizationMode, tuple[str, ...]] = {
    NormalizationMode.IDENTITY: (),
    NormalizationMode.MEAN_STD: ("mean", "std"),
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}


def make_lary_pre_post_processors(
    config: LaryConfig,
    dataset_stats: Mapping[str, Mapping[str, Any]] | None = None,
) -> Pipelines:
    """Build the processors: rename, batch, device, (relative), normalise; unnormalise, (absolute), CPU.

    Args:
        config: The policy's configuration.
        dataset_stats: Statistics of the dataset; those of a probe's head take precedence.

    Raises:
        EmbodimentError: Statistics are missing, of another length or not finite.
    """
    stats = _head_stats(config) or dataset_stats or {}
    steps = make_default_policy_processor_steps(config, _usable(config, stats))
    relative, absolute = _action_steps(config)
    inputs: list[ProcessorStep] = [steps.rename_observations, steps.add_batch_dim, steps.to_device]
    outputs: list[ProcessorStep] = [steps.unnormalize]
    if config.is_relative:
        inputs.append(relative)
        outputs.append(absolute)
    return make_policy_processor_pipelines(
        input_steps=[*inputs, steps.normalize], output_steps=[*outputs, steps.to_cpu]
    )


def _action_steps(
    config: LaryConfig,
) -> tuple[RelativeActionsProcessorStep, AbsoluteActionsProcessorStep]:
    """Return LeRobot's own steps where they do, and else ours for histories and composed rotations."""
    values: dict[str, Any] = {
        "enabled": config.is_relative,
        "exclude_joints": list(config.relative_exclude_joints),
        "action_names": config.action_feature_names,
    }
    if config.use_relative_actions:
        stock = RelativeActionsProcessorStep(**values)
        return stock, AbsoluteActionsProcessorStep(enabled=True, relative_step=stock)
    own = LaryRelativeActionsStep(**values, embodiment=config.embodiment)
    return own, LaryAbsoluteActionsStep(enabled=config.is_relative, relative_step=own)


def _head_stats(config: LaryConfig) -> Stats | None:
    """Return the statistics of the probe's head the policy started with, or None."""
    if config.head_from is not None:
        return probe_stats(load_meta(Path(config.head_from)))
    return getattr(config, PROBE_STATS, None)


def _usable(config: LaryConfig, stats: Mapping[str, Mapping[str, Any]]) -> Stats:
    """Check the statistics that are used, and keep tiny deviations from scaling up what does not vary."""
    layout = load_embodiment(config.embodiment) if config.embodiment in list_embodiments() else None
    least = least_scale(layout)
    usable: Stats = {}
    for key, feature in {**(config.input_features or {}), **(config.output_features or {})}.items():
        mode = config.normalization_mapping.get(feature.type.value, NormalizationMode.IDENTITY)
        wanted = key == ACTION or (key == OBS_STATE and config.use_proprio)
        if feature.type is FeatureType.VISUAL or not wanted:
            continue
        found = {name: torch.as_tensor(value) for name, value in stats.get(key, {}).items()}
        _require(key, feature.shape, found, NEEDED[mode])
        if mode is NormalizationMode.MEAN_STD:
            fits = least is not None and found["std"].shape == least.shape
            found["std"] = floored(found["std"].float(), least if fits else None)
        usable[key] = found
    return usable


def _require(key: str, shape: tuple[int, ...], found: Mapping[str, Tensor], needed: tuple[str, ...]) -> None:
    good = [
        name
        for name in needed
        if name in found and found[name].numel() == shape[0] and bool(torch.isfinite(found[name]).all())
    ]
    missing = [name for name in needed if name not in good]
    if missing:
        raise EmbodimentError(
            expected=f"finite statistics {', '.join(needed)} of {shape[0]} numbers for '{key}'",
            got=f"{', '.join(found) or 'none'} ({', '.join(missing)} missing or of another length)",
            fix="Pass dataset_stats=dataset.meta.stats, load the processors of a checkpoint, or pass "
            "--policy.head_from=<folder of a probe>.",
        )
