"""Every source by its key: found by importing the modules and packages that lie beside this file."""

from __future__ import annotations

import inspect
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


def _factory(key: str) -> Factory:
    if key not in list_sources():
        raise UnknownNameError("source", key, list_sources())
    return _FACTORIES[key]


def source_settings(key: str) -> dict[str, Any]:
    """Return the settings of a source with their defaults: its factory's arguments, None for needed ones.

    Raises:
        UnknownNameError: There is no such source.
    """
    arguments = inspect.signature(_factory(key)).parameters.values()
    own = [a for a in arguments if a.kind is a.KEYWORD_ONLY and a.name not in ("data_dir", "protocol")]
    return {"atomic": None, **{a.name: None if a.default is a.empty else a.default for a in own}}


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
    settings, factory = {"data_dir": data_dir, **options}, _factory(key)
    source = factory(key, **checked_settings(f"source {key}", factory, settings))
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
