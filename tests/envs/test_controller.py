"""The end-effector controller: tracking, limits, refusals, and mink as a second opinion."""

import mujoco
import numpy as np
import pytest
import torch

from lary_envs.controller import EndEffectorController
from lary_envs.env import SimEnv
from lary_envs.kinematics.chain import TorchChain
from lary_envs.robots.robot import list_robots, robot_of
from lary_policy.actions.embodiment import load_embodiment
from lary_policy.actions.rotation import euler_xyz_to_matrix, geodesic_angle_rad, matrix_to_euler_xyz
from lary_policy.errors import ShapeError, SimulationError, UnknownNameError

PANDA = robot_of("arm7").arms[0]
HOME = torch.from_numpy(PANDA.chain.home)[None].float()


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


def near_home(robot, count, seed=7):
    """Reachable poses `[count, A, 7]`: home, every joint moved by up to 0.25 rad."""
    rng, chain = np.random.default_rng(seed), TorchChain([arm.chain for arm in robot.arms])
    home = chain.home + torch.from_numpy(rng.uniform(-0.25, 0.25, (count, *chain.home.shape)))
    pos, rot = chain.forward(home.clamp(chain.lower + 0.1, chain.upper - 0.1))
    return torch.cat([pos, matrix_to_euler_xyz(rot), torch.ones_like(pos[..., :1])], -1)


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
    lower, upper = (torch.from_numpy(x).float() for x in (PANDA.chain.lower, PANDA.chain.upper))
    controller = EndEffectorController(2)
    goal = torch.tensor([[1.0, 0.6, -0.2, 1.0, 1.0, 3.0, 0.0], [-0.04, 0.0, 0.7, -1.0, 0.5, -3.0, 2.0]])
    ctrl = settle(controller, goal, 100)
    assert torch.isfinite(ctrl).all()
    assert ((ctrl[:, :7] >= lower - 1e-6) & (ctrl[:, :7] <= upper + 1e-6)).all()
    assert ((ctrl[:, 7] >= 0) & (ctrl[:, 7] <= 0.04)).all()


def test_worlds_do_not_influence_each_other():
    goal = targets(8)
    together, alone = EndEffectorController(8), EndEffectorController(1)
    batch = settle(together, goal, 12)
    single = settle(alone, goal[5:6], 12)
    torch.testing.assert_close(batch[5:6], single, atol=1e-6, rtol=0)


@pytest.mark.parametrize("embodiment", list_robots())
def test_mink_agrees(embodiment):
    """mink, a quadratic program on MuJoCo's own model, reaches the same poses with all arms at once."""
    mink = pytest.importorskip("mink")
    robot = robot_of(embodiment)
    scene = mujoco.MjSpec()
    scene.compiler.degree = False
    robot.build(scene)
    model = scene.compile()
    chain = TorchChain([arm.chain for arm in robot.arms])
    controller = EndEffectorController(3, embodiment=embodiment)
    goal = near_home(robot, 3)
    settle(controller, controller.layout.to_action(goal))
    ours_pos, ours_rot = chain.forward(controller.joints())
    addresses = [[int(model.joint(name).qposadr[0]) for name in arm.joints] for arm in robot.arms]
    for row in range(3):
        configuration, start = mink.Configuration(model), np.zeros(model.nq)
        for arm, where in zip(robot.arms, addresses, strict=True):
            start[where] = arm.chain.home
        configuration.update(start)
        tasks = [frame_task(mink, model, arm, goal[row, index]) for index, arm in enumerate(robot.arms)]
        for _ in range(200):
            configuration.integrate_inplace(mink.solve_ik(configuration, tasks, 0.05, "daqp"), 0.05)
        theirs = torch.from_numpy(np.stack([configuration.q[where] for where in addresses]))
        pos, rot = chain.forward(theirs[None])
        assert (pos - ours_pos[row]).norm(dim=-1).max() < 1e-3
        assert geodesic_angle_rad(rot, ours_rot[row]).max() < 0.01


def frame_task(mink, model, arm, pose):
    """Ask for one arm's pose `[7]`."""
    names = [model.site(i).name for i in range(model.nsite)]
    site = next(n for n in names if "tcp" in n and (arm.side == "single" or arm.side in n))
    task, quat = mink.FrameTask(site, "site", position_cost=1.0, orientation_cost=1.0), np.empty(4)
    mujoco.mju_mat2Quat(quat, euler_xyz_to_matrix(pose[3:6]).numpy().ravel())
    task.set_target(mink.SE3(np.concatenate([quat, pose[:3].numpy()])))
    return task


def test_check_names_the_reason():
    controller = EndEffectorController(4)
    goal = controller.pose()
    goal[1, 2] = float("nan")
    goal[2, 0] = PANDA.workspace_m[1][0] + 0.26
    goal[3, 0] = PANDA.workspace_m[1][0] + 0.24
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


@pytest.mark.parametrize("embodiment", list_robots())
def test_every_robot_reaches_poses_near_home_and_says_so(embodiment):
    robot, controller = robot_of(embodiment), EndEffectorController(20, embodiment=embodiment)
    goal = controller.layout.to_action(near_home(robot, 20)).float()
    ctrl = settle(controller, goal)
    assert ctrl.shape == (20, robot.num_actuators)
    assert ctrl.dtype == torch.float32
    error = load_embodiment(embodiment).rotation_error_deg(controller.pose(), goal)
    assert max(angle.max() for angle in error.values()) < 0.5
    positions = [i for i, name in enumerate(load_embodiment(embodiment).labels) if name[-1] in "xyz"]
    assert (controller.pose() - goal)[:, positions].abs().max() < 5e-4
    assert controller.check(goal) == [None] * 20
    assert not controller.out_of_reach().any()


def test_out_of_reach_is_seen_once_the_arm_has_come_to_rest():
    controller = EndEffectorController(3)
    goal = controller.pose()
    goal[1, :3] = torch.tensor([0.62, 0.35, 0.05])  # reachable, far
    goal[2, :3] = torch.tensor([0.80, 0.40, 0.55])  # inside the workspace, further than the arm is long
    controller.command(goal)
    assert controller.out_of_reach().tolist() == [False, False, False]
    settle(controller, goal)
    assert controller.check(goal) == [None] * 3
    assert controller.out_of_reach().tolist() == [False, False, True]


def test_relative_targets_add_up_on_the_goal_as_the_embodiment_says():
    controller, layout = EndEffectorController(1), load_embodiment("arm7")
    change = torch.tensor([[0.01, -0.005, 0.002, 0.02, -0.01, 0.05, 0.7]])
    expected = controller.pose()
    for _ in range(10):
        controller.command(change, relative=True)
        expected = layout.to_absolute(change[:, None], expected)[:, 0]
    for _ in range(20):
        still = controller.command(torch.tensor([[0.0] * 6 + [0.7]]), relative=True)
    torch.testing.assert_close(controller.pose()[:, :3], expected[:, :3], atol=5e-4, rtol=0)
    assert layout.rotation_error_deg(controller.pose(), expected)["orientation"].max() < 0.5
    torch.testing.assert_close(still[:, 7], torch.tensor([0.7 * 0.04]))


def test_relative_targets_do_not_wind_up_at_the_speed_limit():
    controller = EndEffectorController(1)
    for _ in range(5):  # asks for 50 cm, may move 15
        controller.command(torch.tensor([[0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]), relative=True)
    stop = torch.tensor([[0.0] * 6 + [1.0]])
    before = controller.pose()
    for _ in range(5):
        controller.command(stop, relative=True)
    assert (controller.pose() - before)[:, :3].norm() < 0.01


@pytest.mark.parametrize("kernel", ["torch", "warp"])
def test_unchecked_non_finite_targets_hold_their_world_only(kernel):
    controller, untouched = (EndEffectorController(2, kernel=kernel) for _ in range(2))
    goal = targets(2)
    broken = goal.clone()
    broken[0, 4] = float("nan")
    for _ in range(3):
        controller.command(goal)
        untouched.command(goal)
    torch.testing.assert_close(controller.command(broken, validate=False), untouched.command(goal))
    assert controller.check_codes(broken).tolist() == [1, 0]


def test_reset_of_some_worlds_leaves_the_others_alone():
    controller = EndEffectorController(3)
    ctrl = settle(controller, targets(3), 5)
    before = controller.joints()
    controller.reset(HOME.expand(3, 7) + 0.02, worlds=torch.tensor([1]))
    after = controller.joints()
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    torch.testing.assert_close(after[1, 0].float(), HOME[0] + 0.02)
    torch.testing.assert_close(controller.command(controller.pose())[1, 7], torch.tensor(0.04))
    assert (ctrl[1, 7] - 0.04).abs() > 1e-3  # it had been closed


def test_kernels_give_the_same_commands():
    commands = [
        settle(EndEffectorController(50, kernel=kernel), targets(50), 10) for kernel in ("torch", "warp")
    ]
    torch.testing.assert_close(*commands, atol=1e-6, rtol=0)


def test_bad_arguments_are_refused():
    with pytest.raises(SimulationError, match="num_worlds of at least 1"):
        EndEffectorController(0)
    with pytest.raises(UnknownNameError, match="auto, torch, warp"):
        EndEffectorController(1, kernel="fast")
    with pytest.raises(UnknownNameError, match="arm7"):
        EndEffectorController(1, embodiment="arm99")
