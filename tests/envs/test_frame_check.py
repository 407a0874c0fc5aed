"""A GPU's frames are compared with the CPU's before they are trusted; here a CPU plays the GPU."""

import re
from functools import partial
from pathlib import Path

import imageio.v3 as iio
import pytest
import torch

from lary_envs.env import SimEnv
from lary_envs.rendering import tracer as tracer_module
from lary_envs.rendering.check import FrameCheck, require_equal_frames
from lary_envs.rendering.tree import FreshTree
from lary_policy.errors import DeviceError

CAMERAS = ("front", "wrist")


@pytest.fixture
def env():
    env = SimEnv("pick_place", 3, cameras=CAMERAS, image_px=56, num_threads=1)
    env.reset(range(3))
    yield env
    env.close()


def told(env, frames, expected):
    require_equal_frames(frames, expected, cameras=CAMERAS, worlds=[7, 8, 9], device="cuda:0")


def test_a_region_that_is_missing_is_named_and_shown(env):
    expected = env.frames()
    frames = expected.clone()
    told(env, frames, expected)
    noise = torch.randint(0, 4, frames.shape, dtype=torch.uint8)
    told(env, frames // 2 + noise, frames // 2)
    frames[1, 1, 24:32, 24:32] = 255 - frames[1, 1, 24:32, 24:32].div(255).round().mul(255).byte()
    with pytest.raises(DeviceError, match=r"camera wrist of world 8.*1 of 6 frames") as caught:
        told(env, frames, expected)
    folder = Path(re.search(r"pictures: (\S+?)\. ", str(caught.value))[1])
    for name, picture in (("device", frames[1, 1]), ("cpu", expected[1, 1])):
        assert (iio.imread(folder / f"{name}.png") == picture.numpy()).all()


def test_frames_that_are_darker_are_refused(env):
    frames = env.frames()
    with pytest.raises(DeviceError, match=r"camera front of world 7 .*6 of 6"):
        told(env, (frames.float() * 0.95).byte(), frames)


@pytest.mark.parametrize("broken", [False, True])
def test_boxes_of_the_frame_before_are_found_after_a_reset(env, monkeypatch, broken):
    """What a GPU did: the tree of geometry kept the boxes of the last episode."""
    env.frames()
    renderer = env._tracer
    assert renderer._check is None  # a CPU is not compared with itself
    renderer._check = FrameCheck(partial(renderer._trace_on_cpu, env._physics), CAMERAS, "cuda:0")
    env.frames([2, 0])
    if broken:
        for tracer in renderer._tracers:
            tracer.context.bvh.refit = lambda: None
    for _ in range(5):  # no reset, so nothing is compared
        env.frames()
    env.reset([40, 41, 42])
    if broken:
        with pytest.raises(DeviceError, match=r"of cuda:0 .*of world 0"):
            env.frames()
    else:
        env.frames()


def test_ten_frames_later_they_are_compared_again():
    compared = []
    frames = torch.zeros(6, 1, 28, 28, 3, dtype=torch.uint8)
    check = FrameCheck(
        lambda seen: compared.append(len(seen["x"])) or frames[: len(seen["x"])], ("a",), "cuda"
    )
    for _ in range(30):
        check(frames, lambda worlds: {"x": worlds}, torch.arange(6))
    assert compared == [4, 4]
    for _ in range(5):
        check.doubt()
        check(frames, lambda worlds: {"x": worlds}, torch.arange(6))
    assert len(compared) == 4


def test_a_tree_that_is_built_anew_gives_the_same_frames(env, monkeypatch):
    """On CUDA every frame builds its tree; here a CPU does."""
    sort = tracer_module._sort_meshes

    def sort_and_replace(context):
        sort(context)
        FreshTree.into(context, len(context.group_root))

    expected = [env.frames()]
    env.reset([11, 12, 13])
    expected += [env.frames(), env.frames([2, 0])]
    monkeypatch.setattr(tracer_module, "_sort_meshes", sort_and_replace)
    other = SimEnv("pick_place", 3, cameras=CAMERAS, image_px=56, num_threads=1)
    other.reset(range(3))
    frames = [other.frames()]
    assert isinstance(other._tracer._tracers[0].context.bvh, FreshTree)
    other.reset([11, 12, 13])
    frames += [other.frames(), other.frames([2, 0])]
    for mine, theirs in zip(frames, expected, strict=True):
        assert torch.equal(mine, theirs)
    other.close()
