"""Statistics of actions from a file, `statistics=<file>`: of `lary data statistics` or the reference."""

from __future__ import annotations

from lary_policy.actions import RobotStatistics, Scaling, Unknown, load_embodiment, target_embodiment
from lary_policy.data.larybench import NO_COLUMN, read_statistics
from lary_policy.errors import ConfigError, EmbodimentError
from lary_policy.runs.config import RunConfig
from lary_policy.runs.context import RunContext, RunData

# Which of the targets the two kinds of files are of; the reference has no statistics of others.
RELATIVE = {"absolute": False, "displacement": True}


def given_scaling(config: RunConfig, data: RunData, target: str) -> Scaling | None:
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
        dataset=data.name,
        action_dim=target_embodiment(load_embodiment(embodiment), config.rotation).action_dim,
        unknown=unknown,
        relative=RELATIVE[target],
    )
    if set(found.robots) == {NO_COLUMN}:
        return Scaling(RobotStatistics({"": found.everything}, found.everything), False, f"file {path.name}")
    return Scaling(found, True, f"file {path.name}, each robot ({unknown})")


def check_statistics(context: RunContext) -> None:
    """Raise before anything is computed unless the given statistics fit all sources and targets of a run.

    Raises:
        EmbodimentError: See `given_scaling`.
        ConfigError: No source of the run has actions.
    """
    config = context.config
    if config.statistics is None:
        return
    with_actions = [data for data in context.data if "actions" in data.about]
    if not with_actions:
        raise ConfigError(
            expected="a source with actions for statistics=<file>",
            got=", ".join(data.name for data in context.data),
            fix="Leave statistics out.",
        )
    for data in with_actions:
        probes = config.probes_for(data.protocol, data.about, data.spec.kind)
        for target in {probe.target for probe in probes if probe.about == "actions"}:
            given_scaling(config, data, target)
