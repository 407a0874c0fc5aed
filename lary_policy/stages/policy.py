"""`lary policy`: settings of the command line to a checkpoint; LeRobot is imported when they are right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lary_policy.compose import compose, settings_text


def main(verb: str, arguments: Sequence[str]) -> int:
    """Run the verb and return the exit code.

    Raises:
        LaryPolicyError: Anything wrong with names, settings, weights or the probe.
    """
    if any(a in ("-h", "--help") for a in arguments):
        print(settings_text(verb))  # noqa: T201
        return 0
    raw = compose(verb, [*arguments, *of_probe(arguments)])
    options: dict[str, Any] = {name: raw.pop(name) for name in ("n_action_steps", "save_encoder")}
    paths = {name: raw.pop(name) for name in ("head_from", "out")}
    options |= {name: None if value is None else Path(value) for name, value in paths.items()}
    from lary_policy.stages.config import suite_config
    from lary_policy.stages.context import RunContext

    context = RunContext.create(suite_config(raw))
    from lary_policy.stages.policy_export import export_policy

    done = export_policy(context, **options)
    print(f"{done.folder}: {done.size_mb:.1f} MB of weights\n\n{done.command}")  # noqa: T201
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
