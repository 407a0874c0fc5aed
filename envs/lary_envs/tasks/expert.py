"""Scripted experts: vectorised waypoint machines that see the simulator's state.

Each task lists its phases; the machine moves every world's target towards its phase's waypoint. It plans from
the target that was last executed, so a disturbed target is corrected, and it passes on when observable
conditions hold (never after a number of steps), so that a policy without memory can imitate it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from lary_envs.kinematics import limit_length
from lary_envs.tasks.phases import Phase
from lary_envs.tasks.spec import task_entry
from lary_envs.tasks.state import WorldState

if TYPE_CHECKING:
    from lary_envs.env import SimEnv

# The last centimetres are slow: half the remaining way a step, at least 3 mm.
_APPROACH, _MIN_STEP_M = 0.5, 0.003
_MAX_TURN_RAD = 0.12


class Expert(Protocol):
    """A scripted policy for all worlds of one environment."""

    def reset(self) -> None:
        """Forget the last episode; call after SimEnv.reset."""

    def act(self, last_target: Tensor) -> Tensor:
        """Return the next absolute targets `[w, a]`, given those last executed."""

    def free_space(self) -> Tensor:
        """Return bool `[w]`: the arm is far from contact, so noise may be added to its target."""


class WaypointExpert:
    """Runs the phases of one task in every world; the last phase never ends."""

    def __init__(self, env: SimEnv, phases: tuple[Phase, ...]) -> None:
        self._env, self._phases, self._layout = env, phases, env.layout
        device = env.device
        self._free = torch.tensor([p.free for p in phases], device=device)
        self._track = torch.tensor([p.track for p in phases], device=device)
        self._speed = torch.tensor([p.speed_m for p in phases], dtype=torch.float64, device=device)
        self._tolerance = torch.tensor([p.tolerance_m for p in phases], dtype=torch.float64, device=device)
        self._worlds = torch.arange(env.num_worlds, device=device)
        self.reset()

    def reset(self) -> None:
        """Start with the first phase in every world."""
        self._phase = torch.zeros(self._env.num_worlds, dtype=torch.long, device=self._env.device)
        self._seen = self._env.world_state()

    def free_space(self) -> Tensor:
        """Return bool `[w]`: the present phase is far from contact."""
        return self._free[self._phase]

    def act(self, last_target: Tensor) -> Tensor:
        """Return the next targets `[w, a]`, float32."""
        last = self._layout.to_arms(last_target.to(self._env.device, torch.float64))
        state = self._observe()
        arms_of_one = [p.waypoint(state).reshape(last.shape) for p in self._phases]
        waypoints = torch.stack(arms_of_one, 1).double()
        over = self._over(state, last, self._current(waypoints))
        self._phase = torch.where(over, (self._phase + 1).clamp(max=len(self._phases) - 1), self._phase)
        return self._layout.to_action(self._towards(last, self._current(waypoints))).float()

    def _current(self, waypoints: Tensor) -> Tensor:
        return waypoints[self._worlds, self._phase]

    def _observe(self) -> WorldState:
        """Return the measured state, with the remembered object where the phase does not track it."""
        now, keep = self._env.world_state(), ~self._track[self._phase]
        self._seen = replace(
            now,
            object_pos=torch.where(keep[:, None], self._seen.object_pos, now.object_pos),
            object_rot=torch.where(keep[:, None, None], self._seen.object_rot, now.object_rot),
        )
        return self._seen

    def _over(self, state: WorldState, last: Tensor, waypoint: Tensor) -> Tensor:
        commanded = (waypoint[..., :3] - last[..., :3]).norm(dim=-1)
        measured = (waypoint[..., :3] - state.arms[..., :3]).norm(dim=-1)
        near = torch.maximum(commanded, measured).amax(-1) < self._tolerance[self._phase]
        reached = torch.ones_like(near)
        conditions = torch.stack([reached & p.done(state) for p in self._phases], 1)
        return near & self._current(conditions)

    def _towards(self, last: Tensor, waypoint: Tensor) -> Tensor:
        out = waypoint.clone()
        way = waypoint[..., :3] - last[..., :3]
        distance = way.norm(dim=-1, keepdim=True)
        longest = torch.minimum(
            (distance * _APPROACH).clamp(min=_MIN_STEP_M), self._speed[self._phase][:, None, None]
        )
        out[..., :3] = last[..., :3] + way * (longest / distance.clamp(min=1e-9)).clamp(max=1.0)
        turn = waypoint[..., 3:6] - last[..., 3:6]
        out[..., 3:6] = last[..., 3:6] + limit_length(turn, _MAX_TURN_RAD)
        return out


def make_expert(task: str, env: SimEnv) -> Expert:
    """Build the scripted expert of a task.

    Raises:
        UnknownNameError: There is no such task.
    """
    return WaypointExpert(env, task_entry(task).phases())
