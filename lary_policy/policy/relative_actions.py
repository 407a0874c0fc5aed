"""Relative actions: their statistics in a dataset, and the steps by which earlier checkpoints made them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import PipelineFeatureType, PolicyFeature
from lerobot.lerobot_types import EnvTransition
from lerobot.processor import ProcessorStep, ProcessorStepRegistry
from lerobot.utils.constants import ACTION, OBS_STATE

from lary_policy.actions import ActionCodec, ActionStats, RunningStatistics
from lary_policy.errors import DatasetError

Features = dict[PipelineFeatureType, dict[str, PolicyFeature]]


@dataclass
class _Retired(ProcessorStep):
    """Does nothing: policies make actions relative and absolute themselves; old checkpoints name the step."""

    enabled: bool = False
    exclude_joints: list[str] = field(default_factory=list)
    action_names: list[str] | None = None
    embodiment: str | None = None

    def __call__(self, transition: EnvTransition) -> EnvTransition:
        """Return the transition as it is."""
        return transition

    def get_config(self) -> dict[str, Any]:
        """Return what the step is rebuilt from."""
        return asdict(self)

    def transform_features(self, features: Features) -> Features:
        """Return the features as they are."""
        return features


@ProcessorStepRegistry.register("lary_relative_actions_processor")
class RetiredRelativeActionsStep(_Retired):
    """Made actions relative in checkpoints of the first version."""


@ProcessorStepRegistry.register("lary_absolute_actions_processor")
class RetiredAbsoluteActionsStep(_Retired):
    """Made actions absolute in checkpoints of the first version."""


def target_statistics(root: Path, chunk: int, codec: ActionCodec) -> tuple[ActionStats, ActionStats]:
    """Compute statistics of all targets (chunks of k actions) and of all states of a dataset.

    Every frame starts a chunk, as in training; actions past an episode's end are left out, as the loss does.
    `codec` says what the targets are; its own statistics are not looked at.

    Raises:
        DatasetError: The tables cannot be read, or hold a number that is not finite.
    """
    from lary_policy.data.lerobot import LeRobotFiles

    files, targets, states = LeRobotFiles.read(root), RunningStatistics(), RunningStatistics()
    files.require_finite((ACTION, OBS_STATE))
    for episode, steps in files.steps(files.episodes, (ACTION, OBS_STATE)):
        if isinstance(steps, str):
            raise DatasetError(
                expected=f"the actions and states of episode {episode.number} in {root}",
                got=steps,
                fix="Relative targets need their own statistics from the dataset's tables: download the "
                "dataset again, or train with --policy.action_mode=absolute.",
            )
        actions, state = steps.values[ACTION], steps.values[OBS_STATE]
        index = torch.arange(len(actions))[:, None] + torch.arange(chunk)
        inside = index < len(actions)
        targets.update(codec.targets(actions[index.clamp(max=len(actions) - 1)], state)[inside].numpy())
        states.update(state.numpy())
    layout = None if codec.frame is None else codec.frame.embodiment
    fits = layout is not None and states.mean.shape == (layout.action_dim,)
    # A delta is one of k steps: what matters over a chunk is spread over them.
    share = 1 / chunk if codec.delta else 1.0
    return targets.result(layout, share=share), states.result(layout if fits else None)
