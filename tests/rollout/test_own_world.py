"""A world of another simulator is one class, and so is its controller: here a point that is pushed about."""

import torch

from lary_policy.actions import ActionContract, load_embodiment
from lary_policy.rollout import run_episodes

STEP_M, NEAR_M, PX = 0.05, 0.01, 16


class Points:
    """Points that move at most 5 cm a step; the goal is a bright pixel of the only camera."""

    cameras, device = ("top",), torch.device("cpu")
    control_hz, max_steps, instruction = 20.0, 40, "go to the bright spot"
    contract = ActionContract.of(load_embodiment("arm7"), "absolute")

    def __init__(self, num_worlds):
        self.num_worlds = num_worlds

    def reset(self, seeds):
        drawn = [torch.rand(2, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self.goal = (torch.stack(drawn) * PX).floor() / PX
        self.pose, self.best = torch.zeros(self.num_worlds, 7), torch.zeros(self.num_worlds)
        self.start = self._distance()

    def step(self, commands, *, validate=True):
        self.pose = self.pose + (commands - self.pose).clamp(-STEP_M, STEP_M)
        self.best = torch.maximum(self.best, 1 - self._distance() / self.start)

    def check(self): ...

    def frames(self, worlds=None):
        shown = range(self.num_worlds) if worlds is None else worlds
        pictures = torch.zeros(len(shown), 1, PX, PX, 3, dtype=torch.uint8)
        for picture, (x, y) in zip(pictures, self.goal[list(shown)] * PX, strict=True):
            picture[0, int(y), int(x)] = 255
        return pictures

    def proprio(self):
        return self.pose

    joints = proprio

    def success(self):
        return self._distance() < NEAR_M

    def progress(self):
        return torch.where(self.success(), torch.ones(()), self.best.clamp(0, 0.99))

    def diverged(self):
        return torch.zeros(self.num_worlds, dtype=torch.bool)

    def _distance(self):
        return (self.pose[:, :2] - self.goal).norm(dim=1)


class Straight:
    """Commands are targets; what is not finite is refused."""

    def reset(self, joints):
        self._target = joints.clone()

    def pose(self):
        return self._target

    def command(self, target, *, validate=True):
        self._target = target
        return target

    def check_codes(self, target):
        return (~target.isfinite().all(1)).to(torch.uint8)

    def out_of_reach(self):
        return torch.zeros(len(self._target), dtype=torch.bool)


class Seeker:
    """Reads the goal off the frames, and goes there; in one world it loses its mind."""

    needs_frames = True

    def plan(self, observation):
        frames, pose = observation.seen()
        plan = observation.last_target.clone()
        spots = [torch.nonzero(frame[0, ..., 0])[0] for frame in frames]
        places = range(len(pose)) if observation.worlds is None else observation.worlds.tolist()
        for place, (y, x) in zip(places, spots, strict=True):
            plan[place, :2] = torch.stack([x, y]) / PX
        if observation.chunk_index == 1:
            plan[2] = torch.nan
        return plan[:, None].expand(-1, 3, -1)


def test_the_loop_runs_it_as_it_runs_ours():
    seeds = range(7, 11)
    done = run_episodes(Points(4), Straight(), Seeker, seeds, max_steps=Points.max_steps)
    assert [r.seed for r in done.episodes] == list(seeds)
    lost = done.episodes[2]
    assert (lost.failure, lost.success, lost.steps) == ("non_finite_action", False, 3)
    for world, seed in enumerate(seeds):
        if world == 2:
            continue
        result = done.episodes[world]
        far = (torch.rand(2, generator=torch.Generator().manual_seed(seed)) * PX).floor().max() / PX
        assert (result.success, result.success_at_end, result.failure, result.progress) == (
            True,
            True,
            None,
            1,
        )
        assert abs(result.first_success_step - float(far) / STEP_M) <= 1
