"""MuJoCo Warp on a GPU: graphs, streams, no waiting and no host copies, agreement with the CPU."""

from types import SimpleNamespace

import pytest
import torch

from lary_envs.env import SimEnv
from lary_envs.nan_guard import NanGuard, replay
from lary_envs.physics.batch import BatchPhysics
from lary_envs.physics.warp import WarpPhysics
from lary_envs.rendering.renderer import RayTracer
from lary_envs.robots.robot import robot_of
from lary_envs.scene.initial import InitialStates
from lary_envs.scene.table import build_model
from lary_envs.tasks.spec import task_entry
from lary_policy.errors import ContactOverflowError, SimulationError

pytestmark = pytest.mark.gpu

WORLDS, SUBSTEPS, CAMERAS, IMAGE_PX = 16, 10, ("front", "wrist"), 56
CONTACTS = {"nconmax": 32, "njmax": 96}
IN_ORDER = {"deterministic": True}  # for tests that compare every bit


def scene(task):
    rules = task_entry(task).factory()
    model = build_model(rules, "arm7")
    draw = InitialStates(model, robot_of("arm7"), rules).draw
    return SimpleNamespace(model=model, state=draw(range(WORLDS)), fresh=draw([90, 91]))


@pytest.fixture(scope="module")
def reach():
    return scene("reach")


@pytest.fixture(scope="module")
def pick_place():
    return scene("pick_place")


def make(scene, device="cuda", **options):
    physics = WarpPhysics(scene.model, WORLDS, device=device, **(CONTACTS | options))
    physics.reset(*scene.state)
    return physics


def commands(scene, steps, device="cuda"):
    """Joint targets `[steps, w, nu]`: a random walk of up to 1.4 degrees a step."""
    start = scene.state[3]
    noise = torch.rand(steps, *start.shape, generator=torch.Generator().manual_seed(1)) - 0.5
    noise[..., 7:] = 0
    return (start + (noise * 0.05).cumsum(0)).float().to(device)


def play(physics, ctrl):
    for row in ctrl:
        physics.step(row, SUBSTEPS)
    return {name: physics.field(name).clone() for name in ("qpos", "qvel", "xpos", "cam_xmat")}


def assert_equal(first, second):
    for name, value in first.items():
        assert torch.equal(value, second[name]), f"{name}: {(value - second[name]).abs().max()}"


def test_a_recorded_graph_equals_separate_launches(reach):
    recorded, eager = make(reach, **IN_ORDER), make(reach, **IN_ORDER, graph=False)
    ctrl = commands(reach, 8)
    first, second = play(recorded, ctrl), play(eager, ctrl)
    assert recorded._steps[SUBSTEPS].recorded
    assert not eager._steps[SUBSTEPS].recorded
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=1e-6, rtol=0)


def test_repeat_runs_without_contacts_are_bit_equal(reach):
    ctrl = commands(reach, 8)
    assert_equal(*(play(make(reach, **IN_ORDER), ctrl) for _ in range(2)))


def test_repeat_runs_with_contacts_agree(pick_place):
    """The order of contacts is not fixed on a GPU in MuJoCo Warp 4.0; the resting cube is stiff enough."""
    ctrl = commands(pick_place, 8)
    first, second = play(make(pick_place), ctrl), play(make(pick_place), ctrl)
    for name in ("qpos", "xpos"):
        torch.testing.assert_close(first[name], second[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("task", ["reach", "pick_place"])
def test_twenty_steps_like_the_c_engine(task, request):
    setup = request.getfixturevalue(task)
    reference = BatchPhysics(setup.model, WORLDS)
    reference.reset(*setup.state)
    ours = play(make(setup), commands(setup, 20))
    theirs = play(reference, commands(setup, 20, "cpu").double())
    tolerance = {"reach": 2e-5, "pick_place": 1e-3}[task]  # the cube settles: contacts amplify rounding
    torch.testing.assert_close(ours["qpos"].cpu().double(), theirs["qpos"], atol=tolerance, rtol=0)
    torch.testing.assert_close(ours["xpos"].cpu().double(), theirs["xpos"], atol=tolerance, rtol=0)


def test_a_stream_of_the_callers_gives_the_same(reach):
    ctrl = commands(reach, 8)
    rays = RayTracer(reach.model, WORLDS, CAMERAS, IMAGE_PX, device="cuda")
    physics = make(reach, **IN_ORDER)
    expected = play(physics, ctrl) | {"frames": rays.render(physics)}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        other = make(reach, **IN_ORDER)
        others_rays = RayTracer(reach.model, WORLDS, CAMERAS, IMAGE_PX, device="cuda")
        found = play(other, ctrl) | {"frames": others_rays.render(other)}
        again = others_rays.render(other)
    torch.cuda.current_stream().wait_stream(stream)
    assert_equal(expected, found)
    assert torch.equal(found["frames"], again)
    for closing in (rays, others_rays, physics, other):
        closing.close()


def test_a_reset_touches_its_worlds_only(reach):
    ctrl = commands(reach, 10)
    alone, mixed = make(reach, **IN_ORDER), make(reach, **IN_ORDER)
    for physics in (alone, mixed):
        play(physics, ctrl[:5])
    chosen = torch.tensor([7, 2], device="cuda")
    mixed.reset(*reach.fresh, worlds=chosen)
    assert torch.equal(mixed.field("qpos")[chosen].cpu(), reach.fresh[0].float())
    after, undisturbed = play(mixed, ctrl[5:]), play(alone, ctrl[5:])
    others = [world for world in range(WORLDS) if world not in (2, 7)]
    assert_equal({k: v[others] for k, v in after.items()}, {k: v[others] for k, v in undisturbed.items()})


def loop(physics, rays, ctrl, fresh, chosen):
    """One of everything that a closed loop does."""
    frames = None
    for row in ctrl:
        physics.step(row, SUBSTEPS)
        frames = rays.render(physics)
    physics.reset(*fresh, worlds=chosen)
    return frames


@pytest.fixture
def resident(reach):
    physics = make(reach)
    rays = RayTracer(reach.model, WORLDS, CAMERAS, IMAGE_PX, device="cuda")
    fresh = tuple(value.float().to("cuda") for value in reach.fresh)
    inputs = (physics, rays, commands(reach, 3), fresh, torch.tensor([3, 1], device="cuda"))
    loop(*inputs)  # compiles, loads and records
    loop(*inputs)
    torch.cuda.synchronize()
    yield lambda: loop(*inputs)
    rays.close()
    physics.close()


def test_nothing_waits_for_the_gpu(resident):
    torch.cuda.set_sync_debug_mode("error")
    try:
        frames = resident()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert frames.device.type == "cuda"
    assert frames.shape == (WORLDS, len(CAMERAS), IMAGE_PX, IMAGE_PX, 3)


def test_nothing_is_copied_to_or_from_the_host(resident):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        resident()
        torch.cuda.synchronize()
    names = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    if not names:
        pytest.skip("the profiler sees no work on this device")
    assert [name for name in names if "DtoH" in name or "HtoD" in name] == []


def test_buffers_are_shared(reach):
    physics = make(reach)
    assert physics.field("qpos").device == torch.device("cuda", torch.cuda.current_device())
    assert physics.field("qpos").data_ptr() == physics.data.qpos.ptr
    rays = RayTracer(reach.model, WORLDS, CAMERAS, IMAGE_PX, device="cuda")
    frames = rays.render(physics)
    kept = frames.clone()
    (shared,) = rays._tracers
    assert shared._inputs == {}
    assert shared.pixels.data_ptr() == shared.context.rgb_data.ptr
    physics.step(commands(reach, 1)[0] + 0.3, SUBSTEPS)
    assert not torch.equal(rays.render(physics), kept)
    assert torch.equal(frames, kept)  # frames are the caller's own
    rays.close()


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_frames_like_those_of_the_cpu(reach, device):
    """Edge pixels may differ: the GPU uses fast math. Poses copied from the C engine give the same frames."""
    vary = ("geom_rgba", "cam_pos", "light_diffuse")
    frames = {}
    for name in ("warp", "mujoco on cuda", "mujoco on cpu"):
        on_gpu = name == "warp"
        physics = (
            WarpPhysics(reach.model, WORLDS, device=device, vary=vary, **CONTACTS)
            if on_gpu
            else BatchPhysics(reach.model, WORLDS, vary=vary)
        )
        physics.field("geom_rgba")[1::2, :, 0] = 0.9
        physics.field("cam_pos")[2::4, :, 2] += 0.05
        physics.field("light_diffuse")[3] *= 0.5
        physics.reset(*reach.state)
        target = "cpu" if name == "mujoco on cpu" else device
        rays = RayTracer(reach.model, WORLDS, CAMERAS, IMAGE_PX, device=target)
        frames[name] = rays.render(physics, [5, 0, 3, 2]).cpu().float()
        rays.close()
    for name in ("warp", "mujoco on cuda"):
        assert (frames[name] - frames["mujoco on cpu"]).abs().mean() < 1.0, name
    assert (frames["warp"] - frames["mujoco on cuda"]).abs().mean() < 0.2


def test_overflow_is_found_when_asked_for(reach):
    physics = make(reach, njmax=1)
    low = reach.state[0].clone()
    low[:, 1] += 1.0  # the gripper reaches into the table
    physics.reset(low, *reach.state[1:])
    physics.step(low[:, :8].float().cuda(), 1)
    with pytest.raises(ContactOverflowError, match="njmax from 1 to 2"):
        physics.check_overflow()


def test_a_device_that_is_not_there_is_refused(reach):
    with pytest.raises(SimulationError, match="cuda:99"):
        WarpPhysics(reach.model, 1, device="cuda:99", **CONTACTS)


def test_the_guard_saves_from_the_gpu(reach, tmp_path):
    physics = make(reach)
    guard = NanGuard(physics, task="reach", substeps=SUBSTEPS, folder=tmp_path)
    ctrl = commands(reach, 4)
    for row in ctrl:
        guard.record(row)
        physics.step(row, SUBSTEPS)
    physics.field("qpos")[6, 0] = float("nan")
    (path,) = guard.dump(range(WORLDS))
    again = replay(path)
    assert again.seed == 6
    torch.testing.assert_close(again.replayed[:-1].float(), again.recorded[1:], atol=1e-5, rtol=0)


def test_an_env_on_the_gpu_runs_and_leaves_no_memory_behind():
    def create_and_close(count):
        for _ in range(count):
            env = SimEnv("reach", 64, image_px=32, render_device="cuda")
            env.reset(range(64))
            for _ in range(2):
                env.step(env.joints().new_zeros(64, env.num_actuators))
            assert env.frames().float().std() > 10
            env.check()
            env.close()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]

    before = create_and_close(3)
    assert before - create_and_close(20) < 64 * 2**20
