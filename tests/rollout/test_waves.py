"""Episodes do not depend on how many worlds they share, and an interruption costs at most one wave."""

from __future__ import annotations

import dataclasses

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from lary_envs.controller import EndEffectorController
from lary_envs.env import SimEnv
from lary_envs.tasks.expert import make_expert
from lary_envs.tasks.spec import task_spec
from lary_policy.errors import SimulationError
from lary_policy.rollout.agents import ExpertAgent
from lary_policy.rollout.film import Film
from lary_policy.rollout.loop import run_episodes
from lary_policy.rollout.waves import Wave, run_waves

SEEDS = tuple(range(300_000, 300_009))
STEPS = task_spec("reach").max_steps


def waves(num_worlds, seeds=SEEDS, **options):
    env = SimEnv("reach", num_worlds, image_px=28)
    prepared = []

    def prepare(batch):
        prepared.append(list(batch))
        return Wave(lambda: ExpertAgent(make_expert("reach", env)), [None] * len(batch))

    try:
        results = run_waves(
            env, EndEffectorController(num_worlds), prepare, seeds, max_steps=STEPS, **options
        )
    finally:
        env.close()
    return results, prepared


@pytest.fixture(scope="module")
def reference():
    return waves(9)[0]


def facts(episode):
    return dataclasses.replace(episode, smoothness=0.0)


@pytest.mark.parametrize("num_worlds", [1, 7, 64])
def test_results_do_not_depend_on_the_number_of_worlds(reference, num_worlds):
    results, prepared = waves(num_worlds)
    assert [facts(r) for r in results] == [facts(r) for r in reference]
    for ours, theirs in zip(results, reference, strict=True):
        assert ours.smoothness == pytest.approx(theirs.smoothness, rel=1e-5)
    assert {len(batch) for batch in prepared} == {num_worlds}


def test_each_wave_is_handed_over_and_counted(reference):
    seen, steps = [], []
    waves(4, on_wave=seen.append, on_progress=lambda done, total: steps.append((done, total)))
    assert [len(wave) for wave in seen] == [4, 4, 1]
    assert [e.seed for wave in seen for e in wave] == list(SEEDS)
    assert steps[-1] == (9 * STEPS, 9 * STEPS)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


@pytest.mark.parametrize("num_worlds", [2, 7])
def test_the_films_of_an_interrupted_and_of_a_whole_rollout_are_alike(tmp_path, num_worlds):
    """What was interrupted after a wave goes on with its seeds."""

    def kill(wave):
        raise KeyboardInterrupt

    def stage(count):
        return SimEnv("reach", count, image_px=56)

    whole = Film(tmp_path / "whole" / "a.mp4", every=10)
    episodes, _ = waves(9, film=whole)
    film = Film(tmp_path / "resumed" / "a.mp4", every=10)
    with pytest.raises(KeyboardInterrupt):
        waves(num_worlds, film=film, on_wave=kill)
    assert film.missing(SEEDS) == SEEDS[num_worlds:]
    waves(3, film.missing(SEEDS), film=film)
    assert whole.shoot(episodes, stage) == film.shoot(episodes, stage) == SEEDS[:3]
    assert film.missing(SEEDS) == ()
    first, second = (imageio.imread(f.path, plugin="pyav") for f in (whole, film))
    assert len(first) == STEPS // 10 + 1
    np.testing.assert_array_equal(first, second)
    assert [p.name for p in film.path.parent.iterdir()] == ["a.mp4"]


def test_stopping_at_success_ends_episodes_there(reference):
    results, _ = waves(9, stop_at_success=True)
    for ours, theirs in zip(results, reference, strict=True):
        assert ours.first_success_step == theirs.first_success_step == ours.steps
        assert ours.success
        assert ours.success_at_end


@pytest.mark.parametrize("seeds", [(), (1, 2, 1)])
def test_no_or_repeated_seeds_are_refused(seeds):
    with pytest.raises(SimulationError, match="each once"):
        waves(2, seeds)


def test_stopped_worlds_are_neither_rendered_nor_planned():
    """On a CPU only running worlds are observed, and the others keep their last target."""
    env, seen = SimEnv("reach", 3, image_px=28), []

    class Camera:
        needs_frames = True

        def plan(self, observation):
            seen.append((len(observation.frames), observation.worlds))
            plan = observation.last_target.unsqueeze(1).repeat(1, 5, 1)
            if observation.chunk_index == 0:
                plan[1, 2:] = float("nan")
            return plan

    got = run_episodes(env, EndEffectorController(3), Camera, SEEDS[:3], max_steps=15)
    env.close()
    assert [e.failure for e in got.episodes] == [None, "non_finite_action", None]
    assert [count for count, _ in seen] == [3, 2, 2]
    assert seen[0][1] is None
    assert torch.equal(seen[1][1], torch.tensor([0, 2]))
