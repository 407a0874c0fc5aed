"""MetaWorld's scripted policies as experts of ours."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lary_envs.metaworld.controller import MAX_STEP_M
from lary_envs.metaworld.simulator import expert_of

if TYPE_CHECKING:
    from lary_envs.metaworld.world import MetaWorldEnv

FREE_M = 0.12  # the hand is 9 cm wide: further than this from every object it touches none


class SawyerExpert:
    """Runs MetaWorld's policy of the task in every world; it has no memory."""

    def __init__(self, env: MetaWorldEnv) -> None:
        self._env, self._policy = env, expert_of(env.own_name)

    def reset(self) -> None:
        """Do nothing: there is no memory."""

    def act(self, last_target: Tensor) -> Tensor:
        """Return the next targets `[w, 4]`, float32: those last executed, displaced as MetaWorld says."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that displacements are cut at 1, which is what they are for
            raw = np.stack([self._policy.get_action(seen) for seen in self._env.observed()])
        action = torch.from_numpy(raw).double().clamp(-1.0, 1.0)
        low, high = (torch.tensor(corner, dtype=torch.float64) for corner in self._env.workspace_m)
        place = last_target[:, :3].double() + action[:, :3] * MAX_STEP_M
        place = torch.minimum(torch.maximum(place, low), high)
        return torch.cat([place, (1.0 - action[:, 3:]) / 2.0], -1).float()

    def free_space(self) -> Tensor:
        """Return bool `[w]`: the tool is far from every object."""
        state = self._env.state()
        objects = [value for name, value in state.items() if name in ("object_pos", "object_2_pos")]
        far = [(value - state["tool_pos"]).norm(dim=-1) > FREE_M for value in objects]
        return torch.stack(far, -1).all(-1)
