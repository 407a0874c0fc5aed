"""LeRobot's relative and absolute action steps, for observation histories and composed rotations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lerobot.lerobot_types import EnvTransition, TransitionKey
from lerobot.processor import (
    AbsoluteActionsProcessorStep,
    ProcessorStepRegistry,
    RelativeActionsProcessorStep,
)
from lerobot.utils.constants import OBS_STATE
from torch import Tensor

from lary_policy.errors import ConfigError
from lary_policy.policy.action_frame import RelativeFrame

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
