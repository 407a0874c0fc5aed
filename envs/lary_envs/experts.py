"""Scripted experts: vectorised waypoint machines that see the simulator's state.

Each task lists its phases; the machine moves every world's target towards its phase's waypoint. It plans from
the target that was last executed, so a disturbed target is corrected, and it passes on when observable
conditions hold (never after a number of steps), so that a policy without memory can imitate it.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Protocol

import torch
from torch import Tensor

from lary_envs.controller import limit_length
from lary_envs.env import SimEnv
from lary_envs.phases import Phase
from lary_envs.spec import WorldState, task_entry

# The last centimetres are slow: half the remaining way a step, at least 3 mm.
_APPROACH, _MIN_STEP_M = 0.5, 0.003
_MAX_TURN_RAD = 0.12


class Expert(Protocol):
    """A scripted policy for all worlds of one environment."""

    def reset(self) -> None:
        """Forget the last episode; call after SimEnv.reset."""

    def act(self, last_target: Tensor) -> Tensor:
        """Return the next absolute targets `[w, 7]`, given those last executed."""

    def free_space(self) -> Tensor:
        """Return bool `[w]`: the arm is far from contact, so noise may be added to its target."""


class WaypointExpert:
    """Runs the phases of one task in every world; the last phase never ends."""

    def __init__(self, env: SimEnv, phases: tuple[Phase, ...]) -> None:
        self._env, self._phases = env, phases
        self._free = torch.tensor([p.free for p in phases])
        self._track = torch.tensor([p.track for p in phases])
        self._speed = torch.tensor([p.speed_m for p in phases], dtype=torch.float64)
        self._tolerance = torch.tensor([p.tolerance_m for p in phases], dtype=torch.float64)
        self.reset()

    def reset(self) -> None:
        """Start with the first phase in every world."""
        self._phase = torch.zeros(self._env.num_worlds, dtype=torch.long)
        self._seen = self._env.world_state()

    def free_space(self) -> Tensor:
        """Return bool `[w]`: the present phase is far from contact."""
        return self._free[self._phase]

    def act(self, last_target: Tensor) -> Tensor:
        """Return the next targets `[w, 7]`, float32."""
        last = last_target.double()
        state = self._observe()
        waypoints = torch.stack([p.waypoint(state) for p in self._phases], 1)
        over = self._over(state, last, self._current(waypoints))
        self._phase = torch.where(over, (self._phase + 1).clamp(max=len(self._phases) - 1), self._phase)
        return self._towards(last, self._current(waypoints)).float()

    def _current(self, waypoints: Tensor) -> Tensor:
        return waypoints[torch.arange(len(waypoints)), self._phase]

    def _observe(self) -> WorldState:
        """Return the measured state, with the remembered object where the phase does not track it."""
        now = self._env.world_state()
        keep = ~self._track[self._phase]
        frozen = {}
        for name in ("object_pos", "object_yaw"):
            old, new = getattr(self._seen, name), getattr(now, name)
            frozen[name] = torch.where(keep[:, None] if new.ndim == 2 else keep, old, new)
        self._seen = WorldState(
            **{f.name: frozen.get(f.name, getattr(now, f.name)) for f in fields(WorldState)}
        )
        return self._seen

    def _over(self, state: WorldState, last: Tensor, waypoint: Tensor) -> Tensor:
        commanded = (waypoint[:, :3] - last[:, :3]).norm(dim=-1)
        measured = (waypoint[:, :3] - state.tcp_pose[:, :3]).norm(dim=-1)
        near = torch.maximum(commanded, measured) < self._tolerance[self._phase]
        conditions = torch.stack([torch.as_tensor(p.done(state)).expand(len(last)) for p in self._phases], 1)
        return near & conditions[torch.arange(len(last)), self._phase]

    def _towards(self, last: Tensor, waypoint: Tensor) -> Tensor:
        out = waypoint.clone()
        way = waypoint[:, :3] - last[:, :3]
        distance = way.norm(dim=-1, keepdim=True)
        longest = torch.minimum(
            (distance * _APPROACH).clamp(min=_MIN_STEP_M), self._speed[self._phase][:, None]
        )
        out[:, :3] = last[:, :3] + way * (longest / distance.clamp(min=1e-9)).clamp(max=1.0)
        out[:, 3:6] = last[:, 3:6] + limit_length(waypoint[:, 3:6] - last[:, 3:6], _MAX_TURN_RAD)
        return out


def make_expert(task: str, env: SimEnv) -> Expert:
    """Build the scripted expert of a task.

    Raises:
        UnknownNameError: There is no such task.
    """
    return WaypointExpert(env, task_entry(task).phases())
