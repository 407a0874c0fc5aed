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
from torch import Tensor

from lary_policy.actions import STD_FLOOR, ActionCodec, ActionStats, Embodiment
from lary_policy.errors import DatasetError

Features = dict[PipelineFeatureType, dict[str, PolicyFeature]]


@dataclass
class _Retired(ProcessorStep):
    """Does nothing: the policy itself makes actions relative and absolute; earlier checkpoints name the step.

    Attributes:
        enabled: As stored.
        exclude_joints: As stored.
        action_names: As stored.
        embodiment: As stored.
    """

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


@dataclass
class _Sums:
    """Count, sum and sum of squares of rows, in float64."""

    count: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, rows: Tensor) -> None:
        rows = rows.double()
        self.count += len(rows)
        self.total = self.total + rows.sum(0)
        self.squares = self.squares + rows.square().sum(0)

    def stats(self, least: Tensor | None) -> ActionStats:
        mean = self.total / self.count
        std = (self.squares / self.count - mean.square()).clamp(min=0).sqrt()
        std = floored(std, least)
        return ActionStats(tuple(mean.tolist()), tuple(std.tolist()), self.count)


def floored(std: Tensor, least: Tensor | None) -> Tensor:
    """Keep deviations `[a]` from scaling up what does not vary.

    Args:
        std: Deviations.
        least: Smaller ones are raised to these (`Embodiment.least_scale`); None replaces those that are zero
            by 1, as LARYBench does.
    """
    if least is not None:
        return torch.maximum(std, least.to(std))
    return torch.where(std < STD_FLOOR, torch.ones_like(std), std)


def least_scale(embodiment: Embodiment | None) -> Tensor | None:
    """Return the least deviations worth resolving, or None without an embodiment."""
    return None if embodiment is None else torch.tensor(embodiment.least_scale())


def target_statistics(root: Path, chunk: int, codec: ActionCodec) -> tuple[ActionStats, ActionStats]:
    """Compute statistics of all targets and of all states of a dataset.

    Every frame starts a chunk, as in training; actions past an episode's end are left out, as the loss does.

    Args:
        root: The dataset's folder.
        chunk: Actions k of a chunk.
        codec: What the targets are; its own statistics are not looked at.

    Raises:
        DatasetError: The tables cannot be read.
    """
    from lary_policy.data.lerobot import LeRobotFiles

    files, targets, states = LeRobotFiles.read(root), _Sums(), _Sums()
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
        targets.add(codec.targets(actions[index.clamp(max=len(actions) - 1)], state)[inside])
        states.add(state)
    least = least_scale(None if codec.frame is None else codec.frame.embodiment)
    # A delta is one of k steps: what matters over a chunk is spread over them.
    least_target = least / chunk if codec.delta and least is not None else least
    fits = least is not None and len(states.total) == len(least)
    return targets.stats(least_target), states.stats(least if fits else None)
