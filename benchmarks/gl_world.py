"""One world as a gymnasium environment with MuJoCo's own renderer, as simulated benchmarks have it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from gl import make_renderer
from lary_envs import EndEffectorController
from lary_envs.tasks import task_spec
from lary_policy.machine import intra_op_threads
from scene_copy import PlainWorld

type Observation = dict[str, Any]


class GlWorld(gymnasium.Env[Observation, NDArray[np.float32]]):
    """The scene and controller of a task, stepped by `mj_step`; each observation has a frame of one camera.

    Success is not measured, so every episode lasts `max_steps`; that is in favour of this side.

    Args:
        task: Name of the task.
        image_px: Height and width of a frame.
        camera: Name of the camera.
        max_steps: Control steps of an episode.

    Raises:
        SystemExit: There is no OpenGL.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (gymnasium's)

    def __init__(self, task: str, image_px: int, camera: str, max_steps: int) -> None:
        self.task, self.task_description = task, task_spec(task).instruction
        self._max_episode_steps, self._camera = max_steps, camera
        self._world, self._steps = PlainWorld(task), 0
        self._controller = EndEffectorController(1, embodiment=self._world.robot.embodiment)
        joints = [name for arm in self._world.robot.arms for name in arm.joints]
        self._joints = [int(self._world.model.joint(name).qposadr[0]) for name in joints]
        self._renderer = make_renderer(self._world.model, image_px)
        if self._renderer is None:
            raise SystemExit("no OpenGL")
        frame = gymnasium.spaces.Box(0, 255, (image_px, image_px, 3), np.uint8)
        state = gymnasium.spaces.Box(-np.inf, np.inf, (len(joints),), np.float32)
        pixels = gymnasium.spaces.Dict({camera: frame})
        self.observation_space = gymnasium.spaces.Dict({"pixels": pixels, "agent_pos": state})
        action_dim = self._controller.layout.action_dim
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (action_dim,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the episode of a seed."""
        super().reset(seed=seed)
        self._world.reset(seed or 0)
        with intra_op_threads(1):
            self._controller.reset(torch.from_numpy(self._state()[None]))
        self._steps = 0
        return self._observe(), {"is_success": False}

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Execute one absolute target `[a]`."""
        with intra_op_threads(1):
            ctrl = self._controller.command(torch.from_numpy(np.asarray(action)[None]))
        self._world.step(ctrl[0].numpy())
        self._steps += 1
        truncated = self._steps >= self._max_episode_steps
        return self._observe(), 0.0, False, truncated, {"is_success": False}

    def close(self) -> None:
        """Free the OpenGL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _observe(self) -> Observation:
        assert self._renderer is not None
        self._renderer.update_scene(self._world.data, self._camera)
        return {"pixels": {self._camera: self._renderer.render()}, "agent_pos": self._state()}

    def _state(self) -> NDArray[np.float32]:
        return self._world.data.qpos[self._joints].astype(np.float32)
