"""What is measured in the worlds: poses of tools, objects and goals, on the device of the physics."""

from __future__ import annotations

import mujoco
import torch
from torch import Tensor

from lary_envs.kinematics import TorchChain
from lary_envs.physics.batch import Physics
from lary_envs.robots import Robot
from lary_envs.tasks import WorldState
from lary_policy.actions import matrix_to_euler_xyz, quat_wxyz_to_matrix

GOAL_BODIES = ("goal", "goal_2")


def body_id(model: mujoco.MjModel, name: str) -> int:
    """Return the index of a body, or -1 when the scene has none of that name."""
    return int(mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name))


class Measurement:
    """Reads the worlds of one physics engine, of a compiled scene with a robot."""

    def __init__(self, robot: Robot, model: mujoco.MjModel, physics: Physics) -> None:
        def addresses(names: tuple[str, ...]) -> Tensor:
            return torch.tensor([int(model.joint(n).qposadr[0]) for n in names], device=physics.device)

        self._physics, self._num_arms = physics, len(robot.arms)
        dtype = physics.field("qpos").dtype
        chains = [arm.chain for arm in robot.arms]
        # float64 whatever the engine has: lerobot-eval lets products of float32 be rounded (TF32, autocast).
        self._chain = TorchChain(chains, device=physics.device)
        self._joints = addresses(tuple(name for arm in robot.arms for name in arm.joints))
        self._fingers = [
            (index, addresses(arm.gripper.fingers), 2 * arm.gripper.open_m)
            for index, arm in enumerate(robot.arms)
            if arm.gripper is not None
        ]
        self._object, self._object_dof = body_id(model, "object"), -1
        if self._object >= 0:
            self._object_dof = int(model.jnt_dofadr[model.body_jntadr[self._object]])
        self._goals = [body for body in (body_id(model, name) for name in GOAL_BODIES) if body >= 0]
        self._peak = torch.zeros(len(physics.field("qpos")), dtype=dtype, device=physics.device)

    def reset(self, worlds: Tensor | slice) -> None:
        """Forget the peak height of the object in the given worlds."""
        self._peak[worlds] = 0

    def joints(self) -> Tensor:
        """Return joint angles `[w, A, n]`, rad."""
        return self._physics.field("qpos")[:, self._joints].unflatten(1, (self._num_arms, -1))

    def arms(self) -> Tensor:
        """Return tool poses `[w, A, 7]`: x, y, z (m), roll, pitch, yaw (rad), opening (1 without gripper)."""
        joints = self.joints()
        pos, rot = (part.to(joints.dtype) for part in self._chain.forward(joints.double()))
        opening = torch.ones_like(pos[..., :1])
        for arm, fingers, travel in self._fingers:
            gap = self._physics.field("qpos")[:, fingers].sum(-1)
            opening[:, arm, 0] = (gap / travel).clamp(0.0, 1.0)
        return torch.cat([pos, matrix_to_euler_xyz(rot), opening], -1)

    def state(self) -> WorldState:
        """Return the state of all worlds and update the object's peak height."""
        arms, xpos = self.arms(), self._physics.field("xpos")
        nothing = torch.zeros_like(arms[:, 0, :3])
        goals = torch.stack([xpos[:, body] for body in self._goals] or [nothing], 1)
        goal_rot = self._rotation(self._goals[0] if self._goals else -1)
        object_pos, speed = nothing, nothing[:, 0]
        if self._object >= 0:
            object_pos = xpos[:, self._object].clone()
            dof = self._object_dof
            speed = self._physics.field("qvel")[:, dof : dof + 3].norm(dim=-1)
        self._peak = torch.maximum(self._peak, object_pos[:, 2])
        return WorldState(
            arms=arms, goals=goals, goal_yaw=goal_rot[:, 1, 0].atan2(goal_rot[:, 0, 0]),
            object_pos=object_pos, object_rot=self._rotation(self._object), object_speed=speed,
            object_peak=self._peak.clone(),
        )  # fmt: skip

    def _rotation(self, body: int) -> Tensor:
        """Return `[w, 3, 3]` of a body; the world's own, the identity, where there is no such body."""
        return quat_wxyz_to_matrix(self._physics.field("xquat")[:, max(body, 0)])
