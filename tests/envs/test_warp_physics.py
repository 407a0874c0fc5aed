"""MuJoCo Warp's physics, on Warp's CPU device, against MuJoCo's C engine; resets, fields, refusals."""

import os
from types import SimpleNamespace

import mujoco
import pytest
import torch
import warp as wp

from lary_envs import devices
from lary_envs.controller import EndEffectorController
from lary_envs.env import SimEnv
from lary_envs.physics.batch import BatchPhysics
from lary_envs.physics.warp import WarpPhysics
from lary_envs.robots.robot import robot_of
from lary_envs.scene.initial import InitialStates
from lary_envs.scene.table import build_model
from lary_envs.tasks.expert import make_expert
from lary_envs.tasks.spec import task_entry
from lary_policy.errors import ContactOverflowError, SimulationError, UnknownNameError

CONTACTS = {"nconmax": 32, "njmax": 96}  # of the robot: kernels are compiled for these sizes once
SUBSTEPS = 10


@pytest.fixture(scope="module")
def reach():
    rules, robot = task_entry("reach").factory(), robot_of("arm7")
    model = build_model(rules, "arm7")
    return SimpleNamespace(model=model, draw=InitialStates(model, robot, rules).draw)


def warp_physics(reach, worlds, **options):
    return WarpPhysics(reach.model, worlds, device="cpu", **(CONTACTS | options))


def batch_physics(reach, worlds, **options):
    return BatchPhysics(reach.model, worlds, num_threads=1, **options)


ENGINES = pytest.mark.parametrize("make", [batch_physics, warp_physics])


def commands(start, steps, seed=0):
    """Joint targets `[steps, w, nu]`: a random walk of up to 1.4 degrees a step, the same for every world."""
    noise = torch.rand(steps, 1, start.shape[1], generator=torch.Generator().manual_seed(seed)) - 0.5
    noise[..., 7:] = 0
    return start + (noise * 0.05).cumsum(0)


def play(physics, ctrl):
    for row in ctrl:
        physics.step(row, SUBSTEPS)
    return {name: physics.field(name).clone() for name in ("qpos", "qvel", "xpos", "geom_xmat", "cam_xpos")}


def test_twenty_steps_like_the_c_engine(reach):
    """In float32 and free space: 1e-5 rad or m, 1e-3 rad/s, 1e-5 m."""
    state = reach.draw(range(8))
    ended = []
    for make in (warp_physics, batch_physics):
        physics = make(reach, 8)
        physics.reset(*state)
        ended.append(play(physics, commands(state[3], 20)))
    tolerances = {"qpos": 1e-5, "qvel": 1e-3, "xpos": 1e-5, "geom_xmat": 1e-4, "cam_xpos": 1e-5}
    for name, tolerance in tolerances.items():
        torch.testing.assert_close(ended[0][name].double(), ended[1][name], atol=tolerance, rtol=0)
    assert (ended[0]["qpos"][:, :7] - state[0][:, :7]).abs().max() > 0.02


def test_success_agrees_with_the_c_engine():
    flags = []
    for engine in ("warp", "mujoco"):
        env, controller = SimEnv("reach", 16, physics=engine), EndEffectorController(16)
        expert = make_expert("reach", env)
        env.reset(range(16))
        controller.reset(env.joints())
        expert.reset()
        target, seen = controller.pose(), []
        for _ in range(50):
            target = expert.act(target)
            env.step(controller.command(target))
            seen.append(env.success())
        flags.append(torch.stack(seen).any(0))
        env.close()
    assert (flags[0] == flags[1]).float().mean() >= 0.95
    assert flags[0].float().mean() >= 0.9


def test_repeat_runs_and_batch_sizes_are_bit_equal(reach):
    state, ended = reach.draw(range(8)), []
    for worlds in (slice(None), slice(None), slice(5, 7)):
        chosen = tuple(value[worlds] for value in state)
        physics = warp_physics(reach, len(chosen[0]))
        physics.reset(*chosen)
        ended.append(play(physics, commands(chosen[3], 10)))
    for name, value in ended[0].items():
        assert torch.equal(value, ended[1][name])
        assert torch.equal(value[5:7], ended[2][name])


@ENGINES
def test_a_reset_touches_its_worlds_only(reach, make):
    state, fresh = reach.draw(range(4)), reach.draw([20, 21])
    ctrl = commands(state[3], 10)
    chosen = torch.tensor([2, 0])
    alone, mixed, other = make(reach, 4), make(reach, 4), make(reach, 2)
    for physics in (alone, mixed):
        physics.reset(*state)
        play(physics, ctrl[:5])
    before = {name: mixed.field(name).clone() for name in ("qpos", "qacc_warmstart", "geom_xpos", "cam_xmat")}
    mixed.reset(*fresh, worlds=chosen)
    for name, value in before.items():
        assert torch.equal(mixed.field(name)[[1, 3]], value[[1, 3]]), name
    other.reset(*fresh)
    for name in ("geom_xpos", "cam_xmat", "qpos", "qvel"):
        assert torch.equal(mixed.field(name)[chosen], other.field(name)), name
    after, undisturbed = play(mixed, ctrl[5:]), play(alone, ctrl[5:])
    anew = play(other, ctrl[5:, chosen])
    for name, value in after.items():
        assert torch.equal(value[[1, 3]], undisturbed[name][[1, 3]]), name
        assert torch.equal(value[chosen], anew[name]), name


@ENGINES
def test_a_diverged_world_shows_harms_no_other_and_can_be_reset(reach, make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs its warnings to a file in the current folder
    state = reach.draw(range(3))
    ctrl = commands(state[3], 4)
    broken, sound = make(reach, 3), make(reach, 3)
    for physics in (broken, sound):
        physics.reset(*state)
    broken.field("qpos")[1, 2] = float("nan")
    after, expected = play(broken, ctrl), play(sound, ctrl)
    assert not torch.isfinite(after["qpos"][1]).all()
    assert torch.equal(after["qpos"][[0, 2]], expected["qpos"][[0, 2]])
    for physics in (broken, sound):
        physics.reset(*(value[1:2] for value in state), worlds=torch.tensor([1]))
    after, expected = play(broken, ctrl), play(sound, ctrl)
    assert torch.equal(after["qpos"], expected["qpos"])


def test_fields_are_the_engines_own_buffers(reach):
    physics = warp_physics(reach, 2, vary=("geom_rgba",))
    assert physics.field("qpos").data_ptr() == physics.data.qpos.ptr
    assert physics.field("ctrl").data_ptr() == physics.data.ctrl.ptr
    assert physics.field("geom_xmat").data_ptr() == physics.data.geom_xmat.ptr
    assert physics.field("geom_xmat").shape == (2, reach.model.ngeom, 9)
    assert physics.field("geom_rgba").data_ptr() == physics.model.geom_rgba.ptr
    physics.field("qpos")[1, 3] = 0.25
    assert physics.data.qpos.numpy()[1, 3] == 0.25
    buffers = {name: physics.field(name).data_ptr() for name in ("qpos", "ctrl", "xpos")}
    physics.reset(*reach.draw(range(2)))
    physics.step(reach.draw(range(2))[3], 1)
    assert all(physics.field(name).data_ptr() == pointer for name, pointer in buffers.items())


@ENGINES
def test_model_fields_that_vary(reach, make):
    """A camera moves in one world; a larger finger pad finds the other pad in one world only."""
    model, state = reach.model, reach.draw([0, 0])
    camera = model.camera("front").id
    physics = make(reach, 2, vary=("cam_pos", "geom_size", "geom_rgba"))
    physics.field("cam_pos")[1, camera, 2] += 0.1
    physics.field("geom_rgba")[1, 0] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    table = model.geom("table").id
    physics.field("geom_size")[1, table, 2] += 0.15  # its top rises into the gripper's way
    physics.reset(*state)
    seen = physics.field("cam_xpos")[:, camera]
    torch.testing.assert_close(seen[1] - seen[0], torch.tensor([0.0, 0.0, 0.1]).to(seen), atol=1e-6, rtol=0)
    down = state[3].clone()
    down[:, 1] += 0.5
    down[:, 3] -= 0.4
    qpos = play(physics, down[None].expand(30, -1, -1))["qpos"]
    assert (qpos[0] - qpos[1]).abs().max() > 0.02
    same = make(reach, 2)
    same.reset(*state)
    plain = play(same, down[None].expand(30, -1, -1))["qpos"]
    torch.testing.assert_close(qpos[0], plain[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("limit", "name"), [({"njmax": 1}, "njmax"), ({"nconmax": 1}, "nconmax")])
def test_too_small_buffers_are_an_error(reach, limit, name):
    physics = warp_physics(reach, 2, **limit)
    state = reach.draw(range(2))
    state[0][:, 1] += 1.0  # the gripper reaches into the table
    with pytest.raises(ContactOverflowError, match=rf"worlds \[0, 1\].*Raise {name} from 1 to 2"):
        physics.reset(*state)
        physics.step(state[0][:, :8], 1)
    assert not physics.overflowed()


def test_an_overflow_is_not_forgotten_by_a_reset(reach):
    physics = warp_physics(reach, 2)
    physics.field("overflow")[1] = 1
    physics.reset(*reach.draw([3]), worlds=torch.tensor([1]))
    assert physics.overflowed()
    with pytest.raises(ContactOverflowError, match="njmax from 96 to 192"):
        physics.reset(*reach.draw(range(2)))
    physics.reset(*reach.draw(range(2)))


def test_solver_iterations_are_no_overflow(reach):
    """That flag says how well the solver converged; nothing was lost."""
    physics = warp_physics(reach, 2)
    import mujoco_warp as mjw

    physics.field("overflow")[1] = int(mjw.OverflowType.ITERATIONS)
    assert not physics.overflowed()


def test_unknown_names_list_the_valid_ones(reach):
    with pytest.raises(UnknownNameError, match="cpu, cuda"):
        WarpPhysics(reach.model, 1, device="tpu", **CONTACTS)
    with pytest.raises(UnknownNameError, match="qpos"):
        warp_physics(reach, 2).field("qposs")
    with pytest.raises(UnknownNameError, match="qpos"):
        batch_physics(reach, 2).field("qposs")
    with pytest.raises(UnknownNameError, match="geom_rgba"):
        warp_physics(reach, 2, vary=("geom_colour",))
    with pytest.raises(UnknownNameError, match="geom_rgba"):
        batch_physics(reach, 2, vary=("geom_colour",))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_without_a_device_is_refused(reach, device):
    with pytest.raises(SimulationError, match=rf"CUDA device '{device}'; got 0"):
        WarpPhysics(reach.model, 1, device=device, **CONTACTS)


def test_a_graph_needs_cuda(reach):
    with pytest.raises(SimulationError, match="graph"):
        warp_physics(reach, 1, graph=True)


def test_one_line_of_c_code_is_dropped_and_no_other(capfd):
    """That Warp then starts without a word is seen in a process of its own, in test_rendering."""
    with devices._without_line(b"noise"):
        os.write(2, b"some noise\nsignal\n")
    assert capfd.readouterr().err == "signal\n"


def test_the_installed_engine_is_the_one_we_know():
    """Field layouts, flags and options above were read from this major release."""
    assert mujoco.__version__.startswith("4.")
    assert wp.to_torch(wp.zeros(2, dtype=wp.mat33, device="cpu")).shape == (2, 3, 3)
