"""Statistics of actions from a file, `statistics=<file>`: of `lary data statistics` or the reference."""

from __future__ import annotations

from typing import Any

from lary_policy.actions import RobotStatistics, Scaling, Unknown, load_embodiment, target_embodiment
from lary_policy.data.larybench import NO_COLUMN, read_statistics
from lary_policy.errors import ConfigError, EmbodimentError
from lary_policy.stages.cells import digest
from lary_policy.stages.source_config import SourceConfig
from lary_policy.stages.source_data import SourceContext, SourceData

# Which of the targets the two kinds of files are of; the reference has no statistics of others.
RELATIVE = {"absolute": False, "displacement": True}


def given_scaling(config: SourceConfig, data: SourceData, target: str) -> Scaling | None:
    """Return the statistics that the run was given, or None if it was given none.

    Rows of unknown robot types are treated as everywhere: under `lary` they stay as they are, under `native`
    they are an error or pooled.

    Raises:
        EmbodimentError: The file is missing, damaged, or of another dataset, target or action layout.
    """
    path, embodiment = config.statistics, data.spec.embodiment
    if path is None or embodiment is None:
        return None
    if target not in RELATIVE:
        raise EmbodimentError(
            expected=f"a target that statistics files are of: {', '.join(RELATIVE)}",
            got=f"target {target} with statistics={path}",
            fix="Pass targets=[absolute], or leave statistics out to take those of the training split.",
        )
    unknown: Unknown = "identity" if data.protocol == "lary" else config.unknown_robots  # type: ignore[assignment]
    found = read_statistics(
        path,
        dataset=data.spec.key,
        action_dim=target_embodiment(load_embodiment(embodiment), config.rotation).action_dim,
        unknown=unknown,
        relative=RELATIVE[target],
    )
    if set(found.robots) == {NO_COLUMN}:
        return Scaling(RobotStatistics({"": found.everything}, found.everything), False, f"file {path.name}")
    return Scaling(found, True, f"file {path.name}, each robot ({unknown})")


def check_statistics(context: SourceContext) -> None:
    """Raise before anything is computed unless the given statistics fit all sources and targets of a run.

    Raises:
        EmbodimentError: See `given_scaling`.
        ConfigError: No source of the run has actions.
    """
    config = context.config
    if config.statistics is None:
        return
    with_actions = [data for data in context.data if data.kind == "actions"]
    if not with_actions:
        raise ConfigError(
            expected="a source with actions for statistics=<file>",
            got=", ".join(config.keys),
            fix="Leave statistics out.",
        )
    for data in with_actions:
        for target in config.targets_for(data.protocol):
            given_scaling(config, data, target)


def statistics_key(config: SourceConfig) -> tuple[Any, ...]:
    """Return what a probe's result also depends on: the numbers in the file, not where it lies."""
    if config.statistics is None:
        return ()
    return (digest(config.statistics.read_text(encoding="utf-8")),)
