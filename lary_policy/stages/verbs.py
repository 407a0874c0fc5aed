"""The verbs of the command line that run stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lary_policy.compose import compose, settings_text
from lary_policy.errors import UnknownNameError
from lary_policy.machine import is_main_process, require_one_process
from lary_policy.stages.sweep import run_sweep, wants_sweep

if TYPE_CHECKING:
    from lary_policy.stages.config import SuiteConfig

SOURCE_VERBS = ("suite", "extract", "probe", "report")
DATA_ACTIONS = ("verify", "indices", "prepare", "statistics", "import", "to-lerobot", "from-lerobot")


def main(verb: str, arguments: Sequence[str]) -> int:
    """Run a verb and return the exit code.

    Raises:
        LaryPolicyError: Anything wrong with names, settings, weights or data.
    """
    action = next((a for a in arguments if "=" not in a and not a.startswith("-")), None)
    name = verb
    if verb == "data" and action is not None:
        if action not in DATA_ACTIONS:
            raise UnknownNameError("action of `lary data`", action, DATA_ACTIONS)
        name = f"data_{action.replace('-', '_')}"
    if _names_source(arguments) and name == verb:
        name = "suite_source"
    if any(a in ("-h", "--help") for a in arguments):
        print(settings_text(name))  # noqa: T201
        return 0
    if action is not None and verb == "data":
        return _data_action(str(action), [a for a in arguments if a != action])
    return _run(verb, arguments)


def _run(verb: str, arguments: Sequence[str]) -> int:
    if _names_source(arguments):
        return _run_on_source(verb, arguments)
    require_one_process(f"`lary {verb}` on simulated demonstrations")
    raw = compose(verb, arguments)  # names and settings are checked before the slow imports
    policy = raw.pop("policy", None)
    from lary_policy.stages.config import suite_config

    config = suite_config(raw)
    if policy is not None:
        return _roll_out_policy(config, Path(policy))
    from lary_policy.stages.suite import print_outcome, run_suite

    until = "report" if verb in ("suite", "report") else verb
    outcome = run_suite(config, until=until, verb=verb, finished_only=verb == "report")
    print_outcome(outcome)
    print(outcome.report or outcome.folder)  # noqa: T201
    return 0


def _roll_out_policy(config: SuiteConfig, checkpoint: Path) -> int:
    """Run a LeRobot checkpoint in the closed loop and print its rates of success."""
    from lary_policy.scores import format_score
    from lary_policy.stages.policy_rollout import rollout_policy

    done = rollout_policy(config, checkpoint)
    for score in done.scores:
        print(f"{score.task}: {score.metric} {format_score(score)} of {score.n} episodes")  # noqa: T201
    print(done.folder)  # noqa: T201
    return 0


def _names_source(arguments: Sequence[str]) -> bool:
    return any(a.partition("=")[0] == "source" for a in arguments)


def _run_on_source(verb: str, arguments: Sequence[str]) -> int:
    """Run a verb on the files of a source instead of on simulated demonstrations."""
    if verb not in SOURCE_VERBS:
        raise UnknownNameError("verb on a source of files", verb, SOURCE_VERBS)
    if wants_sweep(arguments):
        require_one_process("a sweep (lists such as sources=[...] and seeds=[...] need none)")
        return run_sweep(verb, arguments)
    raw = compose("suite_source", arguments)
    from lary_policy.stages.source_config import source_config

    config = source_config(raw)
    from lary_policy.stages.source_suite import run_source_suite
    from lary_policy.stages.suite import print_outcome

    until = "report" if verb in ("suite", "report") else verb
    outcome = run_source_suite(config, until=until, verb=verb, finished_only=verb == "report")
    if is_main_process():
        print_outcome(outcome)
        print(outcome.report or outcome.folder)  # noqa: T201
    return 0


def _data_action(action: str, arguments: Sequence[str]) -> int:
    """Run an action of `lary data`; 1 if anything is wrong or was left out."""
    require_one_process(f"`lary data {action}`")
    sources = [a.partition("=")[2] for a in arguments if a.startswith("source=")]
    rest = [a for a in arguments if not a.startswith("source=")]
    if action == "verify" and not sources and not any(a.startswith("data_dir=") for a in rest):
        raw = compose("data_verify", rest)
        from lary_policy.stages.verify import verify_outputs

        limits = {"workers": raw["workers"], "timeout_s": raw["timeout_s"]}
        return 0 if verify_outputs(Path(raw["output_dir"]), **limits) else 1
    settings = compose(f"data_{action.replace('-', '_')}", rest)
    from lary_policy.stages.data_verbs import run_data_action

    return 0 if run_data_action(action, sources[-1] if sources else None, settings) else 1
