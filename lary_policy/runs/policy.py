"""The head of a finished probe becomes a checkpoint that LeRobot's own commands load."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from lary_envs.gym import PREFIX, GivenEnv, GymSettings, GymWorld, LarySimEnv, open_for, require_actions
from lary_policy.console import console, progress
from lary_policy.data import write_checksums
from lary_policy.data.simulated import FIRST_SEED, GOALS, seeds_of
from lary_policy.errors import ConfigError, LaryPolicyError
from lary_policy.frames import file_digest
from lary_policy.heads import HeadMeta, load_meta
from lary_policy.machine import available_cores, intra_op_threads, resolve_device
from lary_policy.paths import safe_name, write_json
from lary_policy.policy import (
    EncoderConfig,
    LaryConfig,
    LaryPolicy,
    load_policy,
    load_processors,
    local_card,
    make_lary_pre_post_processors,
    read_policy,
)
from lary_policy.rollout import FILM_PX, Film, PolicyAgent, Wave, film_speed, run_waves
from lary_policy.runs.cells import run_folder
from lary_policy.runs.collect import collected, open_task, require_single
from lary_policy.runs.config import RunConfig
from lary_policy.runs.context import RunContext, machine_facts
from lary_policy.runs.probe import Job, jobs_of
from lary_policy.runs.rollout import Loop, loops_of, split_label, success_scores
from lary_policy.scores import Score
from lary_policy.types import EpisodeResult

CONFIG = "config.json"  # marks a folder as a checkpoint of LeRobot


@dataclass(frozen=True)
class ExportedPolicy:
    """What `lary policy` wrote.

    Attributes:
        folder: The checkpoint.
        size_mb: Size of its weights.
        command: The `lerobot-eval` command that runs it on the seeds of `lary rollout`.
    """

    folder: Path
    size_mb: float
    command: str


def export_policy(
    context: RunContext,
    *,
    head_from: Path | None = None,
    out: Path | None = None,
    n_action_steps: int | None = None,
    save_encoder: bool = False,
) -> ExportedPolicy:
    """Write a LeRobot checkpoint with the head of a probe.

    Args:
        context: The run of one task and encoder.
        head_from: Folder of the probe; None finds the one of the run's settings.
        out: Folder to write; None names one after task and encoder.
        n_action_steps: Actions executed of each chunk; None executes all.
        save_encoder: Store the encoder's weights.

    Raises:
        ConfigError: Several tasks or encoders, the probe is not finished, or `out` holds something else than
            a checkpoint.
        HeadMismatchError: No policy can be made of the head.
    """
    c = context.config
    require_single(c, "a checkpoint", ("env", "encoder"))
    task, choice = c.tasks[0], c.encoders[0]
    if choice.components is not None or choice.noise is not None:
        raise ConfigError(
            expected="an encoder", got=f"the control {choice.label}", fix="Leave components and noise out."
        )
    folder = head_from or _finished_probe(context)
    meta = load_meta(folder)
    target = out or c.output_dir / "policies" / safe_name(f"{task}-{choice.name}-{meta.target}")
    _require_free(target)
    inputs, outputs = _features(meta, c.image_px)
    config = LaryConfig(
        encoder=EncoderConfig(
            name=choice.name, weights=choice.weights, preprocess=choice.preprocess,
            image_px=context.shelf.image_px(choice) if head_from is None else choice.image_px,
            dtype=context.shelf.dtype(choice), output=choice.output, seed=context.shelf.seed,
        ),
        input_features=inputs, output_features=outputs, head_from=str(folder), n_action_steps=n_action_steps,
        save_encoder=save_encoder, device=context.device, push_to_hub=False,
    )  # fmt: skip
    policy = LaryPolicy(config)
    config.scores = [*config.scores, *(_rollout_scores(context, meta) if head_from is None else [])]
    policy.save_pretrained(target)
    for processor in make_lary_pre_post_processors(config):
        processor.save_pretrained(target)
    command = eval_command(target, task, meta, context)
    local_card(config, meta.task, command).save(target / "README.md")
    write_checksums(target)
    size_mb = (target / "model.safetensors").stat().st_size / 1e6
    return ExportedPolicy(target, size_mb, command)


def eval_command(folder: Path, task: str, meta: HeadMeta, context: RunContext) -> str:
    """Return the command that evaluates a checkpoint as `lary rollout` evaluates its head."""
    c = context.config
    words = [
        "lerobot-eval",
        f"--policy.path={folder}",
        f"--env.type=lary_{task.rpartition('/')[0] or 'sim'}",  # of a family of tasks, or ours
        f"--env.task={task}",
        f"--env.cameras={json.dumps(list(meta.cameras))}",
        f"--env.image_px={c.image_px}",
        f"--eval.n_episodes={c.episodes}",
        f"--eval.batch_size={min(c.num_worlds, c.episodes)}",
        f"--seed={FIRST_SEED[GOALS]}",
    ]
    options = {"looks": (c.looks, "primitives"), "randomisation": (c.rollout_level, "none")}
    words += [f"--env.{name}={value}" for name, (value, usual) in options.items() if value != usual]
    return shlex.join(words)


def _finished_probe(context: RunContext) -> Path:
    """Return the folder of the policy probe of the run's settings.

    Raises:
        ConfigError: There is none, or it is not finished.
    """
    c, job = context.config, _job(context)
    cell = None if job is None else job.cell(context)
    if cell is None or not cell.done:
        raise ConfigError(
            expected=f"a finished probe of mode policy under {context.cache}",
            got="none of these settings",
            fix=f"Run `lary probe env={c.tasks[0]} encoder={c.encoders[0].name}` with the same settings, "
            "or pass head_from=<folder of a probe>.",
        )
    return cell.folder


def _job(context: RunContext) -> Job | None:
    """Return the probe of mode policy that the closed loop uses, or the first one; None without data.

    Raises:
        ConfigError: The settings have no such probe.
    """
    c = context.config
    asked = [probe for probe in c.asked if probe.mode == "policy"]
    if not asked:
        raise ConfigError(
            expected="a probe of mode policy among the settings",
            got=", ".join(f"{p.mode}/{p.target}" for p in c.asked) or "no probes",
            fix="Pass probes=[{mode: policy, target: relative, head: mlp-small, proprio: true}].",
        )
    if not collected(context, c.tasks[0]):
        return None
    data = open_task(context, c.tasks[0])
    jobs = [j for j in jobs_of(context, data, c.encoders[0]) if j.probe.mode == "policy"]
    driven = [j for j in jobs if any(loop.uses(j.probe) for loop in c.loops)]
    return (driven or jobs)[0]


def _rollout_scores(context: RunContext, meta: HeadMeta) -> list[dict[str, Any]]:
    """Return the scores of the finished closed loop of the same head, if there is one."""
    job = _job(context)
    if job is None or job.probe.target != meta.target:
        return []
    key = job.cell(context).key

    def same(loop: Loop) -> bool:
        return loop.job is not None and not loop.random and loop.job.cell(context).key == key

    cells = [loop.cell(context) for loop in loops_of(context, job.data) if same(loop)]
    return [score for cell in cells if cell.done for score in cell.result()["scores"]]


def _features(meta: HeadMeta, image_px: int) -> tuple[dict[str, PolicyFeature], dict[str, PolicyFeature]]:
    image = PolicyFeature(FeatureType.VISUAL, (3, image_px, image_px))
    size = (meta.action_dim,)
    inputs = {f"{OBS_IMAGES}.{camera}": image for camera in meta.cameras}
    # A relative head needs the state to be relative to, even if it does not see it.
    inputs[OBS_STATE] = PolicyFeature(FeatureType.STATE, size)
    return inputs, {ACTION: PolicyFeature(FeatureType.ACTION, size)}


def _require_free(folder: Path) -> None:
    if folder.exists() and not (folder / CONFIG).is_file() and any(folder.iterdir()):
        raise ConfigError(
            expected=f"an empty folder, or an earlier checkpoint, in {folder}",
            got="other files",
            fix="Pass out=<a new folder>.",
        )


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


def rollout_policy(config: RunConfig, checkpoint: Path, gym: GymSettings | None = None) -> PolicyRollout:
    """Run a checkpoint on the task of a run, from the initial states that every rollout starts from.

    Cameras and frame size are the policy's; action layout, rate and statistics are compared with the task's
    before the first episode, as `lerobot-eval --env.type=lary_sim` does.

    Args:
        config: Task, episodes, worlds, device, looks, randomisation and output folder; cameras of `gym:...`.
        checkpoint: Folder of a LeRobot checkpoint (`.../pretrained_model`).
        gym: How the environment of a task `gym:<id>` is read.

    Raises:
        ConfigError: Several tasks, a folder that is no checkpoint, or cameras not square or not the task's.
        EmbodimentError: The policy is of another embodiment or control rate.
        WeightsMismatchError: The encoder is not the one the policy was trained with.
    """
    require_single(config, "a policy")
    # An environment may change the working directory.
    config = replace(config, output_dir=config.output_dir.absolute())
    device = resolve_device(config.device)
    described = read_policy(checkpoint, device)
    seeds = seeds_of(GOALS, config.episodes)
    worlds = min(config.num_worlds, len(seeds))
    env_config, opened, stage = _staged(config, described, device, worlds, gym or GymSettings())
    policy = load_policy(described, checkpoint, env_config)
    before, after = load_processors(described, checkpoint)
    folder = run_folder(config.output_dir, config.run, "rollout")
    env = opened(folder / "diverged")
    controller = env.controller()
    film = Film(folder / "episodes.mp4")
    film.restart()  # of an earlier rollout into a folder of this name

    def prepare(batch: Sequence[int]) -> Wave:
        agent = partial(
            PolicyAgent, policy, before, after, list(described.image_features), env.instruction,
            threads=available_cores(), seeds=batch if config.batch_invariant else None,
        )  # fmt: skip
        return Wave(agent, [None] * len(batch))

    started = time.perf_counter()
    try:
        with progress(f"rollout {config.tasks[0]}-{described.type}") as update, intra_op_threads(1):
            episodes = run_waves(
                env, controller, prepare, seeds, max_steps=config.episode_steps(env.max_steps),
                film=film if config.films else None,
                stop_at_success=config.stop_at_success, on_progress=update,
            )  # fmt: skip
    finally:
        env.close()
    scores = _scores(config, checkpoint, policy, episodes, env.task.embodiment, time.perf_counter() - started)
    _write(folder, config, checkpoint, device, scores, episodes, env.task.packages)
    if config.films:
        try:
            with progress(f"film, at {film_speed(env.control_hz):g} x real time") as update:
                film.shoot(episodes, stage, update)
        except LaryPolicyError as error:  # worlds that others made need not open twice
            console.print(f"    no film: {error}", soft_wrap=True, markup=False)
            film.restart()
    write_checksums(folder)
    return PolicyRollout(folder, scores, episodes)


def _staged(
    config: RunConfig, policy: PreTrainedConfig, device: str, worlds: int, gym: GymSettings
) -> tuple[LarySimEnv | GivenEnv, Callable[[Path], Any], Callable[[int], Any]]:
    """Return what LeRobot is told of the worlds, what opens them, and what opens as many for a film."""
    from lary_envs import open_world, task_spec

    task = config.tasks[0]
    if task.startswith(PREFIX):
        env, given = open_for(policy, task, worlds, config.cameras or (), gym)
        return given, lambda _: env, partial(GymWorld, task, cameras=env.cameras[:1], settings=gym)
    shown = _env_config(config, policy, device)
    stage = partial(
        open_world, task, render_device=device, looks=config.looks, randomisation=config.rollout_level
    )
    seen = {"cameras": shown.cameras, "image_px": shown.image_px}
    overview = (task_spec(task).film_camera,)
    return (
        shown,
        lambda folder: stage(worlds, guard_folder=folder, **seen),
        partial(stage, cameras=overview, image_px=FILM_PX),
    )


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
    from lary_envs import task_spec

    task = config.tasks[0]
    env = LarySimEnv(
        task=task, fps=round(task_spec(task).control_hz),
        cameras=[name.removeprefix(f"{OBS_IMAGES}.") for name in shapes], image_px=sizes.pop()[0],
        device=device, looks=config.looks, randomisation=config.rollout_level,
    )  # fmt: skip
    require_actions(policy, env.features[ACTION].shape[0], task)
    return env


def _scores(
    config: RunConfig, checkpoint: Path, policy: PreTrainedPolicy, episodes: Sequence[EpisodeResult],
    embodiment: str, seconds: float,
) -> tuple[Score, ...]:  # fmt: skip
    encoder: Any = getattr(policy.config, "encoder", None)
    rows = success_scores(
        episodes, encoder=getattr(encoder, "name", "-"), head=policy.config.type, embodiment=embodiment,
        task=config.tasks[0], mode="policy", target=getattr(policy.config, "action_mode", "absolute"),
        split=split_label(config.rollout_level, [e.seed for e in episodes]),
        seed=config.seed, protocol=config.protocol,
        fingerprint=file_digest(checkpoint / "model.safetensors")[:16], seconds=seconds,
    )  # fmt: skip
    return tuple(rows)


def _write(
    folder: Path, config: RunConfig, checkpoint: Path, device: str, scores: Sequence[Score],
    episodes: Sequence[EpisodeResult], packages: Sequence[str],
) -> None:  # fmt: skip
    facts = machine_facts(device, available_cores(), str(config.seed), config.protocol, packages)
    rows = [score.to_dict() for score in scores]
    result = {"checkpoint": str(checkpoint), "environment": facts, "scores": rows}
    write_json(folder / "rollout.json", {**result, "episodes": [asdict(e) for e in episodes]}, seal=True)
