"""Settings that say what they are: one sentence and, where there are few values, their list."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from lary_policy.errors import ConfigError, UnknownNameError

Names = Sequence[str] | Callable[[], Sequence[str]]


def setting(default: Any, text: str, names: Names = ()) -> Any:
    """Return a dataclass field with a default, a sentence for `--help`, and the values that it may have.

    Args:
        default: The default; lists and dictionaries are given as tuples and `dict`.
        text: What the setting means, with its unit.
        names: The allowed values of a text, or a function that lists them.
    """
    metadata = {"text": text, "names": names}
    if default is dict:
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def names_of(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """Return the values that a setting may have; nothing where any will do."""
    names = field.metadata.get("names", ())
    return tuple(names() if callable(names) else names)


def check_names(settings: Any) -> None:
    """Raise UnknownNameError for the first setting whose value is none of its names."""
    for field in dataclasses.fields(settings):
        names, value = names_of(field), getattr(settings, field.name)
        for one in value if isinstance(value, tuple) else (value,):
            if names and one is not None and one not in names:
                raise UnknownNameError(field.name, str(one), names)


def at_least(settings: Any, least: float, *names: str) -> None:
    """Raise ConfigError for the first of these settings that is smaller than `least`; None passes."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not least <= value < float("inf"):
            raise ConfigError(
                expected=f"{name} >= {least}", got=str(value), fix=f"Pass {name}={least or 1}, for example."
            )


def some_and_different(name: str, values: Sequence[str]) -> None:
    """Raise ConfigError unless there is at least one value and none stands there twice."""
    if not values or len(set(values)) < len(values):
        raise ConfigError(
            expected=f"at least one of {name}, each once",
            got=f"[{', '.join(values)}]",
            fix=f"Pass {name}=[first,second], for example.",
        )
