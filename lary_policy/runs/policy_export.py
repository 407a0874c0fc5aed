"""The head of a finished probe becomes a checkpoint that LeRobot's own commands load."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lerobot.configs import FeatureType, PolicyFeature
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from lary_policy.data.simulated import FIRST_SEED, GOALS
from lary_policy.errors import ConfigError
from lary_policy.heads import HeadMeta, load_meta
from lary_policy.paths import safe_name
from lary_policy.policy import (
    EncoderConfig,
    LaryConfig,
    LaryPolicy,
    local_card,
    make_lary_pre_post_processors,
)
from lary_policy.runs.collect import collected, open_task
from lary_policy.runs.context import RunContext
from lary_policy.runs.grid import Job, jobs_of
from lary_policy.runs.rollout import Loop, loops_of

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
        context: The run whose first task and encoder are meant.
        head_from: Folder of the probe; None finds the one of the run's settings.
        out: Folder to write; None names one after task and encoder.
        n_action_steps: Actions executed of each chunk; None executes all.
        save_encoder: Store the encoder's weights.

    Raises:
        ConfigError: The probe is not finished, or `out` holds something else than a checkpoint.
        HeadMismatchError: No policy can be made of the head.
    """
    c = context.config
    task, choice = c.tasks[0], c.encoders[0]
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
    size_mb = (target / "model.safetensors").stat().st_size / 1e6
    return ExportedPolicy(target, size_mb, command)


def eval_command(folder: Path, task: str, meta: HeadMeta, context: RunContext) -> str:
    """Return the command that evaluates a checkpoint as `lary rollout` evaluates its head."""
    c = context.config
    words = [
        "lerobot-eval",
        f"--policy.path={folder}",
        "--env.type=lary_sim",
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
