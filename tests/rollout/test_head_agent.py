"""The agent between encoder, head and controller: what the head is given and what becomes of its output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lary_policy.actions.embodiment import load_embodiment
from lary_policy.actions.statistics import ActionStats
from lary_policy.encoders.base import load_encoder
from lary_policy.errors import ShapeError
from lary_policy.heads.mlp import ActionExpert
from lary_policy.heads.pool import PoolConfig
from lary_policy.rollout.agents import HeadAgent, Observation

WORLDS, CAMERAS, PX, CHUNK = 3, 2, 28, 5
ARM7 = load_embodiment("arm7")
STATS = ActionStats((0.5, 0.0, 0.2, 0.0, 0.0, 0.1, 0.5), (0.1, 0.2, 0.1, 0.05, 0.05, 0.3, 0.5), 100)
NEUTRAL = ActionStats((0.0,) * 7, (1.0,) * 7, 100)
PROPRIO_STATS = ActionStats((0.4, 0.1, 0.3, 0.0, 0.0, 0.0, 0.5), (0.2,) * 7, 100)


@pytest.fixture(scope="module")
def pixels():
    return load_encoder("pixels", image_px=PX)


def expert(frames: int, proprio: bool = False, seed: int = 0) -> ActionExpert:
    torch.manual_seed(seed)
    return ActionExpert(
        (frames, CAMERAS, 4, 588),
        CHUNK,
        7,
        pool=PoolConfig(kind="mean"),
        width=16,
        num_blocks=1,
        proprio_dim=7 if proprio else 0,
    )


def observation(chunk_index: int = 0, seed: int = 0) -> Observation:
    rng = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (WORLDS, CAMERAS, PX, PX, 3), dtype=torch.uint8, generator=rng)
    proprio = torch.rand(WORLDS, 7, generator=rng) * 0.4
    return Observation(frames, proprio, torch.zeros(WORLDS, 7), chunk_index)


def latents(encoder, frames: Tensor) -> Tensor:
    """Encode `[w c h w 3]` one frame at a time: `[w c n d]`."""
    rows = [[encoder.encode(frame[None, None])[0, 0] for frame in world] for world in frames]
    return torch.stack([torch.stack(row) for row in rows])


class Recorder(nn.Module):
    """A head that answers with a constant and remembers its inputs."""

    def __init__(self, answer: float = 0.0) -> None:
        super().__init__()
        self.answer, self.inputs = answer, []

    def forward(self, values: Tensor, proprio: Tensor | None = None) -> Tensor:
        self.inputs.append((values, proprio))
        return torch.full((len(values), CHUNK, 7), self.answer)


def test_a_policy_plan_is_the_denormalised_output_of_the_head(pixels):
    head, seen = expert(1), observation()
    agent = HeadAgent(pixels, head, ARM7, STATS, target="absolute")
    want = STATS.denormalise(head.eval()(latents(pixels, seen.frames).unsqueeze(1))).detach()
    plan = agent.plan(seen)
    assert plan.shape == (WORLDS, CHUNK, 7)
    torch.testing.assert_close(plan, want)
    assert not plan.requires_grad
    assert not torch.allclose(plan, agent.plan(observation(seed=1)))  # it does look at the frames


def test_each_plan_encodes_the_frames_of_all_worlds_and_cameras_once(pixels, monkeypatch):
    shapes = []
    encode = pixels.encode
    monkeypatch.setattr(pixels, "encode", lambda frames: shapes.append(frames.shape) or encode(frames))
    agent = HeadAgent(pixels, expert(1), ARM7, STATS, target="absolute")
    agent.plan(observation())
    agent.plan(observation(1))
    assert shapes == [(WORLDS * CAMERAS, 1, PX, PX, 3)] * 2


def test_worlds_and_cameras_are_not_mixed(pixels):
    head, seen = Recorder(), observation()
    HeadAgent(pixels, head, ARM7, STATS, target="absolute").plan(seen)
    values, proprio = head.inputs[0]
    assert proprio is None
    torch.testing.assert_close(values, latents(pixels, seen.frames).unsqueeze(1))


def test_goals_advance_by_one_chunk_and_stay_at_each_worlds_last(pixels):
    head = Recorder()
    goals = torch.arange(WORLDS * 4).float().reshape(WORLDS, 4, 1, 1, 1).expand(-1, -1, CAMERAS, 4, 588)
    lengths = torch.tensor([4, 2, 3])
    agent = HeadAgent(pixels, head, ARM7, STATS, target="absolute", goals=goals.half(), goal_lengths=lengths)
    for chunk in range(5):
        agent.plan(observation(chunk))
    aimed = torch.stack([values[:, 1, 0, 0, 0] for values, _ in head.inputs])
    # entry j of a demonstration is its frame at chunk boundary j: the first chunk aims at entry 1
    assert aimed.T.tolist() == [[1, 2, 3, 3, 3], [5, 5, 5, 5, 5], [9, 10, 10, 10, 10]]
    values, _ = head.inputs[0]
    assert values.shape == (WORLDS, 2, CAMERAS, 4, 588)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values[:, 0], latents(pixels, observation(0).frames))


def test_a_demonstration_of_one_frame_is_its_own_goal(pixels):
    head = Recorder()
    goals = torch.ones(WORLDS, 1, CAMERAS, 4, 588)
    agent = HeadAgent(
        pixels, head, ARM7, STATS, target="absolute", goals=goals, goal_lengths=torch.ones(WORLDS).long()
    )
    agent.plan(observation(3))
    assert torch.equal(head.inputs[0][0][:, 1], goals[:, 0])


def test_subgoal_plans_depend_on_the_goal(pixels):
    head, seen = expert(2), observation()
    goals = latents(pixels, observation(seed=5).frames).unsqueeze(1).repeat(1, 2, 1, 1, 1)
    options = {"target": "absolute", "goal_lengths": torch.full((WORLDS,), 2)}
    plans = [HeadAgent(pixels, head, ARM7, STATS, goals=g, **options).plan(seen) for g in (goals, 1 - goals)]
    assert not torch.allclose(*plans)


def test_relative_targets_are_anchored_on_the_measured_pose(pixels):
    seen = observation()
    still = HeadAgent(pixels, Recorder(0.0), ARM7, NEUTRAL, target="relative").plan(seen)
    # "no motion" is the measured pose itself, with the gripper absolute
    torch.testing.assert_close(still[..., :6], seen.proprio[:, None, :6].expand(-1, CHUNK, -1))
    assert torch.equal(still[..., 6], torch.zeros(WORLDS, CHUNK))
    moved = HeadAgent(pixels, Recorder(0.1), ARM7, NEUTRAL, target="relative").plan(seen)
    torch.testing.assert_close(moved[..., :3], still[..., :3] + 0.1)
    back = ARM7.to_relative(moved, seen.proprio)
    torch.testing.assert_close(back, torch.full_like(back, 0.1), atol=1e-5, rtol=0)
    absolute = HeadAgent(pixels, Recorder(0.1), ARM7, NEUTRAL, target="absolute").plan(seen)
    assert torch.equal(absolute, torch.full((WORLDS, CHUNK, 7), 0.1))


def test_proprioception_is_normalised_with_its_own_statistics(pixels):
    head, seen = Recorder(), observation()
    HeadAgent(pixels, head, ARM7, STATS, target="absolute", proprio_stats=PROPRIO_STATS).plan(seen)
    mean, std = torch.tensor(PROPRIO_STATS.mean), torch.tensor(PROPRIO_STATS.std)
    torch.testing.assert_close(head.inputs[0][1], (seen.proprio - mean) / std)
    real = expert(1, proprio=True)
    plan = HeadAgent(pixels, real, ARM7, STATS, target="absolute", proprio_stats=PROPRIO_STATS).plan(seen)
    elsewhere = Observation(seen.frames, seen.proprio + 0.3, seen.last_target, 0)
    other = HeadAgent(pixels, real, ARM7, STATS, target="absolute", proprio_stats=PROPRIO_STATS)
    assert not torch.allclose(plan, other.plan(elsewhere))


def test_a_head_that_wants_proprioception_is_not_run_without(pixels):
    agent = HeadAgent(pixels, expert(1, proprio=True), ARM7, STATS, target="absolute")
    with pytest.raises(ShapeError, match="proprioception"):
        agent.plan(observation())


def test_the_head_is_put_into_eval_mode(pixels):
    head = nn.Sequential(nn.Dropout(0.5), nn.Flatten(1))
    HeadAgent(pixels, head, ARM7, STATS, target="absolute")
    assert not head[0].training


def test_missing_frames_and_half_given_goals_are_shape_errors(pixels):
    agent = HeadAgent(pixels, expert(1), ARM7, STATS, target="absolute")
    blind = Observation(None, torch.zeros(WORLDS, 7), torch.zeros(WORLDS, 7), 0)
    with pytest.raises(ShapeError, match="frames"):
        agent.plan(blind)
    with pytest.raises(ShapeError, match="goals together with goal_lengths"):
        HeadAgent(pixels, expert(2), ARM7, STATS, target="absolute", goals=torch.zeros(3, 2, 2, 4, 588))


def test_the_number_of_threads_is_restored(pixels):
    before = torch.get_num_threads()
    HeadAgent(pixels, expert(1), ARM7, STATS, target="absolute", threads=before + 1).plan(observation())
    assert torch.get_num_threads() == before
