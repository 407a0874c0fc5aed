"""Every source by its key; they are found by importing the subpackages that lie beside this file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lary_policy.data.spec import Source, checked_settings
from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.paths import import_modules

if TYPE_CHECKING:
    from lary_policy.data.atomic import AtomicConfig

Factory = Callable[..., Source]
_FACTORIES: dict[str, Factory] = {}


def register_source[F: Factory](*keys: str) -> Callable[[F], F]:
    """Register a factory `(key, *, data_dir, **options) -> Source` under keys; ConfigError if one is taken.

    Types of options are those of its annotations, see `checked_settings`.
    """

    def register(factory: F) -> F:
        for key in keys:
            if key in _FACTORIES:
                raise ConfigError(
                    expected="a new source key",
                    got=f"'{key}' again",
                    fix="Choose another key for one of them.",
                )
            _FACTORIES[key] = factory
        return factory

    return register


def list_sources() -> tuple[str, ...]:
    """Return the keys of all sources."""
    import_modules("lary_policy.data", packages=True)
    return tuple(sorted(_FACTORIES))


def open_source(
    key: str,
    *,
    data_dir: Path | None = None,
    atomic: AtomicConfig | Mapping[str, Any] | None = None,
    **options: Any,
) -> Source:
    """Open a source; nothing is read yet but what its spec needs.

    Args:
        key: One of `list_sources()`.
        data_dir: Folder of the dataset.
        atomic: Make atomic primitives (classes) of the trajectories of the source, with the fields of
            `AtomicConfig`; None leaves it as it is.
        **options: Settings of that kind of source, e.g. `protocol`, `cameras`, `csv_dir` (LARYBench).

    Raises:
        UnknownNameError: There is no such source or option.
        ConfigError: An option is of another type.
        DatasetError: The folder is missing or holds another dataset, or has no trajectories for `atomic`.
    """
    if key not in list_sources():
        raise UnknownNameError("source", key, list_sources())
    settings = {"data_dir": data_dir, **options}
    source = _FACTORIES[key](key, **checked_settings(f"source {key}", _FACTORIES[key], settings))
    if atomic is None:
        return source
    from lary_policy.data.atomic import AtomicConfig, AtomicSource

    if isinstance(atomic, Mapping):
        atomic = AtomicConfig(**checked_settings("atomic", AtomicConfig, atomic))
    if not isinstance(atomic, AtomicConfig):
        raise ConfigError(
            expected="atomic as settings or null", got=repr(atomic), fix="Pass 'atomic={threshold_m: 0.01}'."
        )
    return AtomicSource(source, atomic)
