"""MetaWorld's tasks as worlds of ours: the same physics and experts, visible goals, named errors."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("metaworld")

import mujoco

from lary_envs import families, open_world, task_spec
from lary_envs.gym import GymSettings, GymWorld, gym_ids
from lary_envs.metaworld import VERSION, GoalScene, SawyerController, make_simulator, simulator_class
from lary_envs.metaworld import simulator as simulator_module
from lary_policy.actions import load_embodiment
from lary_policy.cli.compose import compose
from lary_policy.data.simulated import (
    collect_demonstrations,
    read_episodes,
    replay_episodes,
    verify_dataset,
)
from lary_policy.errors import LaryPolicyError, ShapeError, SimulationError, UnknownNameError
from lary_policy.paths import read_json
from lary_policy.rollout import Described, ExpertAgent, run_episodes
from lary_policy.runs.config import run_config

PICK = "metaworld/pick-place-v3"
SPECS = families()["metaworld"].specs()


@pytest.fixture(scope="module")
def pick():
    env = open_world(PICK, 2, cameras=("front", "wrist"), image_px=64, num_threads=1)
    yield env
    env.close()


def test_every_task_of_metaworld_is_a_task_of_ours():
    from metaworld.env_dict import ENV_CLS_MAP
    from metaworld.policies import ENV_POLICY_MAP

    assert {f"metaworld/{name}" for name in ENV_CLS_MAP} == set(SPECS)
    assert set(ENV_POLICY_MAP) == set(ENV_CLS_MAP)
    assert len({gym_ids()[name] for name in SPECS}) == 50
    assert {spec.embodiment for spec in SPECS.values()} == {"sawyer4"}
    assert load_embodiment("sawyer4").control_hz == task_spec(PICK).control_hz == 80


@pytest.mark.parametrize("suite", ["metaworld10", "metaworld50"])
def test_suites_name_tasks_that_exist(suite):
    config = run_config(compose("suite", [f"suite={suite}"]))
    assert len(config.tasks) == int(suite.removeprefix("metaworld"))
    assert set(config.tasks) <= set(SPECS)
    assert task_spec(config.tasks[0]).usual_cameras == ("front", "wrist")


def test_the_correction_is_still_needed():
    from metaworld.env_dict import ENV_CLS_MAP

    with pytest.raises(ValueError, match="could not broadcast"):  # once it does not: drop `_reset_welds`
        ENV_CLS_MAP["reach-v3"]()
    assert simulator_class("reach-v3")().model.eq_data[0, 10] == 5.0


def test_an_expert_of_ours_does_what_metaworlds_own_does(pick):
    seeds, steps = [3, 4], 40
    pick.reset(seeds)
    controller, expert = pick.controller(), pick.expert()
    controller.reset(pick.joints())
    last = controller.pose()
    for _ in range(steps):
        last = expert.act(last)
        pick.step(controller.command(last))
    from metaworld.policies import ENV_POLICY_MAP

    for world, seed in enumerate(seeds):
        theirs, policy = make_simulator("pick-place-v3", seed), ENV_POLICY_MAP["pick-place-v3"]()
        seen = theirs._last_stable_obs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(steps):
                seen, *_ = theirs.step(policy.get_action(seen))
        np.testing.assert_allclose(pick.proprio()[world], seen[:4], atol=2e-4)
        np.testing.assert_allclose(pick.state()["object_pos"][world], seen[4:7], atol=2e-3)
        np.testing.assert_allclose(pick.state()["goal_pos"][world], seen[-3:], atol=1e-6)


def test_an_initial_state_depends_on_its_seed_alone(pick):
    pick.reset([7, 8])
    first, frames = pick.state(), pick.frames()
    for _ in range(5):
        pick.step(torch.ones(2, 4))
    pick.reset([9, 7])
    again = pick.state()
    assert all(torch.equal(first[name][0], again[name][1]) for name in first)
    assert torch.equal(frames[0], pick.frames([1])[0])
    assert not torch.equal(first["goal_pos"][1], again["goal_pos"][0])
    before = again["goal_pos"][1].clone()
    pick.reset([11], worlds=[0])  # the other world goes on
    assert torch.equal(pick.state()["goal_pos"][1], before)


def test_the_closed_loop_runs_and_progress_ends_at_one(pick):
    found = run_episodes(
        pick, pick.controller(), lambda: ExpertAgent(pick.expert()), [300_000, 300_001], max_steps=120,
        stop_at_success=True,
    )  # fmt: skip
    assert isinstance(pick, Described)
    assert [e.success for e in found.episodes] == [True, True]
    assert [e.progress for e in found.episodes] == [1.0, 1.0]
    assert all(20 < e.steps < 120 for e in found.episodes)


def test_progress_rises_and_is_not_one_without_success(pick):
    pick.reset([0, 1])
    controller, expert, shares = pick.controller(), pick.expert(), [pick.progress()]
    controller.reset(pick.joints())
    last = controller.pose()
    for _ in range(25):
        last = expert.act(last)
        pick.step(controller.command(last))
        shares.append(pick.progress())
    shares = torch.stack(shares)
    assert (shares.diff(dim=0) >= 0).all()
    assert (shares[0] == 0).all()
    assert (shares[-1] > 0).all()
    assert (shares[~pick.success().expand_as(shares)] < 1).all()


def test_a_goal_is_seen_where_the_task_put_it(pick):
    """The blue marker of pick-place is drawn, and moves with the goal."""
    pick.reset([2, 5])
    frames = pick.frames()[:, 0].int()
    blue = (frames[..., 2] - frames[..., :2].amax(-1)) > 60
    assert (blue.flatten(1).sum(1) > 0).all()
    places = [b.nonzero().float().mean(0) for b in blue]
    assert (places[0] - places[1]).norm() > 1


def test_the_physics_is_on_metaworlds_own_scene_and_fixed_cameras_stand_upright():
    sim = make_simulator("door-open-v3", 0)
    scene = GoalScene(sim.fullpath, sim.model, 1, 64)
    scene.show(0, sim.data)
    n = sim.model.ngeom
    assert scene.model.ngeom > n
    np.testing.assert_array_equal(scene.model.geom_dataid[:n], sim.model.geom_dataid)
    np.testing.assert_array_equal(scene.model.geom_bodyid[:n], sim.model.geom_bodyid)
    assert (scene.model.geom_contype[n:] == 0).all()
    names = [scene.model.camera(i).name for i in range(scene.model.ncam)]
    for name in ("front", "corner", "corner2", "corner3"):
        up = scene.field("cam_xmat")[0, names.index(name)].view(3, 3)[:, 1]
        assert up[2] > 0.1, name


@pytest.mark.skipif(
    os.environ.get("MUJOCO_GL") not in ("egl", "osmesa"), reason="needs MUJOCO_GL=egl or osmesa"
)
@pytest.mark.parametrize("task", ["pick-place-v3", "door-open-v3", "window-close-v3"])
def test_pictures_are_those_of_mujoco(task):
    """In grey levels, of every camera; edges, of which one takes four samples, are most of it."""
    cameras = ("front", "wrist", "topview", "corner", "corner2", "corner3", "behindGripper")
    env = open_world(f"metaworld/{task}", 1, cameras=cameras, image_px=128, num_threads=1)
    env.reset([1])
    ours, sim, found = env.frames()[0].int(), make_simulator(task, 1), {}
    mujoco.mj_forward(sim.model, sim.data)  # some tasks move things after they last did
    with mujoco.Renderer(sim.model, 128, 128) as renderer:
        for place, camera in reversed(list(enumerate(cameras))):
            own = sim.model.camera({"front": "corner2", "wrist": "gripperPOV"}.get(camera, camera)).id
            if camera == "front":  # as the literature moves it
                sim.model.cam_pos[own] = (0.75, 0.075, 0.7)
                mujoco.mj_forward(sim.model, sim.data)
            renderer.update_scene(sim.data, own)
            theirs = torch.from_numpy(renderer.render().astype(np.int32))
            down = sim.model.cam_bodyid[own] == 0 and sim.data.cam_xmat[own, 7] < 0  # ours is turned
            seen = theirs.flip(0, 1) if down else theirs
            found[camera] = float((ours[place] - seen).abs().float().mean())
    env.close()
    assert sum(found.values()) / len(found) < 6.5, found
    assert max(found.values()) < 9, found


@pytest.mark.slow
def test_experts_succeed_in_97_percent_of_200_episodes():
    """As `benchmarks/run.py metaworld parts=experts` counts."""
    seeds, solved = range(300_000, 300_004), {}
    for task in SPECS:
        env = open_world(task, len(seeds))
        done = run_episodes(
            env, env.controller(), lambda env=env: ExpertAgent(env.expert()), list(seeds),
            max_steps=env.max_steps, stop_at_success=True,
        )  # fmt: skip
        env.close()
        solved[task] = sum(episode.success for episode in done.episodes)
    assert sum(solved.values()) >= 194, solved


def test_demonstrations_are_recorded_and_repeat_themselves(tmp_path):
    root = tmp_path / "set"
    options = {"cameras": ("front", "wrist"), "image_px": 32, "num_worlds": 2, "noise_std_m": 0.01}
    report = collect_demonstrations(
        root, "metaworld/reach-v3", splits={"train": [0, 1], "val": [100_000]}, **options
    )
    assert report.dataset == "metaworld-reach-v3"
    assert report.episodes == {"train": 2, "val": 1}
    checks = [seen.check for seen in replay_episodes(root, read_episodes(root), num_worlds=3)]
    assert [check.pose for check in checks] == [0.0] * 3
    assert [check.grey_levels for check in checks] == [0.0] * 3
    assert read_json(root / "dataset.json")["versions"]["metaworld"] == VERSION
    labels = {label for record in read_episodes(root) for label in record.labels}
    assert "Forward" in labels  # the robot faces y
    assert not labels & {"Open", "Close"}  # its expert commands an effort of 0 throughout
    assert verify_dataset(root, workers=0).ok


def test_the_controller_says_what_metaworld_does_with_targets():
    low, high = (-0.5, 0.4, 0.05), (0.5, 1.0, 0.5)
    controller = SawyerController(3, low, high)
    start = torch.tensor([[0.0, 0.6, 0.2, 1.0]] * 3)
    controller.reset(start)
    target = torch.tensor([[0.004, 0.6, 0.2, 1.0], [0.3, 0.6, 0.2, 0.0], [0.0, 0.6, 0.02, 0.5]])
    raw = controller.command(target)
    expected = [[0.4, 0, 0, -1], [1, 0, 0, 1], [0, 0, -1, 0]]
    torch.testing.assert_close(raw.float(), torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=0)
    torch.testing.assert_close(controller.pose()[1], torch.tensor([0.01, 0.6, 0.2, 0.0]))
    for _ in range(40):
        controller.command(target)
    assert controller.out_of_reach().tolist() == [False, False, True]
    far = torch.tensor([[9.0, 0.6, 0.2, 1.0], [0.0, float("nan"), 0.2, 1.0], [0.0, 0.6, 0.2, 1.0]])
    assert controller.check_codes(far).tolist() == [2, 1, 0]
    before = controller.pose()[2, 0]
    controller.command(torch.tensor([[0.002, 0.0, 0.0, 1.0]] * 3), relative=True)
    assert controller.pose()[2, 0] == pytest.approx(float(before) + 0.002, abs=1e-6)


def version(monkeypatch, found):
    simulator_module._package.cache_clear()
    simulator_module.simulator_class.cache_clear()
    others = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: (found if name == "metaworld" else others)(name)
    )


def test_another_version_and_a_missing_package_are_named(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    for found in (lambda name: "3.1.1", missing):
        monkeypatch.undo()
        version(monkeypatch, found)
        with pytest.raises(SimulationError, match=f"metaworld=={VERSION}"):
            open_world(PICK, 1)
    monkeypatch.undo()
    simulator_module._package.cache_clear()


def test_a_package_that_cannot_be_imported_is_named(monkeypatch, tmp_path):
    (tmp_path / "metaworld.py").write_text("raise ImportError('hidden')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "metaworld"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    simulator_module._package.cache_clear()
    with pytest.raises(SimulationError, match=r"can be imported; got ImportError: hidden"):
        simulator_module._package()
    simulator_module._package.cache_clear()


def test_ids_of_its_own_lead_to_ours():
    """They fail inside MetaWorld 3.0.0 with this gymnasium, whatever is passed."""
    for options in ({}, {"env_name": "reach-v3"}):
        with pytest.raises(LaryPolicyError, match="Pass env=metaworld/<task>"):
            GymWorld("gym:metaworld:Meta-World/MT1", 1, ("render",), GymSettings(env_options=options))


@pytest.mark.parametrize(
    ("task", "settings", "kind", "words"),
    [
        ("metaworld/pick-plaec-v3", {}, UnknownNameError, "pick-place"),
        ("reach-v3", {}, UnknownNameError, "mean 'metaworld/reach-v3'"),
        ("metaworld/pick_place", {}, UnknownNameError, "mean 'metaworld/pick-place-v3'"),
        (PICK, {"cameras": ("agent",)}, UnknownNameError, "front"),
        (PICK, {"cameras": ()}, SimulationError, "cameras"),
        (PICK, {"randomisation": "train"}, UnknownNameError, "none"),
        (PICK, {"looks": "menagerie"}, UnknownNameError, "primitives"),
        (PICK, {"physics": "warp"}, UnknownNameError, "mujoco"),
        (PICK, {"fast": True}, UnknownNameError, "physics"),
        (PICK, {"image_px": 0}, SimulationError, "image_px"),
    ],
)
def test_bad_input_is_named(task, settings, kind, words):
    with pytest.raises(kind, match=words):
        open_world(task, 1, **settings)


def test_wrong_actions_seeds_and_worlds_are_named(pick):
    pick.reset([0, 1])
    for bad in (torch.zeros(2, 3), torch.full((2, 4), float("nan"))):
        with pytest.raises(ShapeError, match="4"):
            pick.step(bad)
    for call in (lambda: pick.reset([1]), lambda: pick.frames([2]), lambda: pick.frames([])):
        with pytest.raises(SimulationError):
            call()
    with pytest.raises(LaryPolicyError, match="sawyer4"):
        pick.controller().command(torch.zeros(2, 7))
