"""The batched closed loop: success, failures by name, independence of the worlds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lary_envs.controller import EndEffectorController
from lary_envs.env import SimEnv
from lary_envs.tasks.expert import make_expert
from lary_envs.tasks.spec import task_spec
from lary_policy.errors import SimulationError
from lary_policy.rollout.agents import Agent, ExpertAgent, Observation
from lary_policy.rollout.loop import RolloutResult, run_episodes
from lary_policy.types import EpisodeResult

SEEDS = (300_000, 300_001, 300_002, 300_003)
MAX_STEPS = task_spec("reach").max_steps


class Spoiled:
    """The expert, except that some worlds do something else from some step on."""

    needs_frames = False

    def __init__(self, expert: ExpertAgent, spoil: Callable[[Tensor, int], Tensor]) -> None:
        self._expert, self._spoil = expert, spoil

    def plan(self, observation: Observation) -> Tensor:
        return self._spoil(self._expert.plan(observation).clone(), observation.chunk_index)


class Replay:
    """Plays recorded targets `[w s a]` in chunks of five, whatever happens."""

    needs_frames = False

    def __init__(self, targets: Tensor) -> None:
        self._targets = targets

    def plan(self, observation: Observation) -> Tensor:
        first = observation.chunk_index * 5
        return self._targets[:, first : first + 5]


def rollout(
    seeds: Sequence[int],
    make: Callable[[SimEnv], Agent] | None = None,
    *,
    max_steps: int = MAX_STEPS,
    impossible: Sequence[str | None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> RolloutResult:
    env = SimEnv("reach", len(seeds), image_px=28)
    make = make or (lambda e: ExpertAgent(make_expert("reach", e)))
    try:
        return run_episodes(
            env,
            EndEffectorController(len(seeds)),
            lambda: make(env),
            seeds,
            max_steps=max_steps,
            impossible=impossible,
            on_progress=on_progress,
        )
    finally:
        env.close()


def spoiled(spoil: Callable[[Tensor, int], Tensor]) -> Callable[[SimEnv], Agent]:
    return lambda env: Spoiled(ExpertAgent(make_expert("reach", env)), spoil)


@pytest.fixture(scope="module")
def expert() -> tuple[EpisodeResult, ...]:
    return rollout(SEEDS).episodes


def test_the_expert_succeeds_and_its_steps_are_counted(expert):
    hold = task_spec("reach").hold_steps
    assert [e.seed for e in expert] == list(SEEDS)
    for episode in expert:
        assert episode.success
        assert episode.success_at_end
        assert episode.failure is None
        assert episode.steps == MAX_STEPS  # an episode goes on after its success
        assert hold <= episode.first_success_step < MAX_STEPS
        assert 0 < episode.smoothness < 1e-3
    assert len({e.first_success_step for e in expert}) > 1  # the seeds are different episodes


def test_nan_and_far_targets_stop_their_own_world_by_name(expert):
    def spoil(plan: Tensor, chunk: int) -> Tensor:
        if chunk >= 3:
            plan[1, :, 4] = float("nan")
        if chunk >= 7:
            plan[2, :, 0] = 9.0
        return plan

    got = rollout(SEEDS, spoiled(spoil)).episodes
    assert [e.failure for e in got] == [None, "non_finite_action", "out_of_range_action", None]
    assert [e.steps for e in got] == [MAX_STEPS, 3, 7, MAX_STEPS]
    assert not any(e.success or e.success_at_end for e in got[1:3])
    assert [got[0], got[3]] == [expert[0], expert[3]]  # bit for bit as if nothing had happened


class Watched(EndEffectorController):
    """Remembers every target it was given."""

    def __init__(self, num_worlds: int) -> None:
        super().__init__(num_worlds)
        self.given: list[Tensor] = []

    def command(self, target: Tensor, **options: bool) -> Tensor:
        self.given.append(target.clone())
        return super().command(target, **options)


def test_a_stopped_arm_keeps_its_last_good_target():
    targets = torch.tensor([0.5, 0.0, 0.3, 0.0, 0.0, 0.0, 1.0]).repeat(2, 20, 1)
    targets[:, :, 0] += 0.002 * torch.arange(20)
    bad = targets.clone()
    bad[0, 8, 4], bad[1, 11, 0] = float("nan"), 9.0
    env, controller = SimEnv("reach", 2, image_px=28), Watched(2)
    run_episodes(env, controller, lambda: Replay(bad), SEEDS[:2], max_steps=20)
    env.close()
    given = torch.stack(controller.given, 1)
    assert torch.isfinite(given).all()
    for world, stop in ((0, 8), (1, 11)):
        assert torch.equal(given[world, :stop], targets[world, :stop])
        rest = given[world, stop:]
        assert torch.equal(rest, targets[world, stop - 1].expand_as(rest))


def test_infinite_targets_are_non_finite_and_a_stopped_world_stays_stopped():
    def spoil(plan: Tensor, chunk: int) -> Tensor:
        if chunk == 2:
            plan[0, :, 6] = float("-inf")
        return plan

    (episode,) = rollout(SEEDS[:1], spoiled(spoil)).episodes
    assert (episode.failure, episode.steps, episode.success) == ("non_finite_action", 2, False)


def test_a_bad_target_in_the_middle_of_a_chunk_stops_there():
    env_targets = torch.tensor([0.5, 0.0, 0.3, 0.0, 0.0, 0.0, 1.0]).repeat(1, 50, 1)
    env_targets[0, 7, 2] = float("nan")
    (episode,) = rollout(SEEDS[:1], lambda _: Replay(env_targets)).episodes
    assert (episode.failure, episode.steps) == ("non_finite_action", 7)


def test_all_worlds_stopped_ends_the_loop_early():
    seen: list[tuple[int, int]] = []
    spoil = spoiled(lambda plan, chunk: torch.full_like(plan, float("nan")))
    got = rollout(SEEDS[:2], spoil, on_progress=lambda *a: seen.append(a))
    assert seen == [(1, MAX_STEPS)]
    assert [e.steps for e in got.episodes] == [0, 0]


def test_reaching_and_leaving_is_a_success_but_not_at_the_end(expert):
    leave = max(e.first_success_step for e in expert) + 1

    def spoil(plan: Tensor, chunk: int) -> Tensor:
        if chunk >= leave:
            plan[:2, :, 2] += 0.2
        return plan

    got = rollout(SEEDS, spoiled(spoil)).episodes
    assert all(e.success for e in got)
    assert [e.success_at_end for e in got] == [False, False, True, True]
    assert [e.first_success_step for e in got] == [e.first_success_step for e in expert]


def test_a_success_before_a_failure_counts_but_not_at_the_end(expert):
    leave = max(e.first_success_step for e in expert) + 1

    def spoil(plan: Tensor, chunk: int) -> Tensor:
        return torch.full_like(plan, float("nan")) if chunk >= leave else plan

    for episode in rollout(SEEDS, spoiled(spoil)).episodes:
        assert (episode.success, episode.success_at_end) == (True, False)
        assert episode.failure == "non_finite_action"


def test_results_do_not_depend_on_the_number_of_worlds(expert):
    alone = [rollout([seed]).episodes[0] for seed in SEEDS]
    reordered = rollout(SEEDS[::-1]).episodes
    for other in (alone, list(reordered)[::-1]):
        for one, four in zip(other, expert, strict=True):
            assert one.smoothness == pytest.approx(four.smoothness, rel=1e-5)
            assert (one.seed, one.first_success_step, one.steps) == (
                four.seed,
                four.first_success_step,
                four.steps,
            )
            assert (one.success, one.success_at_end) == (four.success, four.success_at_end)


def test_progress_is_one_exactly_where_there_was_success(expert):
    assert all(e.progress == 1.0 for e in expert if e.success)
    rest = EndEffectorController(1).pose().repeat(4, 10, 1)
    still = rollout(SEEDS, lambda _: Replay(rest), max_steps=10)
    assert all(0 <= e.progress < 1 and not e.success for e in still.episodes)


def test_the_last_chunk_is_cut_at_max_steps():
    targets = torch.tensor([0.5, 0.0, 0.3, 0.0, 0.0, 0.0, 1.0]).repeat(1, 50, 1)
    seen: list[tuple[int, int]] = []
    got = rollout(SEEDS[:1], lambda _: Replay(targets), max_steps=12, on_progress=lambda *a: seen.append(a))
    assert got.episodes[0].steps == 12
    assert seen == [(5, 12), (10, 12), (12, 12)]


def test_worlds_known_to_be_impossible_are_not_run_and_keep_their_reason(expert):
    got = rollout(SEEDS, impossible=["no_demonstration", None, None, None]).episodes
    assert (got[0].failure, got[0].steps, got[0].success) == ("no_demonstration", 0, False)
    assert got[1:] == expert[1:]


def test_as_many_seeds_as_worlds_are_needed():
    env = SimEnv("reach", 2, image_px=28)
    with pytest.raises(SimulationError, match=r"2 seeds, one for each world; got 3"):
        run_episodes(
            env,
            EndEffectorController(2),
            lambda: ExpertAgent(make_expert("reach", env)),
            [1, 2, 3],
            max_steps=5,
        )
    env.close()


def test_the_commands_of_a_rollout_repeat_it(expert):
    """Bit by bit, in another number of worlds."""
    commands = rollout(SEEDS).commands
    assert commands.shape[:2] == (MAX_STEPS, len(SEEDS))
    env = SimEnv("reach", 2, image_px=28)
    env.reset(SEEDS[:2])
    first = [0, 0]
    for step, now in enumerate(commands[:, :2]):
        env.step(now)
        first = [f or (step + 1) * ok for f, ok in zip(first, env.success().tolist(), strict=True)]
    assert first == [episode.first_success_step for episode in expert[:2]]
    env.close()


def test_a_diverged_world_stops_by_name_and_its_states_are_saved(expert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the C engine writes a log into the current folder
    env = SimEnv("reach", 4, image_px=28, guard_folder=tmp_path)

    def break_world(plan: Tensor, chunk: int) -> Tensor:
        if chunk == 6:
            env._physics.field("qvel")[2] = float("inf")
        return plan

    got = run_episodes(
        env, EndEffectorController(4), lambda: spoiled(break_world)(env), SEEDS, max_steps=MAX_STEPS
    ).episodes
    assert [e.failure for e in got] == [None, None, "diverged", None]
    assert got[2].steps == 6
    assert not got[2].success_at_end
    assert [got[i] for i in (0, 1, 3)] == [expert[i] for i in (0, 1, 3)]
    (file,) = tmp_path.glob("*.safetensors")
    assert str(SEEDS[2]) in file.name
    saved = load_file(file)
    assert len(saved["qvel"]) == 7  # six good steps and the state that broke it, nothing later
    assert torch.isfinite(saved["qvel"][:6]).all()
    assert not torch.isfinite(saved["qvel"][6]).any()
    env.close()


def test_an_arm_that_cannot_reach_its_target_is_named(expert):
    """Inside the workspace, so it is executed, but behind the joint limits: gripper upside down, far out."""

    def beyond(plan: Tensor, chunk: int) -> Tensor:
        plan[1, :, :6] = torch.tensor([0.80, 0.40, 0.0, 3.0, 0.0, 0.0])
        return plan

    got = rollout(SEEDS, spoiled(beyond)).episodes
    assert [e.failure for e in got] == [None, "target_out_of_reach", None, None]
    assert got[1].steps == MAX_STEPS
    assert [got[i] for i in (0, 2, 3)] == [expert[i] for i in (0, 2, 3)]
