"""Randomisation levels: what varies, what never does, reproducibility, both engines, and the experts."""

import colorsys
import math
from dataclasses import fields

import mujoco
import numpy as np
import pytest
import torch

from lary_envs.controller import EndEffectorController
from lary_envs.env import SimEnv
from lary_envs.physics.batch import BatchPhysics
from lary_envs.physics.warp import WarpPhysics
from lary_envs.randomisation import LEVELS, VARIED_FIELDS, VariedScene, draw_variation
from lary_envs.rendering.renderer import TABLE_TEXTURES
from lary_envs.robots.robot import robot_of
from lary_envs.scene.table import build_model
from lary_envs.tasks.expert import make_expert
from lary_envs.tasks.spec import list_tasks, task_entry
from lary_policy.errors import UnknownNameError

TRAIN, SHIFTED = LEVELS["train"], LEVELS["shifted"]
NUMBERS = [field.name for field in fields(TRAIN) if field.name != "textures"]


def frames(level, seeds, *, cameras=("front",), task="pick_place"):
    env = SimEnv(task, len(seeds), cameras=cameras, image_px=48, randomisation=level)
    env.reset(seeds)
    seen = env.frames()
    env.close()
    return seen


def varied(level, seeds, engine=BatchPhysics, task="pick_place"):
    """The model of a task, and the fields of its worlds after a reset."""
    model = build_model(task_entry(task).factory(), textures=LEVELS[level].textures)
    options = {"device": "cpu", "nconmax": 32, "njmax": 96} if engine is WarpPhysics else {}
    physics = engine(model, len(seeds), vary=VARIED_FIELDS, **options)
    rise = VariedScene(LEVELS[level], model, robot_of("arm7")).write(physics, seeds)
    return model, {name: physics.field(name).clone() for name in VARIED_FIELDS}, rise


def test_shifted_begins_where_train_has_ended():
    for name in NUMBERS:
        assert getattr(SHIFTED, name)[0] > getattr(TRAIN, name)[1], name
    assert not set(SHIFTED.textures) & set(TRAIN.textures)
    assert set(SHIFTED.textures) | set(TRAIN.textures) <= set(TABLE_TEXTURES)
    assert LEVELS["none"] is None


@pytest.mark.parametrize("level", ["train", "shifted"])
def test_draws_stay_in_their_ranges_and_fill_them(level):
    ranges = LEVELS[level]
    drawn = [draw_variation(seed, ranges, 2) for seed in range(300)]
    values = {
        "hue": np.array([v.hue for v in drawn]),
        "size": np.array([v.scale - 1 for v in drawn]),
        "brightness": np.array([v.brightness - 1 for v in drawn]),
        "light_turn_rad": np.array([np.linalg.norm(v.light_turn) for v in drawn]),
        "camera_shift_m": np.linalg.norm([v.camera_shift for v in drawn], axis=-1),
        "camera_turn_rad": np.linalg.norm([v.camera_turn for v in drawn], axis=-1),
    }
    assert sorted(values) == sorted(NUMBERS)
    for name, value in values.items():
        low, high = getattr(ranges, name)
        assert np.abs(value).min() >= low - 1e-12, name
        assert np.abs(value).max() <= high + 1e-12, name
        assert np.abs(value).max() - np.abs(value).min() > 0.9 * (high - low), name
    for name in ("hue", "size", "brightness"):
        assert 0.4 < (values[name] > 0).mean() < 0.6, name
    assert {v.texture for v in drawn} == set(ranges.textures)


def test_a_draw_depends_on_its_seed_alone():
    first, again, other = (draw_variation(seed, TRAIN, 3) for seed in (5, 5, 6))
    for field in fields(first):
        assert np.array_equal(getattr(first, field.name), getattr(again, field.name)), field.name
    assert first.hue != other.hue
    assert not np.array_equal(first.camera_shift, other.camera_shift)


def test_none_is_the_plain_scene_bit_for_bit():
    seeds = [3, 4]
    plain = SimEnv("pick_place", 2, image_px=48)
    plain.reset(seeds)
    named = SimEnv("pick_place", 2, image_px=48, randomisation="none")
    named.reset(seeds)
    assert named._physics.vary == ()
    assert [named._model.texture(i).name for i in range(named._model.ntex)] == ["wood", "sky"]
    assert torch.equal(plain.frames(), named.frames())
    assert torch.equal(plain.joints(), named.joints())
    plain.close()
    named.close()


@pytest.mark.parametrize("level", ["train", "shifted"])
@pytest.mark.parametrize("task", ["reach", "push", "dual_lift", "handover"])
def test_initial_states_are_those_of_none(task, level):
    states = []
    for name in ("none", level):
        env = SimEnv(task, 5, randomisation=name)
        env.reset(range(5))
        states.append({**env.state(), "joints": env.joints()})
    plain, changed = states
    assert plain.keys() == changed.keys()
    for key, value in plain.items():
        flat = value[:, :2] if key == "object_pos" else value  # a larger object's centre is higher
        assert torch.equal(changed[key][:, :2] if key == "object_pos" else changed[key], flat), key


@pytest.mark.parametrize("level", ["train", "shifted"])
def test_frames_differ_between_seeds_and_levels_and_come_back(level):
    seeds, cameras = [7, 8, 9], ("front", "agent", "wrist")
    seen, plain = frames(level, seeds, cameras=cameras), frames("none", seeds, cameras=cameras)
    assert torch.equal(seen, frames(level, seeds, cameras=cameras))
    difference = (seen.float() - plain.float()).abs().flatten(2).mean(-1)
    assert (difference > 1).all()
    assert (difference < 80).all()  # the scene is still there
    tables = seen[:, 0].float().mean((1, 2))
    assert (tables[0] - tables[1]).abs().max() > 1


def test_frames_do_not_depend_on_the_number_of_worlds():
    together, alone = frames("train", [11, 12, 13]), frames("train", [12])
    assert torch.equal(together[1:2], alone)


def test_per_world_resets_leave_other_worlds_looks_alone():
    env = SimEnv("push", 3, image_px=48, randomisation="shifted")
    env.reset([1, 2, 3])
    before = env.frames()
    env.reset([9], worlds=[1])
    after = env.frames()
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert torch.equal(after[1], frames("shifted", [9], task="push")[0])
    env.close()


@pytest.mark.parametrize("engine", [BatchPhysics, WarpPhysics])
@pytest.mark.parametrize("level", ["train", "shifted"])
def test_fields_of_the_model_follow_the_draw(level, engine):
    seeds = list(range(20))
    model, values, rise = varied(level, seeds, engine)
    drawn = [draw_variation(seed, LEVELS[level], 2) for seed in seeds]
    cube, disc, key = model.geom("object").id, model.geom("goal").id, model.light("key").id
    texture = values["mat_texid"][:, model.material("table").id, mujoco.mjtTextureRole.mjTEXROLE_RGB]
    for row, variation in enumerate(drawn):
        for geom in (cube, disc):
            plain = colorsys.rgb_to_hsv(*model.geom_rgba[geom, :3])
            hue = colorsys.rgb_to_hsv(*values["geom_rgba"][row, geom, :3].tolist())
            assert math.isclose((hue[0] - plain[0] - variation.hue + 0.5) % 1, 0.5, abs_tol=1e-3)
            assert np.allclose(hue[1:], plain[1:], atol=1e-5)
        assert np.allclose(values["geom_size"][row, cube], 0.02 * variation.scale)
        assert math.isclose(rise[row], 0.02 * (variation.scale - 1), abs_tol=1e-7)
        old, new = model.light_dir[key], values["light_dir"][row, key].double().numpy()
        angle = math.acos(old @ new / np.linalg.norm(old) / np.linalg.norm(new))
        assert angle <= np.linalg.norm(variation.light_turn) + 1e-6
        assert angle > 0.5 * np.linalg.norm(variation.light_turn)
        assert model.texture(int(texture[row])).name == variation.texture
        moved = values["cam_pos"][row].double().numpy() - model.cam_pos
        assert np.allclose(moved[:2], variation.camera_shift, atol=1e-6)
        rest = [model.camera(name).id for name in ("wrist", "overview")]
        assert np.allclose(
            moved[rest], 0, atol=1e-6
        )  # the wrist's stays where it is mounted, that of films too


def test_robot_and_long_extents_stay():
    model = build_model(task_entry("dual_lift").factory(), "arm12", textures=TRAIN.textures)
    physics = BatchPhysics(model, 4, vary=VARIED_FIELDS)
    VariedScene(TRAIN, model, robot_of("arm12")).write(physics, range(4))
    bar, pad = model.geom("object").id, model.geom("left_pad").id
    size, rgba = physics.field("geom_size"), physics.field("geom_rgba")
    assert (size[:, bar, 1] == model.geom_size[bar, 1]).all()
    assert (size[:, bar, 0] != model.geom_size[bar, 0]).all()
    assert np.array_equal(rgba[:, pad].numpy(), np.tile(model.geom_rgba[pad], (4, 1)))
    assert np.array_equal(size[:, pad].numpy(), np.tile(model.geom_size[pad], (4, 1)))


@pytest.mark.parametrize("level", ["train", "shifted"])
def test_objects_stand_on_the_table(level):
    env = SimEnv("pick_place", 10, randomisation=level)
    env.reset(range(10))
    before, ctrl = env.state()["object_pos"].clone(), EndEffectorController(10)
    ctrl.reset(env.joints())
    for _ in range(10):
        env.step(ctrl.command(ctrl.pose()))
    torch.testing.assert_close(env.state()["object_pos"], before, atol=3e-4, rtol=0)
    assert before[:, 2].std() > 1e-4


@pytest.mark.parametrize("task", list_tasks())
def test_experts_succeed_on_train(task):
    env = SimEnv(task, 60, randomisation="train")
    controller, expert = EndEffectorController(60, embodiment=env.task.embodiment), make_expert(task, env)
    env.reset(range(1000, 1060))
    controller.reset(env.joints())
    expert.reset()
    target, ever = controller.pose(), torch.zeros(60, dtype=torch.bool)
    for _ in range(env.task.max_steps):
        target = expert.act(target)
        env.step(controller.command(target))
        ever |= env.success()
        if ever.all():
            break
    assert ever.sum() >= 57


def test_unknown_level_is_refused():
    with pytest.raises(UnknownNameError, match="none, shifted, train"):
        SimEnv("reach", 1, randomisation="wild")
