"""What the single and the batched gymnasium environment share: observations, actions and their spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from lary_envs.controller import EndEffectorController
from lary_envs.env import SimEnv
from lary_envs.robot import Robot
from lary_envs.spec import task_spec
from lary_policy.embodiment import Embodiment, load_embodiment
from lary_policy.errors import ShapeError, SimulationError, UnknownNameError

type Observation = dict[str, Any]

ACTION_MODES = ("absolute", "relative")


class GymCore:
    """Worlds of one task behind numpy arrays.

    Observations are `pixels` (one uint8 `[w, h, w, 3]` a camera, by name) and `agent_pos`, the measured state
    float32 `[w, a]`. Actions `[w, a]` are targets of the end-effectors in the embodiment's layout: absolute,
    or relative to the last commanded pose.

    Args:
        task: Name of a task.
        num_worlds: Worlds w.
        cameras: Cameras to render.
        image_px: Height and width of a frame.
        action_mode: `absolute` or `relative`.
        device: `cpu`, `cuda` or `cuda:1`.
        max_episode_steps: Control steps of an episode; the task's own by default.
        randomisation: Level of randomisation, see `SimEnv`.
        looks: Of the robot, see `SimEnv`.

    Raises:
        UnknownNameError: Unknown task, camera, device or action mode.
        SimulationError: A count below 1, or CUDA asked for and not there.
    """

    def __init__(
        self, task: str, num_worlds: int, *, cameras: Sequence[str] = ("front",), image_px: int = 224,
        action_mode: str = "absolute", device: str = "cpu", max_episode_steps: int | None = None,
        randomisation: str = "none", looks: str = "primitives",
    ) -> None:  # fmt: skip
        if action_mode not in ACTION_MODES:
            raise UnknownNameError("action mode", action_mode, ACTION_MODES)
        self.sim = SimEnv(
            task, num_worlds, cameras=cameras, image_px=image_px, render_device=device,
            randomisation=randomisation, looks=looks,
        )  # fmt: skip
        self.spec, self.max_steps = task_spec(task), max_episode_steps or task_spec(task).max_steps
        self.relative = action_mode == "relative"
        self.controller = EndEffectorController(
            num_worlds, embodiment=self.spec.embodiment, device=str(self.sim.device)
        )
        layout = load_embodiment(self.spec.embodiment)
        self.action_space = action_space(layout, self.sim.robot, relative=self.relative)
        self.observation_space = observation_space(layout, self.sim.cameras, image_px)
        self.steps = np.zeros(num_worlds, dtype=np.int64)

    def reset(self, seeds: Sequence[int], worlds: Sequence[int] | None = None) -> None:
        """Start new episodes in the given worlds (all by default)."""
        self.sim.reset(seeds, worlds)
        index = None if worlds is None else torch.tensor(list(worlds), device=self.sim.device)
        self.controller.reset(self.sim.joints(), index)
        self.steps[slice(None) if worlds is None else list(worlds)] = 0

    def step(self, actions: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Execute actions `[w, a]` and return success `[w]`.

        Raises:
            ShapeError: The actions have another shape or are not finite.
            SimulationError: A target lies out of reach, or a world diverged.
        """
        targets = self._checked(actions)
        ctrl = self.controller.command(targets, relative=self.relative)
        self.sim.step(ctrl)
        self.steps += 1
        diverged = self.sim.diverged().nonzero().flatten().tolist()
        if diverged:
            raise SimulationError(
                expected="finite states", got=f"diverged worlds {diverged}", fix="Report the task and seeds."
            )
        return self.sim.success().cpu().numpy()

    def observe(self) -> Observation:
        """Return what all worlds look like now."""
        frames = self.sim.frames().cpu()
        pixels = {name: frames[:, i].contiguous().numpy() for i, name in enumerate(self.sim.cameras)}
        return {"pixels": pixels, "agent_pos": self.sim.proprio().cpu().numpy()}

    def _checked(self, actions: NDArray[np.floating[Any]]) -> torch.Tensor:
        expected = (self.sim.num_worlds, self.sim.layout.action_dim)
        if np.shape(actions) != expected:
            labels = ", ".join(load_embodiment(self.spec.embodiment).labels)
            raise ShapeError(
                expected=f"actions of shape {list(expected)} ({labels})",
                got=f"{list(np.shape(actions))}",
                fix="Pass one target a world in the layout of the embodiment.",
            )
        targets = torch.as_tensor(np.asarray(actions, dtype=np.float32), device=self.sim.device)
        if not torch.isfinite(targets).all():
            raise ShapeError(
                expected="finite actions",
                got="non-finite values",
                fix="Stop the policy and look at its output.",
            )
        reasons = [] if self.relative else self.controller.check(targets)
        refused = [f"world {w}: {reason}" for w, reason in enumerate(reasons) if reason]
        if refused:
            bounds = self.controller.workspace_bounds
            raise SimulationError(
                expected=f"targets near the workspaces {bounds} (m)",
                got="; ".join(refused),
                fix="Keep positions inside env.action_space.",
            )
        return targets


def action_space(layout: Embodiment, robot: Robot, *, relative: bool) -> gymnasium.spaces.Box:
    """Return the box of one action: workspace (m), +-pi (rad), +-1 (quaternions) and opening 0 to 1.

    Relative positions are bounded by 3 cm and turns by 0.2 rad, the controller's speed limit.
    """
    low, high = np.full(layout.action_dim, -1.0), np.full(layout.action_dim, 1.0)
    boxes = {arm.side: np.array(arm.workspace_m) for arm in robot.arms}
    for group in layout.groups:
        index = list(group.indices)
        if group.kind == "position":
            low[index], high[index] = (-0.03, 0.03) if relative else boxes[group.arm]
        elif group.kind == "gripper":
            low[index], high[index] = 0.0, 1.0
        elif not group.convention.startswith("quat"):
            turn = 0.2 if relative else np.pi
            low[index], high[index] = -turn, turn
    return gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def observation_space(layout: Embodiment, cameras: Sequence[str], image_px: int) -> gymnasium.spaces.Dict:
    """Return the space of one observation."""
    frame = gymnasium.spaces.Box(0, 255, (image_px, image_px, 3), np.uint8)
    state = gymnasium.spaces.Box(-np.inf, np.inf, (layout.action_dim,), np.float32)
    pixels = gymnasium.spaces.Dict(dict.fromkeys(cameras, frame))
    return gymnasium.spaces.Dict({"pixels": pixels, "agent_pos": state})
