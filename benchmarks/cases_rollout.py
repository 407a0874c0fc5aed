"""Closed loop from pixels to joint commands: control steps/s, where the time goes, and two yardsticks.

The yardsticks are LeRobot's evaluation path over the same scene with the same encoder and head, and the bare
encoder without any simulation.
"""

from __future__ import annotations

import resource
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from case import Figure
from checks import require_motion, require_pictures
from gl import make_renderer
from lary_envs import EndEffectorController, SimEnv
from lary_policy.actions import ActionStats, load_embodiment
from lary_policy.encoders import LatentEncoder, compiled, load_encoder, prepare_frames
from lary_policy.heads import build_module, load_head_config
from lary_policy.machine import available_cores, intra_op_threads
from lary_policy.rollout import HeadAgent, run_episodes
from scene_copy import PlainWorld
from stage_clock import StageClock
from timing import timed

CHUNK = 5
WARM_UP = 1
WORLDS = {"cpu": 16, "cuda": 1024}
SPREAD = (
    0.02  # of a random head's targets around the initial pose, m and rad: the arms move, and stay in reach
)
STAGES = ("sim", "render", "encode", "head", "control", "host")


@dataclass(frozen=True)
class Loop:
    """Everything of one closed loop.

    Attributes:
        env: w worlds.
        controller: Of these worlds.
        encoder: Frozen, random weights.
        head: On its latents, random weights.
        stats: Statistics of its targets.
        steps: Control steps of an episode.
    """

    env: SimEnv
    controller: EndEffectorController
    encoder: LatentEncoder
    head: nn.Module
    stats: ActionStats
    steps: int

    @property
    def seeds(self) -> range:
        """One seed a world."""
        return range(self.env.num_worlds)

    @property
    def plans(self) -> int:
        """How often a world's frame is encoded in an episode."""
        return -(-self.steps // CHUNK)

    def agent(self) -> HeadAgent:
        """Return a new agent."""
        return HeadAgent(
            self.encoder, self.head, load_embodiment(self.env.task.embodiment), self.stats, target="absolute",
            threads=available_cores(),
        )  # fmt: skip

    def run(self) -> None:
        """Run one episode a world.

        Raises:
            SystemExit: A world did not run to the end.
        """
        with intra_op_threads(1):
            episodes = run_episodes(
                self.env, self.controller, self.agent, self.seeds, max_steps=self.steps
            ).episodes
        failures = {e.failure for e in episodes if e.failure or e.steps != self.steps}
        if failures:
            raise SystemExit(f"worlds stopped early: {failures}, no figure is printed")


def run(
    task: str, encoders: str, image_px: int, worlds: int, steps: int, lerobot: str, async_worlds: int,
    repeats: int, head: str, dtype: str, compile: int, device: str,
) -> Iterator[Figure]:  # fmt: skip
    """Yield the figures of each encoder; all sides of a comparison run one after another in each repeat.

    Args:
        task: Name of a task of any embodiment.
        encoders: Registry names of frame encoders with commas between; weights are random.
        image_px: Side of frames; each encoder resizes them to its own.
        worlds: Worlds; 0 for 16 on a CPU and 1024 on CUDA.
        steps: Control steps of an episode, on all sides; 0 for the task's own.
        lerobot: Vector environments to compare with, of sync and async; `none` leaves the comparison out.
        async_worlds: Processes of the async one; 0 for two a core, since each is a Python of its own.
        repeats: Timed repeats.
        head: Configuration of an action head.
        dtype: Dtype of the encoder.
        compile: 1 for the encoder's compiled twin, on all sides.
        device: Where everything but OpenGL runs.
    """
    worlds = worlds or WORLDS[device.split(":")[0]]
    kinds = [] if lerobot == "none" or not _has_gl(task, image_px) else lerobot.split(",")
    sizes = {"sync": worlds, "async": min(worlds, async_worlds or 2 * available_cores())}
    for name in encoders.split(","):
        loop = _loop(task, name, image_px, worlds, steps, head, dtype, bool(compile), device)
        others = {kind: _Other(kind, sizes[kind], loop, device) for kind in kinds}
        try:
            yield from _figures(name, loop, others, repeats, device)
        finally:
            loop.env.close()
            for other in others.values():
                other.close()


def _loop(
    task: str, encoder_name: str, image_px: int, worlds: int, steps: int, head: str, dtype: str,
    compile: bool, device: str,
) -> Loop:  # fmt: skip
    with torch.device(device):
        own = load_encoder(encoder_name, dtype=dtype, device=device, weights="random")
    env = SimEnv(task, worlds, image_px=image_px, render_device=device)
    controller = EndEffectorController(worlds, embodiment=env.task.embodiment, device=env.device)
    env.reset(range(worlds))
    controller.reset(env.joints())
    mean = tuple(controller.pose()[0].tolist())
    latent = own.latent
    expert = build_module(
        load_head_config(head).model, (1, 1, latent.tokens, latent.width), chunk=CHUNK, action_dim=len(mean)
    )  # fmt: skip
    return Loop(
        env=env,
        controller=controller,
        encoder=compiled(own) if compile else own,
        head=expert.to(device).eval(),
        stats=ActionStats(mean=mean, std=(SPREAD,) * len(mean), count=1),
        steps=steps or env.task.max_steps,
    )


def _figures(name: str, loop: Loop, others: dict[str, _Other], repeats: int, device: str) -> Iterator[Figure]:
    _check(loop, others)
    sides: dict[str, Callable[[], object]] = {"ours": loop.run}
    if loop.encoder.spec.gflops_per_frame:  # raw pixels have no model to compare with
        sides["bare"] = partial(_bare, loop, _ready_images(loop, device))
    sides |= {kind: other.run for kind, other in others.items()}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for repeat in range(repeats + WARM_UP):
        for side, call in sides.items():
            elapsed = timed(call, device)
            if repeat >= WARM_UP:
                seconds[side].append(elapsed)
    rates = [loop.env.num_worlds * loop.steps / s for s in seconds["ours"]]
    ours = {"low": min(rates), "high": max(rates)}
    rate = statistics.median(rates)
    yield Figure(f"{name}.control_steps_per_second", rate, "control steps/s", **ours)
    for kind, other in others.items():
        theirs = other.work / statistics.median(seconds[kind])
        yield Figure(f"{name}.against_lerobot_{kind}", rate, "control steps/s", baseline=theirs, **ours)
    if "bare" in sides:
        frames = loop.env.num_worlds * loop.plans
        encoded, bare = (frames / statistics.median(seconds[side]) for side in ("ours", "bare"))
        yield Figure(f"{name}.against_bare_encoder", encoded, "img/s", baseline=bare)
    yield Figure(f"{name}.episodes", statistics.median(seconds["ours"]), "s")
    yield from _split(name, loop, device)
    yield Figure(f"{name}.peak_memory", _peak_gib(device), "GiB")


def _split(name: str, loop: Loop, device: str) -> Iterator[Figure]:
    """Yield milliseconds of each stage in a control step of all worlds, from a pass of its own."""
    clock = StageClock(device)
    env, controller = loop.env, loop.controller
    stages = {
        "sim": [(env, "reset"), (env, "step"), (env, "proprio")],
        "render": [(env, "frames")],
        "encode": [(loop.encoder, "encode")],
        "head": [(loop.head, "forward")],
        "control": [(controller, "reset"), (controller, "check_codes"), (controller, "command")],
    }
    with clock.watching(stages):
        total = timed(loop.run, device)
    clock.seconds["host"] = total - sum(clock.seconds.values())
    for stage in STAGES:
        milliseconds = 1e3 * clock.seconds[stage] / loop.steps
        yield Figure(f"{name}.{stage}_ms", milliseconds, "ms/control step of all worlds")


def _check(loop: Loop, others: dict[str, _Other]) -> None:
    """Run every side once and look at what it sees."""
    env = loop.env
    env.reset(loop.seeds)
    before, frames = env.joints(), env.frames()
    require_pictures(frames[:, 0].cpu(), "frames")
    latents = loop.encoder.encode(frames)
    if not bool(torch.isfinite(latents).all()) or float(latents.float().std()) == 0.0:
        raise SystemExit("latents are not finite or constant, no figure is printed")
    loop.run()
    require_motion(before, env.joints(), "closed loop")
    for kind, other in others.items():
        require_pictures(other.first_frames(), f"LeRobot, {kind}")


def _ready_images(loop: Loop, device: str) -> Tensor:
    """Return the initial frames as the bare model wants them."""
    loop.env.reset(loop.seeds)
    encoder: Any = loop.encoder
    return prepare_frames(
        loop.env.frames(), encoder.spec.image_px, encoder.spec.preprocess_named("native"),
        device=torch.device(device), dtype=next(encoder.model.parameters()).dtype,
    )  # fmt: skip


@torch.inference_mode()
def _bare(loop: Loop, images: Tensor) -> None:
    """Encode as many frames as an episode of all worlds, ready for the model."""
    encoder: Any = loop.encoder
    with intra_op_threads(available_cores()):
        for _ in range(loop.plans):
            encoder.model(images)


class _Other:
    """LeRobot's path with the parts of a loop, on `worlds` worlds."""

    def __init__(self, kind: str, worlds: int, loop: Loop, device: str) -> None:
        from lerobot_path import HeadPolicy, HeadPolicyConfig, LeRobotPath  # seconds of imports

        env = loop.env
        self._path = LeRobotPath(kind, env.task.name, worlds, env.image_px, env.cameras[0], loop.steps)
        self._policy = HeadPolicy(
            HeadPolicyConfig(n_action_steps=CHUNK, device=device), loop.encoder, loop.head
        )
        self._stats, self._seeds = loop.stats, range(worlds)
        self.work = worlds * loop.steps

    def first_frames(self) -> Tensor:
        return self._path.first_frames(self._seeds)

    def run(self) -> None:
        with intra_op_threads(available_cores()):
            self._path.run(self._policy, self._stats, self._seeds)

    def close(self) -> None:
        self._path.close()


def _has_gl(task: str, image_px: int) -> bool:
    renderer = make_renderer(PlainWorld(task).model, image_px)
    if renderer is not None:
        renderer.close()
    return renderer is not None


def _peak_gib(device: str) -> float:
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return torch.cuda.max_memory_allocated() / 2**30
