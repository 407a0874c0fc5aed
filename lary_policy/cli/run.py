"""`lary suite|data|extract|probe|rollout|report`: verbs that run stages, on tasks or on files."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lary_policy.cli.compose import compose, typed, wants_help
from lary_policy.cli.help import run_help
from lary_policy.cli.predict import points_of
from lary_policy.console import busy, console
from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.machine import is_main_process, require_one_process, uncollected
from lary_policy.paths import safe_name

FLAGS = ("--multirun", "-m")
_LONGEST = 120  # letters of the name of a job's folder: its number comes first


def wants_sweep(arguments: Sequence[str]) -> bool:
    """Tell whether the arguments ask for a sweep."""
    return any(argument in FLAGS for argument in arguments)


def run_sweep(verb: str, arguments: Sequence[str]) -> int:
    """Run a verb for every combination of the comma-separated settings; finished cells are not run again.

    Args:
        verb: One that runs stages.
        arguments: As typed; `hydra/launcher=...` and other settings of Hydra pass through.

    Raises:
        ConfigError: A setting cannot be parsed.
        LaryPolicyError: A job found something wrong.
    """
    import hydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    folder = next((a.partition("=")[2] for a in arguments if a.startswith("output_dir=")), "outputs")
    own = [f"hydra.sweep.dir={Path(folder)}/sweeps/${{now:%Y%m%d-%H%M%S}}", f"++verb={verb}"]
    # Hydra only multiplies the settings out: what they mean is decided by `compose`, for each job.
    words = [a if a.startswith("hydra") else f"++{a.lstrip('+')}" for a in arguments if a not in FLAGS]
    before = sys.argv
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come back as they are instead of as a traceback and exit
    try:
        found = OverridesParser.create().parse_overrides(words)
        swept = ",".join(one.key_or_group for one in found if one.is_sweep_override())
        sys.argv = ["lary", *words, *own, f"++swept=[{swept}]", "--multirun"]
        hydra.main(version_base="1.3", config_path=None)(run_job)()
    except HydraException as error:
        raise ConfigError(
            expected=f"settings that `lary {verb} --help` lists, values with commas between",
            got=str(error).strip().splitlines()[0],
            fix=f"Example: lary {verb} --multirun encoder=pixels,dinov2-small seed=0,1",
        ) from error
    finally:
        sys.argv = before
    return 0


def run_job(config: Any) -> str:
    """Run one combination and return where its results are. Launchers may call it on another machine."""
    from hydra.core.hydra_config import HydraConfig

    job = HydraConfig.get()
    words = [word.removeprefix("++") for word in job.overrides.task]
    verb, swept = (next(w[len(k) :] for w in words if w.startswith(k)) for k in ("verb=", "swept="))
    rest = [word for word in words if not word.startswith(("verb=", "swept="))]
    own = (word for word in rest if word.partition("=")[0] in swept.strip("[]").split(","))
    run = safe_name("-".join((Path(job.sweep.dir).name, f"{job.job.num:03d}", *own)))[:_LONGEST].rstrip("-.")
    if verb == "lam":
        from lary_policy.cli.lam import train_one

        return str(train_one(rest, run=run))
    return str(run_verb(verb, rest, run=run))


ON_FILES = ("suite", "extract", "probe", "report")
_POLICY = ("policy", "null", "rollout: folder of a LeRobot checkpoint of any type, with its own cameras")

_POINTS = (
    "points",
    "null",
    "files points.jsonl.gz of several runs, e.g. [a.jsonl.gz,b.jsonl.gz]: one page of all",
)

_TRUST = (
    "trust",
    "null",
    "without other settings: own encoders of runs that are not installed, [my_pkg.my_vit:MyViT]",
)


def main(verb: str, arguments: Sequence[str]) -> int:
    """Run a verb and return the exit code.

    Raises:
        LaryPolicyError: Anything wrong with names, settings, weights or data.
    """
    if wants_help(arguments):
        further = rollout_settings() if verb == "rollout" else [_POINTS, _TRUST] if verb == "report" else []
        print(run_help(verb, arguments, further))
        return 0
    with busy(f"lary {verb}"):  # imports alone may take half a minute on a machine with other work
        if wants_sweep(arguments):
            require_one_process("a sweep (lists such as encoders=[...] and seeds=[...] need none)")
            return run_sweep(verb, arguments)
        outcome = run_verb(verb, arguments)
    if outcome is not None and is_main_process():
        print(outcome)
    return 0


def run_verb(verb: str, arguments: Sequence[str], run: str | None = None) -> Path | None:
    """Run a verb once and return where its results are; None where it printed them.

    Args:
        verb: As typed.
        arguments: Settings as typed.
        run: Name of the run's folder, whatever the settings say.

    Raises:
        LaryPolicyError: Anything wrong with names, settings, weights or data.
    """
    if verb == "report" and all(word.startswith(("output_dir=", "run=", "trust=")) for word in arguments):
        from lary_policy.runs import report_everything

        told = typed(arguments, ("output_dir", "run", "trust"))
        trust = told.get("trust", ())
        names = [str(one) for one in (trust if isinstance(trust, list) else [trust])] if trust else []
        return report_everything(Path(told.get("output_dir", "outputs")), run or told.get("run"), names)
    if verb == "report" and any(word.startswith("points=") for word in arguments):
        return _report_points(typed(arguments, ("points", "output_dir", "run")))
    own = [name for name, _, _ in rollout_settings()] if verb == "rollout" else []
    with uncollected():
        raw = compose(verb, arguments, extra=own)
    gym = {name: raw.pop(name) for name in own[1:] if name in raw}
    policy = raw.pop("policy", None)
    if policy is not None:  # said before imports that take half a minute
        from lary_policy.policy import require_checkpoint

        require_checkpoint(Path(policy))
    raw["run"] = run or raw.get("run")  # each job of a sweep has a folder of its own
    with uncollected():
        from lary_policy.runs import run_config, run_suite

    config = run_config(raw)
    if policy is not None:
        return _roll_out_policy(config, Path(policy), gym)
    _require_ours(config, gym)
    if not config.tasks and verb not in ON_FILES:
        raise UnknownNameError("verb on a source of files", verb, ON_FILES)
    until = "report" if verb in ("suite", "report") else verb
    outcome = run_suite(config, until=until, verb=verb, finished_only=verb == "report")
    if is_main_process():
        _print_outcome(outcome)
    return outcome.report or outcome.folder


def rollout_settings() -> list[tuple[str, str, str]]:
    """Return name, default and meaning of the settings that `lary rollout` alone has."""
    from lary_envs.gym import GymSettings

    rows = [_POLICY]
    for one in dataclasses.fields(GymSettings):
        default = "{}" if one.default is dataclasses.MISSING else one.default or "null"
        rows.append((one.name, str(default), one.metadata["text"]))
    return rows


def _require_ours(config: Any, gym: Mapping[str, Any]) -> None:
    """Raise ConfigError where anything but a policy is asked to act in a gymnasium environment."""
    from lary_envs.gym import PREFIX

    foreign = [task for task in config.tasks if task.startswith(PREFIX)]
    if foreign or gym:
        raise ConfigError(
            expected=f"`lary rollout policy=<checkpoint> env={PREFIX}<id>`: it has no demonstrations",
            got=", ".join([*(f"env={task}" for task in foreign), *gym]),
            fix="Pass policy=<folder of a LeRobot checkpoint> to lary rollout.",
        )


def _report_points(given: dict[str, Any]) -> Path:
    """Write a page of the points of other runs."""
    from lary_policy.runs import report_points

    name = given.get("run")
    return report_points(points_of(given["points"]), Path(given.get("output_dir", "outputs")), name)


def _roll_out_policy(config: Any, checkpoint: Path, gym: Mapping[str, Any]) -> Path:
    """Run a LeRobot checkpoint in the closed loop and print its rates of success."""
    require_one_process("`lary rollout policy=<folder>`")
    if config.workers > 1:
        raise ConfigError(
            expected="workers=1 for a policy, which may draw what it does from one episode to the next",
            got=f"workers={config.workers}",
            fix="Leave workers out: num_worlds episodes run side by side.",
        )
    from lary_envs.gym import PREFIX, GymSettings
    from lary_policy.cli.data import decoded
    from lary_policy.runs import rollout_policy
    from lary_policy.scores import format_score

    if gym and not config.tasks[0].startswith(PREFIX):
        raise ConfigError(
            expected=f"env={PREFIX}<id> for {', '.join(gym)}",
            got=f"env={config.tasks[0]}",
            fix=f"Leave them out, or name one of gymnasium's: env={PREFIX}<id>, env={PREFIX}<module>:<id>.",
        )
    done = rollout_policy(config, checkpoint, decoded(GymSettings, dict(gym)))
    for score in done.scores:
        print(f"{score.task}: {score.metric} {format_score(score)} of {score.n} episodes")
    return done.folder


def _print_outcome(outcome: Any) -> None:
    """Print the scores, best encoder first, what their heads are called in settings, and seconds."""
    from lary_policy.heads import list_head_configs, load_head_config
    from lary_policy.runs import score_lines

    scores = outcome.results.scores()
    console.print()
    for line in score_lines(scores):
        console.print(line, markup=False, soft_wrap=True)
    names: dict[str, list[str]] = {score.head: [] for score in scores}
    for name in list_head_configs():
        names.get(load_head_config(name).label, []).append(f"head={name}")
    same = [f"{label} is {' or '.join(typed)}" for label, typed in names.items() if typed]
    if same:
        console.print(f"\n{', '.join(same)}", markup=False, soft_wrap=True)
    now = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in outcome.stage_seconds.items())
    console.print(f"\nseconds of this run: {now}", soft_wrap=True)
    computed = outcome.results.stage_seconds().items()
    before = ", ".join(f"{k} {v:.1f}" for k, v in computed if v and k in outcome.stage_seconds)
    console.print(f"seconds of its cells, whenever they were computed: {before}", soft_wrap=True)
