"""Environments that are pickled and copied as what they were made from: simulators' own state cannot be."""

from __future__ import annotations

from typing import Any, Self


class Remade:
    """Mixin: `pickle`, `cloudpickle` and `copy.deepcopy` make the object again from its arguments.

    What comes out has not been reset, whatever state the original was in. The `spec` that gymnasium attaches
    to an environment goes with it.
    """

    _made_from: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments."""
        made = super().__new__(cls)
        made._made_from = (args, kwargs)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        attached = {name: value for name, value in vars(self).items() if name == "spec"}
        return _make, (type(self), *self._made_from), attached


def _make(kind: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return kind(*args, **kwargs)
