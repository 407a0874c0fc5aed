"""The ray tracer over MuJoCo Warp's own buffers, worlds that look different, and memory."""

import gc
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lary_envs.env import SimEnv
from lary_envs.physics.batch import BatchPhysics
from lary_envs.physics.warp import WarpPhysics
from lary_envs.rendering.renderer import RayTracer, camera_names
from lary_envs.robots.robot import robot_of
from lary_envs.scene.initial import InitialStates
from lary_envs.scene.table import build_model
from lary_envs.tasks.spec import task_entry

CAMERAS = ("wrist", "front")
VARY = (
    "geom_rgba",
    "geom_size",
    "mat_rgba",
    "mat_texid",
    "light_dir",
    "light_diffuse",
    "cam_pos",
    "cam_quat",
)


@pytest.fixture(scope="module")
def reach():
    rules, robot = task_entry("reach").factory(), robot_of("arm7")
    model = build_model(rules, "arm7")
    return SimpleNamespace(model=model, draw=InitialStates(model, robot, rules).draw)


def warp_physics(reach, worlds, **options):
    return WarpPhysics(reach.model, worlds, device="cpu", nconmax=32, njmax=96, **options)


def batch_physics(reach, worlds, **options):
    return BatchPhysics(reach.model, worlds, num_threads=1, **options)


def tracer(reach, worlds, **options):
    return RayTracer(reach.model, worlds, CAMERAS, 40, **options)


def test_frames_come_from_the_engines_own_buffers(reach):
    physics = warp_physics(reach, 3)
    physics.reset(*reach.draw(range(3)))
    rays = tracer(reach, 3)
    frames = rays.render(physics)
    (shared,) = rays._tracers
    assert shared._inputs == {}  # no pose is copied
    assert shared.pixels.data_ptr() == shared.context.rgb_data.ptr
    assert torch.equal(frames, shared.pixels[..., [2, 1, 0]])
    assert frames.shape == (3, 2, 40, 40, 3)
    physics.field("qpos")[1, 0] += 0.4
    physics._place()
    moved = rays.render(physics)
    assert torch.equal(moved[[0, 2]], frames[[0, 2]])
    assert (moved[1].float() - frames[1].float()).abs().mean() > 2
    assert torch.equal(rays.render(physics, [2, 0]), moved[[2, 0]])
    assert torch.equal(rays.render(physics, torch.tensor([1])), moved[1:2])


def randomise(physics, model):
    """Give worlds 1 to 4 another colour, size, texture and light, and camera."""
    goal = model.geom("goal").id
    wood, floor = model.mat("table").id, model.mat("floor").id
    physics.field("geom_rgba")[1, goal] = torch.tensor([1.0, 0.0, 1.0, 1.0])
    physics.field("mat_rgba")[1, floor] = torch.tensor([0.1, 0.1, 0.6, 1.0])
    physics.field("geom_size")[2, goal, 0] *= 2.0
    physics.field("mat_texid")[3, wood, 1] = -1
    physics.field("light_diffuse")[3] *= 0.3
    physics.field("light_dir")[4, 0] = torch.tensor([0.5, 0.0, -0.8]).to(physics.field("light_dir"))
    physics.field("cam_pos")[4, :, 2] += 0.1


@pytest.fixture(scope="module")
def looks(reach):
    """Frames `[5, 2, h, w, 3]` of worlds in the same state that look different, by both engines."""
    state, frames = reach.draw([7] * 5), {}
    for make in (warp_physics, batch_physics):
        physics = make(reach, 5, vary=VARY)
        randomise(physics, reach.model)
        physics.reset(*state)
        frames[make.__name__] = tracer(reach, 5, num_threads=2).render(physics)
        plain = make(reach, 1)
        plain.reset(*(value[:1] for value in state))
        frames[f"plain {make.__name__}"] = tracer(reach, 1).render(plain)
    return frames


@pytest.mark.parametrize("engine", ["warp_physics", "batch_physics"])
def test_each_world_looks_as_it_was_told(looks, engine):
    frames, plain = looks[engine].float(), looks[f"plain {engine}"].float()
    assert torch.equal(frames[0], plain[0])
    for world in range(1, 5):
        assert (frames[world] - frames[0]).abs().mean() > 0.5, world


def test_both_engines_show_the_same(looks):
    """Poses differ in the seventh digit: a pixel at an edge now and then."""
    difference = (looks["warp_physics"].float() - looks["batch_physics"].float()).abs()
    assert difference.mean() < 0.05
    assert (difference > 2).float().mean() < 1e-3


def test_a_subset_of_varied_worlds_keeps_its_looks(reach):
    physics = batch_physics(reach, 12, vary=("geom_rgba",))
    physics.field("geom_rgba")[:, 0, 0] = torch.linspace(0, 1, 12)
    physics.reset(*reach.draw(range(12)))
    rays = tracer(reach, 12, num_threads=2)
    everything = rays.render(physics)
    assert torch.equal(rays.render(physics, [11, 3, 4]), everything[[11, 3, 4]])
    rays.close()


def test_camera_names_are_the_models(reach):
    assert set(CAMERAS) < set(camera_names(reach.model))


def resident_mib():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def test_creating_and_closing_a_hundred_envs_leaves_no_memory_behind():
    def create_and_close(count):
        for seed in range(count):
            env = SimEnv("reach", 2, image_px=16, num_threads=1)
            env.reset([seed, seed + 1])
            env.frames()
            env.close()

    create_and_close(10)  # allocators and caches fill
    before = resident_mib()
    create_and_close(100)
    assert resident_mib() - before < 60  # a hundred open ones hold about 650 MiB
