"""`lary policy`: settings of the command line to a checkpoint; LeRobot is imported when they are right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lary_policy.cli.compose import compose, wants_help
from lary_policy.cli.help import run_help
from lary_policy.console import busy
from lary_policy.errors import ConfigError

# Name, default and meaning of what this verb has besides the settings that its probe is found by.
OWN = (
    ("head_from", "null", "folder with head.json and head.safetensors; null = the probe of these settings"),
    ("n_action_steps", "null", "actions executed of each chunk before the next plan; null = all"),
    ("save_encoder", "false", "true stores the encoder's weights; else name, revision and hash"),
    ("out", "null", "folder of the checkpoint; null = <output_dir>/policies/<task>-<encoder>-<target>"),
)


@busy("lary policy")
def main(verb: str, arguments: Sequence[str]) -> int:
    """Run the verb and return the exit code.

    Raises:
        LaryPolicyError: Anything wrong with names, settings, weights or the probe.
    """
    if wants_help(arguments):
        print(run_help(verb, arguments, OWN))
        return 0
    raw = compose(verb, [*arguments, *of_probe(arguments)], extra=[name for name, _, _ in OWN])
    own: dict[str, Any] = {name: raw.pop(name, None) for name, _, _ in OWN}
    paths = {name: None if own[name] is None else Path(own[name]) for name in ("head_from", "out")}
    from lary_policy.runs import RunContext, run_config

    config = run_config(raw)
    if not config.tasks:
        raise ConfigError(expected="env=<task>", got=f"source={config.source}", fix="Leave source out.")
    context = RunContext.create(config, until="probe")
    from lary_policy.runs import export_policy

    done = export_policy(
        context, n_action_steps=own["n_action_steps"], save_encoder=bool(own["save_encoder"]), **paths
    )
    print(f"{done.folder}: {done.size_mb:.1f} MB of weights\n\n{done.command}")
    return 0


def of_probe(arguments: Sequence[str]) -> list[str]:
    """Return what a probe named by `head_from=<folder>` says and the command line does not: task, encoder.

    Raises:
        HeadMismatchError: The folder holds no head.
    """
    given = dict(a.partition("=")[::2] for a in arguments)
    folder = given.get("head_from", "null")
    if folder == "null":
        return []
    from lary_policy.heads import load_meta
    from lary_policy.policy import require_consent

    meta = load_meta(Path(folder))
    known = {"env": meta.task, "encoder": require_consent(meta.encoder)}
    return [f"{name}={value}" for name, value in known.items() if name not in given]
