"""`lary <verb> --help`: every setting with its sentence, default and values."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

from lary_policy.cli.compose import NAMES_OF_ENCODERS, source_options
from lary_policy.paths import choices, configs_dir

_WIDTH = 26  # of the column of settings
_LINE = re.compile(r"^(?P<name>\w+):\s*(?P<default>.*?)\s*(?:\s#\s*(?P<text>.*))?$")


def run_help(
    verb: str,
    arguments: Sequence[str],
    extra: Sequence[tuple[str, str, str]] = (),
    without: Sequence[str] = (),
) -> str:
    """Return the help of a verb that runs stages.

    Args:
        verb: As typed.
        arguments: Of the command line: with `source=<key>` the settings of that source are shown.
        extra: (name, default, sentence) of the verb's own settings.
        without: Choices and settings that the verb does not have.
    """
    from lary_policy.data import list_sources
    from lary_policy.encoders import list_encoders
    from lary_policy.runs import SIMULATED, RunConfig

    given = dict(a.partition("=")[::2] for a in arguments if "=" in a)
    source = given.get("source")
    lines = [f"usage: lary {verb} [setting=value] ...", ""]
    groups = {
        "suite": ("|".join(choices("suite")), "what tasks, encoders and questions are run together"),
        "source": (
            "|".join(sorted({*list_sources(), *choices("source")})),
            "what is read; --help source=<key> shows its settings",
        ),
        "env": ("<task>", f"short for tasks=[<task>]: {', '.join(_tasks(given.get('env', '')))}"),
        "encoder": ("<name>", f"one of {', '.join(list_encoders())}, {NAMES_OF_ENCODERS}"),
        "head": (
            "|".join(choices("head")),
            "short for heads=[<name>]; head.train.epochs=5 and so on beside it",
        ),
    }
    lines += ["choices:", *(_row(name, *said) for name, said in groups.items() if name not in without), ""]
    if extra:
        lines += [f"settings of lary {verb}:", *(_row(*one) for one in extra), ""]
    if source is not None and source != SIMULATED:
        lines += [f"settings of source={source}:", *_of_source(source), ""]
    lines += ["settings:", *settings_rows(RunConfig, without)]
    return "\n".join(lines)


def _tasks(env: str) -> Iterator[str]:
    """Yield the names of our own tasks and how many each family has, or those of the family `env` names."""
    from lary_envs import families, list_tasks

    if env in families():
        yield from sorted(families()[env].specs())
        return
    yield from list_tasks()
    for name, family in families().items():
        yield f"{name}/<task> ({len(family.specs())}: --help env={name})"
    yield "rollout policy=<folder>: gym:<id>"


def action_help(usage: str, what: str, settings: type) -> str:
    """Return the help of something whose settings are a dataclass of `setting`s."""
    return "\n".join([f"usage: lary {usage}", "", what, "", "settings:", *settings_rows(settings)])


def settings_rows(schema: type, without: Sequence[str] = ()) -> list[str]:
    """Return a line for each setting of a dataclass: its name and default, and what it means."""
    from lary_policy.settings import names_of

    rows = []
    for field in (one for one in dataclasses.fields(schema) if one.name not in without):
        names = ", ".join(names_of(field))
        text = field.metadata.get("text", "")
        rows.append(_row(field.name, _default(field), f"{text} ({names})" if names else text))
    return rows


def _row(name: str, default: str, text: str) -> str:
    head = f"  {name}={default}"
    return f"{head:<{_WIDTH}}  {text}".rstrip() if len(head) <= _WIDTH else f"{head}\n{'':<{_WIDTH}}  {text}"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "{}"
    if field.default is dataclasses.MISSING:
        return "<needed>"
    return _plain(field.default)


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = (f"{one.name}: {_plain(getattr(value, one.name))}" for one in dataclasses.fields(value))
        return "{" + ", ".join(inside) + "}"
    if isinstance(value, tuple):
        return "[" + ",".join(_plain(one) for one in value) + "]"
    return str(value)


def _of_source(key: str) -> Iterator[str]:
    """Yield the settings of a source: of a file of configs/source the comments are their sentences."""
    if key not in choices("source"):
        yield from (_row(name, _plain(value), "") for name, value in source_options(key).items())
        return
    for line in (configs_dir() / "source" / f"{key}.yaml").read_text(encoding="utf-8").splitlines():
        found = _LINE.match(line)
        if found:
            yield _row(found["name"], found["default"], found["text"] or "")
