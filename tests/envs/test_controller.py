"""The end-effector controller: tracking, limits, refusals, and mink as a second opinion."""

import mujoco
import numpy as np
import pytest
import torch

from lary_envs import EndEffectorController, SimEnv
from lary_envs.controller import WORKSPACE_BOUNDS_M
from lary_envs.kinematics import JOINT_HOME_RAD, ArmChain
from lary_envs.scene import build_model
from lary_envs.spec import task_entry
from lary_policy.errors import ShapeError
from lary_policy.rotation import euler_xyz_to_matrix, geodesic_angle_rad

HOME = torch.tensor([JOINT_HOME_RAD])


def settle(controller, target, steps=60):
    for _ in range(steps):
        ctrl = controller.command(target)
    return ctrl


def targets(count, seed=0):
    """Reachable poses over the table, turned by up to 40 degrees and tilted a little."""
    rng = np.random.default_rng(seed)
    pos = rng.uniform((0.35, -0.22, 0.03), (0.65, 0.22, 0.30), (count, 3))
    tilt, yaw = rng.uniform(-0.15, 0.15, (count, 2)), rng.uniform(-0.7, 0.7, (count, 1))
    return torch.from_numpy(np.concatenate([pos, tilt, yaw, rng.uniform(0, 1, (count, 1))], 1)).float()


def test_reaches_every_pose_of_the_workspace():
    goal = targets(200)
    controller = EndEffectorController(200)
    ctrl = settle(controller, goal)
    reached = controller.pose()
    assert (reached[:, :3] - goal[:, :3]).norm(dim=-1).max() < 5e-4
    turned = geodesic_angle_rad(euler_xyz_to_matrix(reached[:, 3:6]), euler_xyz_to_matrix(goal[:, 3:6]))
    assert turned.max() < 0.01
    torch.testing.assert_close(ctrl[:, 7], goal[:, 6] * 0.04)


def test_simulated_arm_follows_moving_targets():
    worlds, generator = 6, torch.Generator().manual_seed(3)
    env, controller = SimEnv("reach", worlds), EndEffectorController(worlds)
    env.reset(range(worlds))
    controller.reset(env.joints())
    target, moving, settled = controller.pose(), [], []
    for step in range(60):
        if step % 10 == 0:
            velocity = (torch.rand(worlds, 3, generator=generator) - 0.5) * 0.023  # up to 0.4 m/s
        if step < 50:
            target[:, :3] += velocity
            target[:, :3] = target[:, :3].clamp(
                torch.tensor([0.35, -0.25, 0.10]), torch.tensor([0.6, 0.25, 0.4])
            )
        env.step(controller.command(target))
        error = (env.proprio()[:, :3] - target[:, :3]).norm(dim=-1)
        (moving if step < 50 else settled).append(error)
    assert torch.stack(moving).median() < 2e-3
    assert settled[-1].max() < 5e-4


def test_one_command_moves_no_further_than_its_limits():
    controller = EndEffectorController(1, max_step_m=0.03, max_step_rad=0.2)
    before, goal = controller.pose(), torch.tensor([[0.7, 0.3, 0.1, 0.0, 0.0, 1.5, 0.0]])
    controller.command(goal)
    after = controller.pose()
    assert 0.02 < (after - before)[:, :3].norm() <= 0.0305
    assert 0.1 < (after - before)[:, 5].abs().max() <= 0.205


def test_joint_limits_hold_for_unreachable_targets():
    chain = ArmChain(dtype=torch.float32)
    controller = EndEffectorController(2)
    goal = torch.tensor([[1.0, 0.6, -0.2, 1.0, 1.0, 3.0, 0.0], [-0.04, 0.0, 0.7, -1.0, 0.5, -3.0, 2.0]])
    ctrl = settle(controller, goal, 100)
    assert torch.isfinite(ctrl).all()
    assert ((ctrl[:, :7] >= chain.lower - 1e-6) & (ctrl[:, :7] <= chain.upper + 1e-6)).all()
    assert ((ctrl[:, 7] >= 0) & (ctrl[:, 7] <= 0.04)).all()


def test_worlds_do_not_influence_each_other():
    goal = targets(8)
    together, alone = EndEffectorController(8), EndEffectorController(1)
    batch = settle(together, goal, 12)
    single = settle(alone, goal[5:6], 12)
    torch.testing.assert_close(batch[5:6], single, atol=1e-6, rtol=0)


def test_mink_agrees():
    mink = pytest.importorskip("mink")
    model = build_model(task_entry("reach").factory())
    chain, goal = ArmChain(), targets(5, seed=7)
    controller = EndEffectorController(5)
    ours = settle(controller, goal)[:, :7].double()
    for row in range(5):
        configuration = mink.Configuration(model)
        start = np.zeros(model.nq)
        start[:7] = JOINT_HOME_RAD
        configuration.update(start)
        task = mink.FrameTask("tcp", "site", position_cost=1.0, orientation_cost=1.0)
        quat = np.empty(4)
        mujoco.mju_mat2Quat(quat, euler_xyz_to_matrix(goal[row, 3:6].double()).numpy().ravel())
        task.set_target(mink.SE3(np.concatenate([quat, goal[row, :3].double().numpy()])))
        for _ in range(200):
            velocity = mink.solve_ik(configuration, [task], 0.05, "daqp")
            configuration.integrate_inplace(velocity, 0.05)
        theirs = torch.from_numpy(configuration.q[None, :7].copy())
        pos_theirs, rot_theirs = chain.forward(theirs)
        pos_ours, rot_ours = chain.forward(ours[row : row + 1])
        assert (pos_theirs - pos_ours).norm() < 1e-3
        assert geodesic_angle_rad(rot_theirs, rot_ours).max() < 0.01


def test_check_names_the_reason():
    controller = EndEffectorController(4)
    goal = controller.pose()
    goal[1, 2] = float("nan")
    goal[2, 0] = WORKSPACE_BOUNDS_M[1][0] + 0.26
    goal[3, 0] = WORKSPACE_BOUNDS_M[1][0] + 0.24
    assert controller.check(goal) == [None, "non_finite_action", "out_of_range_action", None]


@pytest.mark.parametrize("shape", [(2, 6), (1, 7), (7,)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ShapeError, match=r"\[2, 7\]"):
        EndEffectorController(2).command(torch.zeros(shape))


def test_non_finite_targets_and_joints_are_refused():
    controller = EndEffectorController(1)
    with pytest.raises(ShapeError, match="finite"):
        controller.command(torch.full((1, 7), float("inf")))
    with pytest.raises(ShapeError, match="finite"):
        controller.reset(HOME * float("nan"))
