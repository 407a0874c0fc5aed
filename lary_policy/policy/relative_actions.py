"""Actions relative to a state: number by number as LeRobot does it, or with rotations composed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lerobot.lerobot_types import EnvTransition, TransitionKey
from lerobot.processor import (
    AbsoluteActionsProcessorStep,
    ProcessorStepRegistry,
    RelativeActionsProcessorStep,
    to_absolute_actions,
    to_relative_actions,
)
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from lary_policy.actions import STD_FLOOR, ActionStats, Embodiment, load_embodiment
from lary_policy.errors import ConfigError, DatasetError, EmbodimentError


@dataclass(frozen=True)
class RelativeFrame:
    """Turns absolute actions into relative ones and back.

    Attributes:
        mask: Which of the a numbers become relative; the others stay absolute.
        embodiment: Layout whose rotations are composed (and whose grippers stay absolute); None subtracts.
    """

    mask: tuple[bool, ...]
    embodiment: Embodiment | None = None

    @classmethod
    def of(
        cls,
        action_dim: int,
        *,
        embodiment: str | None = None,
        exclude: Sequence[str] = (),
        names: Sequence[str] | None = None,
    ) -> RelativeFrame:
        """Build the frame of a policy.

        Args:
            action_dim: Numbers a of an action.
            embodiment: Name of the layout, or None.
            exclude: Names of actions that stay absolute, matched as LeRobot's processors do.
            names: Name of each action; None takes the layout's labels.

        Raises:
            EmbodimentError: The layout has another number of actions.
            ConfigError: Only part of a rotation would stay absolute.
        """
        layout = None if embodiment is None else load_embodiment(embodiment)
        if layout is not None and layout.action_dim != action_dim:
            raise EmbodimentError(
                expected=f"actions of {layout.action_dim} numbers ({', '.join(layout.labels)})",
                got=str(action_dim),
                fix=f"Correct the embodiment '{layout.name}' of the dataset or policy.",
            )
        labels = names if layout is None or names is not None else layout.labels
        step = RelativeActionsProcessorStep(
            enabled=True, exclude_joints=list(exclude), action_names=None if labels is None else list(labels)
        )
        mask = tuple(step._build_mask(action_dim))
        for group in layout.groups if layout else ():
            if group.kind == "rotation" and len({mask[i] for i in group.indices}) > 1:
                raise ConfigError(
                    expected=f"all of {', '.join(group.labels)} relative, or none",
                    got=f"relative_exclude_joints {list(exclude)}",
                    fix="Correct relative_exclude_joints.",
                )
        return cls(mask, layout)

    def to_relative(self, actions: Tensor, state: Tensor) -> Tensor:
        """Express absolute actions `[b k a]` or `[b a]` relative to states `[b s]`, s >= a."""
        if self.embodiment is None:
            return to_relative_actions(actions, state, self.mask)
        return self._composed(self.embodiment, actions, state, inverse=False)

    def to_absolute(self, relative: Tensor, state: Tensor) -> Tensor:
        """Invert `to_relative`."""
        if self.embodiment is None:
            return to_absolute_actions(relative, state, self.mask)
        return self._composed(self.embodiment, relative, state, inverse=True)

    def differences(self, relative: Tensor) -> Tensor:
        """Express each relative action of a chunk `[b k a]` relative to the one before it."""
        later, before = relative[:, 1:], relative[:, :-1]
        steps = self.to_relative(later.flatten(0, 1), before.flatten(0, 1))
        return torch.cat([relative[:, :1], steps.view_as(later)], 1)

    def accumulate(self, differences: Tensor) -> Tensor:
        """Invert `differences`."""
        path = [differences[:, 0]]
        for step in differences[:, 1:].unbind(1):
            path.append(self.to_absolute(step, path[-1]))
        return torch.stack(path, 1)

    def _composed(self, layout: Embodiment, actions: Tensor, state: Tensor, *, inverse: bool) -> Tensor:
        # Autocast and TF32, which LeRobot switches on, would round products of float32; MPS has no float64.
        wide = actions.dtype if actions.device.type == "mps" else torch.float64
        chunks = (actions if actions.ndim == 3 else actions.unsqueeze(1)).to(wide)
        anchor = state[..., : layout.action_dim].to(chunks)
        if inverse:
            moved = layout.to_absolute(chunks, anchor, check=False)
        else:
            moved = layout.to_relative(chunks, anchor)
        kept = torch.where(torch.tensor(self.mask, device=moved.device), moved, chunks)
        return kept.view_as(actions).to(actions.dtype)


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


def target_statistics(
    root: Path, chunk: int, frame: RelativeFrame, *, delta: bool
) -> tuple[ActionStats, ActionStats]:
    """Compute statistics of all targets and of all states of a dataset.

    Every frame starts a chunk, as in training; actions past an episode's end are left out, as the loss does.

    Args:
        root: The dataset's folder.
        chunk: Actions k of a chunk.
        frame: What relative means.
        delta: Whether targets are relative to the action before.

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
        relative = frame.to_relative(actions[index.clamp(max=len(actions) - 1)], state)
        targets.add((frame.differences(relative) if delta else relative)[inside])
        states.add(state)
    least = least_scale(frame.embodiment)
    # A delta is one of k steps: what matters over a chunk is spread over them.
    least_target = least / chunk if delta and least is not None else least
    fits = least is not None and len(states.total) == len(least)
    return targets.stats(least_target), states.stats(least if fits else None)
