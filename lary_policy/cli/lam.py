"""`lary lam`: train a latent action model on any frames; what comes out is an encoder like any other."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lary_policy.cli.compose import compose, read_group, wants_help
from lary_policy.cli.help import run_help
from lary_policy.cli.run import run_sweep, wants_sweep
from lary_policy.console import busy
from lary_policy.errors import ConfigError
from lary_policy.machine import is_main_process, require_one_process
from lary_policy.paths import choices

if TYPE_CHECKING:
    from lary_policy.encoders import EncoderView
    from lary_policy.runs import LamOutcome

OWN = (
    ("backbone", "dinov2-small", "frozen encoder whose features it sees, {name: x, layer: 6}; pixels = none"),
    ("videos", "null", "folder of plain videos, in place of tasks or a source"),
    (
        "lam",
        "null",
        f"published sizes and recipe, one of {', '.join(choices('lam'))}; null = for two cores",
    ),
)
# What suites have for encoders, heads and closed loops, none of which there is here.
ABSENT = (
    "encoder", "encoders", "head", "heads", "probes", "targets", "attention", "seeds", "rollouts", "episodes",
    "stop_when_decided", "num_worlds", "rollout_randomisation", "stop_at_success", "batch_invariant",
    "max_episode_steps", "films",
)  # fmt: skip


# What tasks and sources of files have, and plain videos have not.
OF_SOURCES = (
    "tasks", "source", "sources", "data_dir", "options", "cameras", "stride", "demos", "looks",
    "randomisation", "protocol", "rotation", "unknown_robots", "statistics",
)  # fmt: skip


def main(verb: str, arguments: Sequence[str]) -> int:
    """Run the verb and return the exit code.

    Raises:
        LaryPolicyError: Anything wrong with names, settings, weights, frames, or the training itself.
    """
    if wants_help(arguments):
        print(run_help(verb, arguments, [*OWN, *_rows()], ABSENT))
        return 0
    with busy("lary lam"):
        if wants_sweep(arguments):
            require_one_process("a sweep")
            return run_sweep(verb, arguments)
        folder = train_one(arguments)
    if is_main_process():
        print(folder)
    return 0


def _rows() -> list[tuple[str, str, str]]:
    from lary_policy.lam import LamConfig

    return [
        (one.name, str("null" if one.default is None else one.default), one.metadata["text"])
        for one in dataclasses.fields(LamConfig)
    ]


def train_one(arguments: Sequence[str], run: str | None = None) -> Path:
    """Train one model and return its folder.

    Args:
        arguments: Settings as typed.
        run: Name of the folder, whatever the settings say.

    Raises:
        LaryPolicyError: As of `main`.
    """
    from lary_policy.cli.data import decoded
    from lary_policy.encoders import EncoderView
    from lary_policy.lam import LamConfig, lam_kind
    from lary_policy.runs import run_config, run_lam

    names = [one.name for one in dataclasses.fields(LamConfig)]
    _require_known(arguments)
    raw = compose("lam", arguments, extra=[*names, *(name for name, _, _ in OWN)])
    chosen = raw.pop("lam", None)
    given: Mapping[str, Any] = {
        **({} if chosen is None else read_group("lam", str(chosen))),
        **{name: raw.pop(name) for name in names if name in raw},
    }
    backbone = EncoderView.of(raw.pop("backbone", "dinov2-small"))
    videos = raw.pop("videos", None)
    _require_read(arguments, backbone, videos is not None)
    raw["run"] = run or raw.get("run")
    lam = decoded(LamConfig, dict(given))
    config = run_config(raw)
    done = run_lam(config, lam, backbone, None if videos is None else Path(str(videos)))
    if is_main_process():
        seen = () if videos is not None else config.tasks
        last = done.history[-1]
        print(
            f"held-out error {last.error:.4g}, copying the earlier frame {last.copied:.4g} "
            f"({last.compared}); {last.used} codes used, perplexity {last.perplexity:.1f}\n"
            f"use it: lary suite {_both(backbone, done, seen, config.image_px)}"
        )
        if lam_kind(lam.model).stages and lam.stage_one is None:
            print(f"or go on: the same settings with stage_one={done.folder} train what the robot did of it")
    return done.folder


def _both(backbone: EncoderView, done: LamOutcome, tasks: Sequence[str], image_px: int) -> str:
    """Return the settings, as a shell takes them, that put the model beside what it was trained on."""
    usual, names = type(backbone)(backbone.name), ("weights", "layer", "image_px")
    told = {n: getattr(backbone, n) for n in names if getattr(backbone, n) != getattr(usual, n)}
    views = ({"name": backbone.name, **told}, {"name": done.encoder, "weights": str(done.folder)})
    words = [f"encoders=[{','.join(map(_typed, views))}]"]
    if tasks:  # the questions of configs/suite/lam.yaml, at the size that the model was trained at
        words = ["suite=lam", f"tasks=[{','.join(tasks)}]", f"image_px={image_px}", *words]
    return shlex.join(words)


def _typed(view: Mapping[str, Any]) -> str:
    """Return a view as it is typed, with quotes where a value needs them."""
    words = {k: str(v) if re.fullmatch(r"[\w./+-]+", str(v)) else json.dumps(str(v)) for k, v in view.items()}
    return words["name"] if len(words) == 1 else f"{{{', '.join(f'{k}: {v}' for k, v in words.items())}}}"


def _require_known(arguments: Sequence[str]) -> None:
    """Refuse settings that would count for nothing.

    Raises:
        ConfigError: One is given.
    """
    given = [word.lstrip("+~").partition("=")[0] for word in arguments]
    absent = [key for key in given if key.partition(".")[0] in ABSENT]
    if absent:
        views = any(key.startswith("encoder") for key in absent)
        raise ConfigError(
            expected="settings that `lary lam --help` lists",
            got=", ".join(absent),
            fix="Name the frozen encoder with backbone=." if views else "Leave them out.",
        )


def _require_read(arguments: Sequence[str], backbone: EncoderView, videos: bool) -> None:
    """Refuse settings of other frames than those that are read.

    Raises:
        ConfigError: One is given.
    """
    given = [word.lstrip("+~").partition("=")[0].partition(".")[0] for word in arguments]
    if videos and (unread := [key for key in given if key in OF_SOURCES]):
        raise ConfigError(
            expected="videos=, or tasks or a source",
            got=f"videos and {', '.join(unread)}",
            fix="Leave out videos or the others.",
        )
    if "image_px" in given and "source" in given and "tasks" not in given:
        value = next(word.partition("=")[2] for word in arguments if word.startswith("image_px="))
        raise ConfigError(
            expected="image_px of the backbone: a source's frames have the size that they have",
            got=f"image_px={value}",
            fix=f"Pass 'backbone={{name: {backbone.name}, image_px: {value}}}'.",
        )
