"""Inverse kinematics: the Warp kernel against its torch twin, limits, singular postures, convergence."""

import math

import numpy as np
import pytest
import torch

from lary_envs.kinematics import IkSettings, IkState, make_ik
from lary_envs.kinematics.chain import SerialChain, TorchChain, craig_links, transform
from lary_envs.kinematics.ik import TorchIk
from lary_envs.kinematics.ik_warp import WarpIk
from lary_envs.robots.robot import robot_of
from lary_policy.actions.rotation import geodesic_angle_rad, matrix_to_euler_xyz
from lary_policy.errors import UnknownNameError

HALF = math.pi / 2
PANDA = robot_of("arm7").arms[0].chain


def six_joints(base_y=0.0):
    """A six-joint arm with a spherical wrist: upper arm 0.4 m, forearm 0.35 m."""
    links = craig_links(
        (0.0, 0.0, 0.4, 0.0, 0.0, 0.0), (0.3, 0.0, 0.0, 0.35, 0.0, 0.0),
        (0.0, -HALF, 0.0, -HALF, HALF, -HALF), (0.0, -HALF, HALF, 0.0, 0.0, 0.0),
    )  # fmt: skip
    limit = np.full(6, 2.8)
    home = np.array([0.2, -0.5, 0.9, 0.3, 0.8, 0.1])
    tool = transform(np.diag([1.0, -1.0, -1.0]), [0.0, 0.0, 0.1])
    return SerialChain(
        transform(np.eye(3), [0.0, base_y, 0.0]), links, tool, -limit, limit, home, np.full(6, 2.0)
    )


CHAINS = {"panda": [PANDA], "six joints": [six_joints()], "two arms": [six_joints(0.3), six_joints(-0.3)]}


@pytest.fixture(params=CHAINS, ids=str)
def chain(request):
    return TorchChain(CHAINS[request.param])


def random_targets(chain, worlds, seed=0):
    """Poses of random postures (every kind of turn), some of them moved out of reach."""
    generator = torch.Generator().manual_seed(seed)
    part = torch.rand(worlds, *chain.home.shape, generator=generator, dtype=torch.float64)
    pos, rot = chain.forward(chain.lower + part * (chain.upper - chain.lower))
    pos = pos * (1 + (torch.arange(worlds) % 5 == 0)[:, None, None] * 1.5)
    return torch.cat([pos, matrix_to_euler_xyz(rot)], -1)


@pytest.mark.parametrize("settings", [IkSettings(), IkSettings(null_gain=0.0), IkSettings(iterations=5)])
def test_warp_equals_torch(chain, settings):
    target, torch_ik, warp_ik = random_targets(chain, 100), TorchIk(chain, settings), WarpIk(chain, settings)
    ours, twin = IkState.at_home(chain, 100), IkState.at_home(chain, 100)
    for _ in range(25):
        warp_ik.move(ours, target)
        torch_ik.move(twin, target)
        torch.testing.assert_close(ours.joints, twin.joints, atol=1e-9, rtol=0)
        torch.testing.assert_close(ours.goal_pos, twin.goal_pos, atol=1e-9, rtol=0)
        torch.testing.assert_close(ours.goal_rot, twin.goal_rot, atol=1e-9, rtol=0)


@pytest.mark.parametrize("solver", [TorchIk, WarpIk])
def test_state_is_updated_in_place(chain, solver):
    state = IkState.at_home(chain, 3)
    before = state.joints.clone()
    addresses = [t.data_ptr() for t in (state.joints, state.goal_pos, state.goal_rot)]
    solver(chain, IkSettings()).move(state, random_targets(chain, 3))
    assert [t.data_ptr() for t in (state.joints, state.goal_pos, state.goal_rot)] == addresses
    assert (state.joints - before).abs().amax((1, 2)).min() > 1e-3


@pytest.mark.parametrize("solver", [TorchIk, WarpIk])
def test_every_limit_holds(chain, solver):
    settings, state, target = IkSettings(), IkState.at_home(chain, 200), random_targets(chain, 200, seed=1)
    ik, speeds = solver(chain, settings), []
    for _ in range(40):
        before = state.joints.clone()
        pos, rot = chain.forward(before)
        ik.move(state, target)
        speeds.append(((state.joints - before).abs() / chain.max_velocity / settings.period_s).amax())
        assert (state.goal_pos - pos).norm(dim=-1).max() < settings.max_step_m + 1e-9
        assert geodesic_angle_rad(state.goal_rot, rot).max() < settings.max_step_rad + 1e-6
        assert ((state.joints >= chain.lower) & (state.joints <= chain.upper)).all()
    assert 0.99 < max(speeds) < 1 + 1e-9  # the bound is reached, and never exceeded


@pytest.mark.parametrize("solver", [TorchIk, WarpIk])
def test_singular_postures_and_half_turns_stay_finite(chain, solver):
    state = IkState.at_home(chain, 4)
    state.joints[0] = 0.0  # stretched out
    state.joints[1], state.joints[2] = chain.lower, chain.upper
    pos, rot = chain.forward(state.joints)
    flipped = rot @ torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    target = torch.cat([pos, matrix_to_euler_xyz(flipped)], -1)
    ik = solver(chain, IkSettings())
    for _ in range(30):
        ik.move(state, target)
        assert torch.isfinite(state.joints).all()
        assert torch.isfinite(state.goal_rot).all()


@pytest.mark.parametrize("solver", [TorchIk, WarpIk])
def test_without_limits_one_call_solves(chain, solver):
    generator = torch.Generator().manual_seed(5)
    near = torch.rand(50, *chain.home.shape, generator=generator, dtype=torch.float64) - 0.5
    pos, rot = chain.forward((chain.home + near).clamp(chain.lower, chain.upper))
    state = IkState.at_home(chain, 50)
    solver(chain, IkSettings.unlimited(iterations=60)).move(
        state, torch.cat([pos, matrix_to_euler_xyz(rot)], -1)
    )
    reached_pos, reached_rot = chain.forward(state.joints)
    good = ((reached_pos - pos).norm(dim=-1) < 1e-3) & (geodesic_angle_rad(reached_rot, rot) < 1e-2)
    assert good.double().mean() > 0.9  # the rest are caught at a joint limit


@pytest.mark.parametrize("solver", [TorchIk, WarpIk])
def test_arms_come_to_rest_at_targets_out_of_reach(chain, solver):
    ik, state = solver(chain, IkSettings()), IkState.at_home(chain, 100)
    pos, rot = chain.forward(state.joints)
    away = torch.randn(pos.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    away[..., 2].abs_()  # no arm reaches 1 m up or sideways from its home
    target = torch.cat([pos + away / away.norm(dim=-1, keepdim=True), matrix_to_euler_xyz(rot)], -1)
    for _ in range(120):
        before = state.joints.clone()
        ik.move(state, target)
    assert ((state.joints - before).abs().amax(-1) < 0.005).double().mean() > 0.9


def test_worlds_and_arms_do_not_influence_each_other():
    both, left = TorchChain(CHAINS["two arms"]), TorchChain(CHAINS["two arms"][:1])
    target = random_targets(both, 6)
    pair, alone = IkState.at_home(both, 6), IkState.at_home(left, 1)
    for _ in range(10):
        WarpIk(both, IkSettings()).move(pair, target)
        WarpIk(left, IkSettings()).move(alone, target[4:5, :1].contiguous())
    assert torch.equal(pair.joints[4:5, :1], alone.joints)


def test_kernels_are_chosen_by_name():
    chain = TorchChain([PANDA])
    assert isinstance(make_ik(chain, IkSettings()), TorchIk)
    assert isinstance(make_ik(chain, IkSettings(), kernel="warp"), WarpIk)
    with pytest.raises(UnknownNameError, match="auto, torch, warp"):
        make_ik(chain, IkSettings(), kernel="jax")


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHAINS)
def test_cuda_graph_equals_cpu(name):
    chain, twin = TorchChain(CHAINS[name], device="cuda"), TorchChain(CHAINS[name])
    ik, reference = make_ik(chain, IkSettings()), TorchIk(twin, IkSettings())
    assert isinstance(ik, WarpIk)
    target = random_targets(twin, 300)
    on_gpu, state, expected = target.cuda(), IkState.at_home(chain, 300), IkState.at_home(twin, 300)
    ik.move(IkState.at_home(chain, 300), on_gpu)  # loads the module before the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ik.move(state, on_gpu)
    for _ in range(10):
        graph.replay()
        reference.move(expected, target)
    same = (state.joints.cpu() - expected.joints).abs().amax(-1) < 1e-6
    assert same.double().mean() > 0.99  # the last bit may decide which of two steps an arm out of reach takes
