"""`lary rollout policy=<folder>`: a LeRobot checkpoint of any type in the batched closed loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lerobot.configs import PreTrainedConfig
from lerobot.policies import PreTrainedPolicy
from lerobot.policies.factory import make_policy
from lerobot.utils.constants import OBS_IMAGES

from lary_envs.gym import LarySimEnv
from lary_policy.console import progress
from lary_policy.data.simulated import GOALS, seeds_of
from lary_policy.errors import ConfigError
from lary_policy.frames import file_digest
from lary_policy.machine import available_cores, intra_op_threads, resolve_device
from lary_policy.paths import write_json
from lary_policy.policy import load_processors, read_policy
from lary_policy.rollout import Film, PolicyAgent, Wave, run_waves
from lary_policy.runs.cells import run_folder
from lary_policy.runs.config import RunConfig
from lary_policy.runs.context import machine_facts
from lary_policy.runs.rollout import FILMED, split_label, success_scores
from lary_policy.scores import Score
from lary_policy.types import EpisodeResult


@dataclass(frozen=True)
class PolicyRollout:
    """What `lary rollout policy=<folder>` found.

    Attributes:
        folder: Where `rollout.json` and `episodes.mp4` are.
        scores: Success ever and at the end.
        episodes: One result a seed.
    """

    folder: Path
    scores: tuple[Score, ...]
    episodes: tuple[EpisodeResult, ...]


def rollout_policy(config: RunConfig, checkpoint: Path) -> PolicyRollout:
    """Run a checkpoint on the first task of a run, from the initial states that every rollout starts from.

    Cameras and frame size are the policy's; action layout, rate and statistics are compared with the task's
    before the first episode, as `lerobot-eval --env.type=lary_sim` does.

    Args:
        config: Task, episodes, worlds, device, looks, randomisation and output folder.
        checkpoint: Folder of a LeRobot checkpoint (`.../pretrained_model`).

    Raises:
        ConfigError: The folder is no checkpoint, or its cameras are not square or not the task's.
        EmbodimentError: The policy is of another embodiment or control rate.
        WeightsMismatchError: The encoder is not the one the policy was trained with.
    """
    from lary_envs import EndEffectorController, SimEnv

    device = resolve_device(config.device)
    described = read_policy(checkpoint, device)
    env_config = _env_config(config, described, device)
    policy = make_policy(described, env_cfg=env_config)
    before, after = load_processors(described, checkpoint)
    seeds = seeds_of(GOALS, config.episodes)
    worlds = min(config.num_worlds, len(seeds))
    folder = run_folder(config.output_dir, config.run, "rollout")
    env = SimEnv(
        config.tasks[0], worlds, cameras=env_config.cameras, image_px=env_config.image_px,
        render_device=device, guard_folder=folder / "diverged", looks=config.looks,
        randomisation=config.rollout_level,
    )  # fmt: skip
    controller = EndEffectorController(worlds, embodiment=env.task.embodiment, device=str(env.device))
    film = Film(folder / "episodes.mp4", seeds[:FILMED])
    film.restart()  # of an earlier rollout into a folder of this name

    def prepare(batch: Sequence[int]) -> Wave:
        def make_agent() -> PolicyAgent:
            return PolicyAgent(
                policy, before, after, env_config.cameras, env.instruction, threads=available_cores(),
                seeds=batch if config.batch_invariant else None,
            )  # fmt: skip

        return Wave(make_agent, [None] * len(batch))

    started = time.perf_counter()
    try:
        with progress(f"rollout {config.tasks[0]}-{described.type}") as update, intra_op_threads(1):
            episodes = run_waves(
                env, controller, prepare, seeds, max_steps=env.task.max_steps, film=film,
                stop_at_success=config.stop_at_success, on_progress=update,
            )  # fmt: skip
    finally:
        env.close()
    scores = _scores(config, checkpoint, policy, episodes, env.task.embodiment, time.perf_counter() - started)
    film.write(hz=env.control_hz)
    _write(folder, config, checkpoint, device, scores, episodes)
    return PolicyRollout(folder, scores, episodes)


def _env_config(config: RunConfig, policy: PreTrainedConfig, device: str) -> LarySimEnv:
    """Return the environment that shows what the policy sees."""
    shapes = {name: tuple(feature.shape) for name, feature in policy.image_features.items()}
    sizes = {shape[1:] for shape in shapes.values()}
    square = len(sizes) == 1 and len(set(*sizes)) == 1
    if not square or not all(name.startswith(f"{OBS_IMAGES}.") for name in shapes):
        raise ConfigError(
            expected=f"cameras {OBS_IMAGES}.<name> with square frames of one size",
            got=f"{shapes or 'no cameras'}",
            fix="Use a policy that was trained on frames of `lary data to-lerobot`.",
        )
    return LarySimEnv(
        task=config.tasks[0], cameras=[name.removeprefix(f"{OBS_IMAGES}.") for name in shapes],
        image_px=sizes.pop()[0], device=device, looks=config.looks, randomisation=config.rollout_level,
    )  # fmt: skip


def _scores(
    config: RunConfig, checkpoint: Path, policy: PreTrainedPolicy, episodes: Sequence[EpisodeResult],
    embodiment: str, seconds: float,
) -> tuple[Score, ...]:  # fmt: skip
    encoder: Any = getattr(policy.config, "encoder", None)
    rows = success_scores(
        episodes, encoder=getattr(encoder, "name", "-"), head=policy.config.type, embodiment=embodiment,
        task=config.tasks[0], mode="policy", target=getattr(policy.config, "action_mode", "absolute"),
        split=split_label(config.rollout_level, episodes), seed=config.seed, protocol=config.protocol,
        fingerprint=file_digest(checkpoint / "model.safetensors")[:16], seconds=seconds,
    )  # fmt: skip
    return tuple(rows)


def _write(
    folder: Path, config: RunConfig, checkpoint: Path, device: str, scores: Sequence[Score],
    episodes: Sequence[EpisodeResult],
) -> None:  # fmt: skip
    facts = machine_facts(device, available_cores(), str(config.seed), config.protocol)
    rows = [score.to_dict() for score in scores]
    result = {"checkpoint": str(checkpoint), "environment": facts, "scores": rows}
    write_json(folder / "rollout.json", {**result, "episodes": [asdict(e) for e in episodes]})
