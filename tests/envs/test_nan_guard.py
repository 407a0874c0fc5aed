"""The ring of last states: what it keeps, what it saves when a world diverges, and the replay."""

import pytest
import torch
from safetensors.torch import load_file

from lary_envs.nan_guard import NanGuard, replay
from lary_envs.physics.batch import BatchPhysics
from lary_envs.robots.robot import robot_of
from lary_envs.scene.initial import InitialStates
from lary_envs.scene.table import build_model
from lary_envs.tasks.spec import task_entry
from lary_policy.errors import SimulationError

SUBSTEPS, SEEDS = 10, [11, 12, 13]


@pytest.fixture(scope="module")
def push():
    rules = task_entry("push").factory()
    model = build_model(rules, "arm7")
    return model, InitialStates(model, robot_of("arm7"), rules).draw(SEEDS)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs its warnings to a file in the current folder


def run(push, folder, steps, *, blow_up_at=None, keep=64, vary=()):
    """Play three worlds; the second is given an absurd velocity before a step and diverges."""
    model, state = push
    physics = BatchPhysics(model, 3, num_threads=1, vary=vary)
    guard = NanGuard(physics, task="push", substeps=SUBSTEPS, folder=folder, steps=keep)
    physics.reset(*state)
    for step in range(steps):
        ctrl = state[3] + 0.01 * step
        if step == blow_up_at:
            physics.field("qvel")[1, 9] = 1e200
        guard.record(ctrl)
        physics.step(ctrl, SUBSTEPS)
    return physics, guard


def test_nothing_is_saved_while_all_is_finite(push, tmp_path):
    _, guard = run(push, tmp_path / "nan", 3)
    assert guard.dump(SEEDS) == ()
    assert not (tmp_path / "nan").exists()


def test_the_diverged_world_alone_is_saved_and_once(push, tmp_path):
    physics, guard = run(push, tmp_path, 8, blow_up_at=5)
    (path,) = guard.dump(SEEDS)
    assert "seed12" in path.name
    saved = load_file(path)
    assert saved["qpos"].shape == (8, physics.field("qpos").shape[1])
    assert torch.equal(saved["qpos"][0], push[1][0][1])
    assert saved["qvel"][5, 9] == 1e200
    torch.testing.assert_close(saved["ctrl"][3], push[1][3][1] + 0.03)
    assert guard.dump(SEEDS) == ()


def test_replay_diverges_at_the_same_step_through_the_same_states(push, tmp_path):
    _, guard = run(push, tmp_path, 5)
    guard._physics.field("qpos")[1, 9] = float("nan")
    (path,) = guard.dump(SEEDS)
    again = replay(path)
    assert (again.task, again.seed, again.diverged_at) == ("push", 12, None)
    assert torch.equal(again.replayed[:-1], again.recorded[1:])
    _, guard = run(push, tmp_path, 1, blow_up_at=0)
    again = replay(guard.dump(SEEDS)[0])
    assert again.diverged_at == 0
    assert not torch.isfinite(again.replayed).all()


def test_the_ring_keeps_the_newest_steps_of_this_episode(push, tmp_path):
    physics, guard = run(push, tmp_path, 7, keep=4)
    physics.field("qpos")[0, 0] = float("nan")
    times = load_file(guard.dump(SEEDS)[0])["time"]
    torch.testing.assert_close(times, torch.tensor([0.15, 0.20, 0.25, 0.30]).double())
    physics.reset(*(value[:1] for value in push[1]), worlds=torch.tensor([0]))
    guard.record(push[1][3])
    physics.step(push[1][3], SUBSTEPS)
    physics.field("qpos")[0, 0] = float("nan")
    times = load_file(guard.dump([99, 12, 13])[0])["time"]
    assert times.tolist() == [0.0]


def test_model_fields_that_vary_are_saved_and_replayed(push, tmp_path):
    model, state = push
    physics = BatchPhysics(model, 3, num_threads=1, vary=("geom_friction", "geom_rgba"))
    guard = NanGuard(physics, task="push", substeps=SUBSTEPS, folder=tmp_path)
    physics.field("geom_friction")[1, :, 0] = 0.05
    physics.reset(*state)
    physics.field("qvel")[:, 9] = 0.5  # the object slides
    for _ in range(6):
        guard.record(state[3])
        physics.step(state[3], SUBSTEPS)
    ended = physics.field("qpos")[1].clone()
    physics.field("qpos")[1, 0] = float("nan")
    again = replay(guard.dump(SEEDS)[0])
    torch.testing.assert_close(again.replayed[-1], ended, atol=1e-12, rtol=0)


def test_foreign_files_are_refused(tmp_path):
    with pytest.raises(SimulationError, match="saved by NanGuard"):
        replay(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("not tensors")
    with pytest.raises(SimulationError, match="saved by NanGuard"):
        replay(tmp_path / "text.safetensors")
