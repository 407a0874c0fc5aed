"""Relative actions in LeRobot's pipelines: steps that make and undo them, and statistics of a dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lerobot.lerobot_types import EnvTransition, TransitionKey
from lerobot.processor import (
    AbsoluteActionsProcessorStep,
    ProcessorStepRegistry,
    RelativeActionsProcessorStep,
)
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from lary_policy.actions import STD_FLOOR, ActionCodec, ActionStats, Embodiment, RelativeFrame
from lary_policy.errors import ConfigError, DatasetError

_HISTORY = 3  # dimensions of states [b t s]; the last one is the present


@ProcessorStepRegistry.register("lary_relative_actions_processor")
@dataclass
class LaryRelativeActionsStep(RelativeActionsProcessorStep):
    """Makes actions relative to the present state and remembers it.

    Attributes:
        embodiment: Layout whose rotations are composed, or None.
    """

    embodiment: str | None = None
    _frames: dict[int, RelativeFrame] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, transition: EnvTransition) -> EnvTransition:
        """Remember the state; make the actions, if any, relative to it."""
        state = (transition.get(TransitionKey.OBSERVATION) or {}).get(OBS_STATE)
        if state is None:
            return transition
        self._last_state = state[:, -1] if state.ndim == _HISTORY else state
        action = transition.get(TransitionKey.ACTION)
        if not self.enabled or action is None:
            return transition
        moved = transition.copy()
        moved[TransitionKey.ACTION] = self.frame(action).to_relative(action, self._last_state)
        return moved

    def frame(self, action: Tensor) -> RelativeFrame:
        """Return what the actions `[... a]` are relative in."""
        size = action.shape[-1]
        if size not in self._frames:  # reads the embodiment's file
            self._frames[size] = RelativeFrame.of(
                size, embodiment=self.embodiment, exclude=self.exclude_joints, names=self.action_names
            )
        return self._frames[size]

    def get_config(self) -> dict[str, Any]:
        """Return what the step is rebuilt from."""
        return {**super().get_config(), "embodiment": self.embodiment}


@ProcessorStepRegistry.register("lary_absolute_actions_processor")
@dataclass
class LaryAbsoluteActionsStep(AbsoluteActionsProcessorStep):
    """Makes actions absolute again with the state that the paired step remembers."""

    def __call__(self, transition: EnvTransition) -> EnvTransition:
        """Return the transition with absolute actions.

        Raises:
            ConfigError: There is no paired step, or it has not seen a state.
        """
        action, pair = transition.get(TransitionKey.ACTION), self.relative_step
        if not self.enabled or action is None:
            return transition
        state = None if pair is None else pair.get_cached_state()
        if not isinstance(pair, LaryRelativeActionsStep) or state is None:
            raise ConfigError(
                expected=f"a state '{OBS_STATE}' that went through the policy's preprocessor",
                got="none",
                fix="Load both processors with LeRobot's make_pre_post_processors and run them in turn.",
            )
        moved = transition.copy()
        moved[TransitionKey.ACTION] = pair.frame(action).to_absolute(action, state.to(action))
        return moved


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
