"""Runs scripted experts in parallel worlds and records what a demonstration needs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lary_policy.machine import leave_if_asked
from lary_policy.types import FAILURES

if TYPE_CHECKING:
    from lary_envs import EndEffectorController, Expert, Simulation
    from lary_envs.metaworld import SawyerController

HOLD_STEPS = (3, 6)  # an offset is held this long: a single step would be filtered by the arm's own inertia
PROBABILITY = 0.5  # of a disturbance at the start of a chunk that follows an undisturbed one
_STREAM = 0xDA27  # keeps these random numbers apart from those of the initial state, which uses the bare seed


class Disturbance:
    """Random pose offsets for w worlds, each from its own generator, so that worlds do not touch each other.

    An offset starts at a chunk boundary and ends inside the same chunk, never in two chunks running: a chunk
    is either fully undisturbed or known to be disturbed. It ends early when the expert leaves free space.

    Args:
        seeds: Episode seed of each world.
        num_arms: Arms A; grippers are left alone.
        stride: Chunk length k.
        std_m: Standard deviation of the offset of each position number in metres, added at every held step.
        std_rad: The same for roll, pitch and yaw, in radians.
        enabled: Whether each world is disturbed at all.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        num_arms: int,
        stride: int,
        *,
        std_m: float,
        std_rad: float,
        enabled: Sequence[bool],
    ) -> None:
        self._generators = [np.random.default_rng([_STREAM, seed]) for seed in seeds]
        self._stride, self._enabled = stride, list(enabled)
        self._std = np.tile([std_m] * 3 + [std_rad] * 3 + [0.0], num_arms)
        self._left = [0] * len(seeds)  # steps for which the current offset is still held
        self._was_disturbed = [False] * len(seeds)
        self._offset = torch.zeros(len(seeds), num_arms, 7)

    def offsets(self, step: int, free_space: Tensor) -> Tensor:
        """Return offsets `[w A 7]` of the arm poses in control step `step`; zeros are undisturbed.

        Args:
            step: Control step, called with 0, 1, 2, ...
            free_space: bool `[w]`, where the expert says it is far from contact.
        """
        if step % self._stride == 0:
            for world in range(len(self._generators)):
                self._draw(world)
        out = torch.zeros_like(self._offset)
        for world, free in enumerate(free_space.tolist()):
            if not free:
                self._left[world] = 0
            if self._left[world] > 0:
                out[world] = self._offset[world]
                self._left[world] -= 1
        return out

    def _draw(self, world: int) -> None:
        """Decide on a disturbance of this chunk; always draws equally many numbers."""
        generator = self._generators[world]
        wanted, hold = (
            generator.random() < PROBABILITY,
            int(generator.integers(HOLD_STEPS[0], HOLD_STEPS[1] + 1)),
        )
        offset = generator.normal(size=len(self._std)) * self._std
        start = wanted and self._enabled[world] and not self._was_disturbed[world]
        self._was_disturbed[world] = start
        self._left[world] = min(hold, self._stride) if start else 0
        self._offset[world] = torch.from_numpy(offset).float().reshape(-1, 7)


PNG_LEVEL = 1  # zlib level: 2-3 times faster than Pillow's default for files a few per cent larger


@dataclass(frozen=True)
class EpisodeJob:
    """An episode to record: its number, seed and split."""

    episode: int
    seed: int
    split: str


@dataclass
class Recording:
    """Everything recorded of one episode so far.

    Attributes:
        job: Which episode.
        images: PNG bytes at each chunk boundary (or at every step, see `record_episodes`), one a camera.
        states: Measured pose `[a]` at the same steps.
        clean: The expert's target `[a]` of each control step.
        executed: The pose `[a]` really commanded at each control step.
        disturbed: Whether each control step was disturbed.
        succeeded: Whether the success condition held after each control step.
        scene: Named state of the task `[q]` at the same steps as the images; empty where none is known.
        free: Whether the expert was far from contact at each control step.
        start_pose: Commanded pose `[a]` before the first step.
        success_step: Control steps until the first success, or None.
        failure: Why it cannot be used, or "".
    """

    job: EpisodeJob
    start_pose: Tensor
    images: list[list[bytes]] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    clean: list[Tensor] = field(default_factory=list)
    executed: list[Tensor] = field(default_factory=list)
    disturbed: list[bool] = field(default_factory=list)
    succeeded: list[bool] = field(default_factory=list)
    scene: list[dict[str, list[float]]] = field(default_factory=list)
    free: list[bool] = field(default_factory=list)
    success_step: int | None = None
    failure: str = ""


def record_episodes(
    env: Simulation,
    controller: SawyerController | EndEffectorController,
    expert: Expert,
    jobs: Sequence[EpisodeJob],
    disturbance: Disturbance,
    *,
    stride: int,
    every_step: bool = False,
) -> list[Recording]:
    """Record one episode in each of the first `len(jobs)` worlds; further worlds idle.

    Frames and states are taken at chunk boundaries 0, k, 2k, ... An episode ends at the first boundary that
    lies a whole chunk or more after its first success, or at the last one within the task's step limit.

    Args:
        env: Environment, already reset to the seeds of the jobs.
        controller: Controller, already reset to the environment's joints.
        expert: Scripted expert, already reset.
        jobs: Episodes to record, at most one a world.
        disturbance: Offsets added to the expert's targets.
        stride: Chunk length k.
        every_step: Take frames and states at every control step, for data that are not cut into chunks.
    """
    last = controller.pose()
    recordings = [Recording(job, last[i].clone()) for i, job in enumerate(jobs)]
    running = list(range(len(jobs)))
    limit = env.max_steps // stride * stride
    for step in range(limit + 1):
        if every_step or step % stride == 0:
            _take_frames(env, [recordings[i] for i in running], running)
        if step % stride == 0:
            leave_if_asked()
            running = [i for i in running if not _is_over(recordings[i], step, stride, limit)]
            if not running:
                break
        clean = expert.act(last)
        free = expert.free_space()
        offset = disturbance.offsets(step, free)
        disturbed = offset.flatten(1).any(-1)
        to_arms, to_action = env.layout.to_arms, env.layout.to_action
        target = to_action(to_arms(clean) + offset) if bool(disturbed.any()) else clean
        refused = [FAILURES[code] for code in controller.check_codes(target).tolist()]
        env.step(controller.command(target))
        last = torch.where(disturbed.unsqueeze(-1), controller.pose(), target)
        success, diverged = env.success(), env.diverged()
        for i in running:
            recordings[i].failure = recordings[i].failure or refused[i] or ("diverged" if diverged[i] else "")
            _take_step(recordings[i], clean[i], last[i], bool(disturbed[i]))
            recordings[i].succeeded.append(bool(success[i]))
            recordings[i].free.append(bool(free[i]))
            if recordings[i].success_step is None and success[i]:
                recordings[i].success_step = step + 1
    for recording in recordings:
        if recording.success_step is None and not recording.failure:
            recording.failure = f"the expert did not succeed within {limit} steps"
    return recordings


def _is_over(recording: Recording, step: int, stride: int, limit: int) -> bool:
    done = recording.success_step is not None and step >= recording.success_step + stride
    return done or step >= limit or bool(recording.failure)


def _take_frames(env: Simulation, recordings: Sequence[Recording], worlds: Sequence[int]) -> None:
    frames, states = env.frames(list(worlds)).cpu(), env.proprio()
    scene = {name: values.cpu() for name, values in env.state().items()}
    for recording, views, world in zip(recordings, frames, worlds, strict=True):
        recording.images.append([png_bytes(view) for view in views])
        recording.states.append(states[world].cpu().clone())
        recording.scene.append({name: values[world].tolist() for name, values in scene.items()})


def _take_step(recording: Recording, clean: Tensor, executed: Tensor, disturbed: bool) -> None:
    recording.clean.append(clean.clone())
    recording.executed.append(executed.clone())
    recording.disturbed.append(disturbed)


def png_bytes(frame: Tensor) -> bytes:
    """Encode uint8 RGB `[h w 3]` as the file of a frame, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(frame.numpy()).save(buffer, format="PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()
