"""SimEnv: w worlds of one task, stepped together, seen by ray-traced cameras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mujoco
import numpy as np
import torch
from torch import Tensor

from lary_envs.backend import BatchPhysics
from lary_envs.kinematics import FINGER_OPEN_M, JOINT_HOME_RAD, ArmChain
from lary_envs.scene import TIMESTEP_S, build_model
from lary_envs.spec import Placement, WorldState, task_entry
from lary_policy.errors import ShapeError, SimulationError, UnknownNameError
from lary_policy.rotation import matrix_to_euler_xyz, quat_wxyz_to_matrix

if TYPE_CHECKING:
    from lary_envs.renderer import RayTracer

_HOME_NOISE_RAD = 0.03
_RENDER_DEVICES = ("cpu", "cuda")
_FINGER_TRAVEL_M = 2 * FINGER_OPEN_M


class SimEnv:
    """A batch of simulated worlds.

    Args:
        task: Name of a task, see `list_tasks`.
        num_worlds: Worlds w.
        cameras: Cameras c to render, out of `TaskSpec.cameras`.
        image_px: Height and width of a frame.
        render_device: `cpu` or `cuda`; where frames are traced and returned.
        num_threads: Threads of physics and CPU rendering; all cores by default.

    Raises:
        UnknownNameError: Unknown task or camera; the message lists the valid names.
        SimulationError: `num_worlds` or `image_px` below 1, no camera, or CUDA asked for and not there.
    """

    def __init__(
        self, task: str, num_worlds: int, *, cameras: Sequence[str] = ("front",), image_px: int = 112,
        render_device: str = "cpu", num_threads: int | None = None,
    ) -> None:  # fmt: skip
        entry = task_entry(task)
        self.task = entry.spec
        self.num_worlds, self.cameras, self.image_px = num_worlds, tuple(cameras), image_px
        self._check_arguments(render_device)
        self._rules = entry.factory()
        self._model = build_model(self._rules)
        self.num_actuators = int(self._model.nu)
        self.joint_home = torch.tensor(JOINT_HOME_RAD)
        self._physics = BatchPhysics(self._model, num_worlds, num_threads=num_threads)
        self._tracer: RayTracer | None = None
        self._render_device, self._num_threads = render_device, num_threads
        self._substeps = round(1 / (self.task.control_hz * TIMESTEP_S))
        self._chain = ArmChain()
        self._bodies = {name: self._body(name) for name in ("object", "goal") if self._body(name) >= 0}
        self._held = torch.zeros(num_worlds, dtype=torch.long)
        self._peak = torch.zeros(num_worlds, dtype=torch.float64)

    def reset(self, seeds: Sequence[int]) -> None:
        """Start a new episode in every world; the initial state depends on the world's seed alone.

        Raises:
            SimulationError: Not one seed a world.
        """
        if len(seeds) != self.num_worlds:
            raise SimulationError(
                expected=f"{self.num_worlds} seeds, one a world",
                got=f"{len(seeds)}",
                fix="Pass one seed a world.",
            )
        qpos, mocap, ctrl = (np.stack(x) for x in zip(*(self._initial(s) for s in seeds), strict=True))
        self._physics.reset(torch.from_numpy(qpos), torch.from_numpy(mocap), torch.from_numpy(ctrl))
        self._held.zero_()
        self._peak.zero_()

    def step(self, ctrl: Tensor) -> None:
        """Run one control step (50 ms) with joint position targets `[w, nu]`: 7 joints (rad), finger (m).

        Raises:
            ShapeError: Wrong shape or non-finite values.
            SimulationError: The physics diverged.
        """
        if tuple(ctrl.shape) != (self.num_worlds, self.num_actuators):
            raise ShapeError(
                expected=f"ctrl of shape [{self.num_worlds}, {self.num_actuators}] (7 joints, gripper)",
                got=f"{tuple(ctrl.shape)}",
                fix="Use EndEffectorController.command to make it.",
            )
        if not torch.isfinite(ctrl).all():
            raise ShapeError(
                expected="finite ctrl",
                got="non-finite values",
                fix="Check targets with EndEffectorController.check.",
            )
        self._physics.step(ctrl, self._substeps)
        if not torch.isfinite(self._physics.field("qpos")).all():
            raise SimulationError(
                expected="finite joint positions after a step",
                got="a diverged world",
                fix="Report the seed and task.",
            )
        state = self.world_state()
        self._held = torch.where(self._rules.holds(state), self._held + 1, 0)

    def frames(self, worlds: Sequence[int] | None = None) -> Tensor:
        """Render uint8 RGB `[n, c, h, w, 3]` of the given worlds (all by default) on the render device.

        Raises:
            SimulationError: A world index is out of range.
        """
        chosen = list(range(self.num_worlds)) if worlds is None else [int(w) for w in worlds]
        if not chosen or min(chosen) < 0 or max(chosen) >= self.num_worlds:
            raise SimulationError(
                expected=f"world indices from 0 to {self.num_worlds - 1}",
                got=f"{chosen}",
                fix="Choose others.",
            )
        if self._tracer is None:
            self._tracer = self._make_tracer()
        return self._tracer.render(self._physics, chosen)

    def proprio(self) -> Tensor:
        """Return the measured pose `[w, 7]`, float32, in the embodiment layout (gripper = opening 0 to 1)."""
        return self._measured_pose().float()

    def joints(self) -> Tensor:
        """Return the measured joint angles `[w, 7]`, float32."""
        return self._physics.field("qpos")[:, :7].float()

    def success(self) -> Tensor:
        """Return bool `[w]`: the success condition, with its duration, holds now."""
        return self._held >= self.task.hold_steps

    def state(self) -> dict[str, Tensor]:
        """Return `object_pos` `[w, 3]`, `object_yaw` `[w]`, `goal_pos` `[w, 3]` in m, rad."""
        out: dict[str, Tensor] = {}
        for name, body in self._bodies.items():
            out[f"{name}_pos"] = self._physics.field("xpos")[:, body].float()
        if "object" in self._bodies:
            out["object_yaw"] = self._object_yaw().float()
        return out

    def world_state(self) -> WorldState:
        """Return everything success conditions and experts read, and update the object's peak height."""
        zeros = torch.zeros(self.num_worlds, 3, dtype=torch.float64)
        pos = {n: self._physics.field("xpos")[:, b].clone() for n, b in self._bodies.items()}
        has_object = "object" in pos
        object_pos = pos.get("object", zeros)
        self._peak = torch.maximum(self._peak, object_pos[:, 2])
        speed = self._physics.field("qvel")[:, 9:12].norm(dim=-1) if has_object else zeros[:, 0]
        yaw = self._object_yaw() if has_object else zeros[:, 0]
        return WorldState(
            tcp_pose=self._measured_pose(), goal_pos=pos.get("goal", zeros), object_pos=object_pos,
            object_yaw=yaw, object_speed=speed, object_peak=self._peak.clone(),
        )  # fmt: skip

    def close(self) -> None:
        """Free the renderer; the environment must not be used afterwards."""
        if self._tracer is not None:
            self._tracer.close()
            self._tracer = None

    def _make_tracer(self) -> RayTracer:
        from lary_envs.renderer import RayTracer  # here, because physics alone must not wait for Warp

        return RayTracer(
            self._model, self.num_worlds, self.cameras, self.image_px,
            device=self._render_device, num_threads=self._num_threads,
        )  # fmt: skip

    def _measured_pose(self) -> Tensor:
        qpos = self._physics.field("qpos")
        pos, rot = self._chain.forward(qpos[:, :7])
        opening = (qpos[:, 7:9].sum(-1, keepdim=True) / _FINGER_TRAVEL_M).clamp(0.0, 1.0)
        return torch.cat([pos, matrix_to_euler_xyz(rot), opening], -1)

    def _object_yaw(self) -> Tensor:
        matrix = quat_wxyz_to_matrix(self._physics.field("xquat")[:, self._bodies["object"]])
        return torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0])

    def _body(self, name: str) -> int:
        return int(mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_BODY, name))

    def _initial(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw one world's positions, goal positions and first command from its seed."""
        rng = np.random.default_rng(seed)
        qpos = self._model.qpos0.copy()
        qpos[:7] = np.asarray(JOINT_HOME_RAD) + rng.uniform(-_HOME_NOISE_RAD, _HOME_NOISE_RAD, 7)
        qpos[7:9] = FINGER_OPEN_M
        placed = self._rules.sample(rng)
        mocap = np.zeros((self._model.nmocap, 3))
        for name, placement in placed.items():
            self._place(self._body(name), placement, qpos, mocap)
        return qpos, mocap, np.append(qpos[:7], FINGER_OPEN_M)

    def _place(self, body: int, placement: Placement, qpos: np.ndarray, mocap: np.ndarray) -> None:
        mocap_id = int(self._model.body_mocapid[body])
        if mocap_id >= 0:
            mocap[mocap_id] = placement.pos_m
            return
        start = int(self._model.jnt_qposadr[self._model.body_jntadr[body]])
        half = placement.yaw_rad / 2
        qpos[start : start + 7] = [*placement.pos_m, np.cos(half), 0.0, 0.0, np.sin(half)]

    def _check_arguments(self, render_device: str) -> None:
        if render_device.split(":")[0] not in _RENDER_DEVICES:
            raise UnknownNameError("render device", render_device, _RENDER_DEVICES)
        if render_device != "cpu" and not torch.cuda.is_available():
            raise SimulationError(
                expected="a CUDA device for rendering", got="none", fix="Use render_device='cpu'."
            )
        for camera in self.cameras:
            if camera not in self.task.cameras:
                raise UnknownNameError("camera", camera, self.task.cameras)
        for name, value in (
            ("num_worlds", self.num_worlds),
            ("image_px", self.image_px),
            ("cameras", len(self.cameras)),
        ):
            if value < 1:
                raise SimulationError(
                    expected=f"{name} of at least 1", got=f"{value}", fix=f"Choose {name} >= 1."
                )
