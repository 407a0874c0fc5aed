"""What probes read from, wherever it lies: pairs of frames with actions or labels, or labelled clips."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lary_policy.data.clips import ClipTable
from lary_policy.data.pairs import PairTable
from lary_policy.errors import ConfigError, DatasetError, UnknownNameError

if TYPE_CHECKING:
    from lary_policy.data.atomic import AtomicConfig

Where = Literal["simulated", "larybench", "lerobot"]
Protocols = Literal["native", "lary"]
PROTOCOLS = ("native", "lary")


@dataclass(frozen=True)
class SourceSpec:
    """What a source holds.

    Attributes:
        key: Name of the source, e.g. `calvin`.
        kind: `pairs` or `clips`; the other method of the source raises.
        embodiment: Action layout, or None for sources of classes only.
        stride: Control steps between the frames of a pair, or None.
        splits: Splits that can be read, in the order train, selection, reported.
        cameras: Camera names, the first one first.
        num_classes: Classes stated by the source's publisher, or None.
        where: Whose files they are.
        protocol: `lary` takes the files' own splits, faults included; `native` never lets two splits share a
            recording.
        train_split: What heads are trained on.
        select_split: What epochs and settings are chosen on.
        report_splits: What numbers are reported on. In protocol `lary` the first is `select_split` itself.
    """

    key: str
    kind: Literal["pairs", "clips"]
    embodiment: str | None
    stride: int | None
    splits: tuple[str, ...]
    cameras: tuple[str, ...]
    num_classes: int | None
    where: Where
    protocol: Protocols = "native"
    train_split: str = "train"
    select_split: str = "val"
    report_splits: tuple[str, ...] = ("test",)

    def check_split(self, split: str) -> None:
        """Raise UnknownNameError unless the source has this split."""
        if split not in self.splits:
            raise UnknownNameError(f"split of {self.key} ({self.protocol})", split, self.splits)

    def wrong_kind(self, asked: str) -> DatasetError:
        """Return the error of asking a source of pairs for clips, or the other way round."""
        return DatasetError(
            expected=f"a source of {asked}",
            got=f"{self.key}, a source of {self.kind}",
            fix=f"Call .{self.kind}(split), or choose another source.",
        )


class Source(Protocol):
    """A dataset with splits."""

    spec: SourceSpec

    def pairs(self, split: str) -> PairTable:
        """Read the pairs of a split; DatasetError if it is a source of clips."""
        ...

    def clips(self, split: str) -> ClipTable:
        """Read the clips of a split; DatasetError if it is a source of pairs."""
        ...


Factory = Callable[..., Source]
_FACTORIES: dict[str, Factory] = {}
# Modules that register sources when they are imported.
_PROVIDERS = ("larybench.source", "lerobot.source", "simulated.source")


def register_source(*keys: str) -> Callable[[Factory], Factory]:
    """Register a factory `(key, *, data_dir, **options) -> Source` under one or more keys."""

    def register(factory: Factory) -> Factory:
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
    for module in _PROVIDERS:
        importlib.import_module(f"lary_policy.data.{module}")
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
        DatasetError: The folder is missing or holds another dataset, or has no trajectories for `atomic`.
    """
    if key not in list_sources():
        raise UnknownNameError("source", key, list_sources())
    source = _with_options(f"source {key}", _FACTORIES[key], key, data_dir=data_dir, **options)
    if atomic is None:
        return source
    from lary_policy.data.atomic import AtomicConfig, AtomicSource

    if isinstance(atomic, Mapping):
        atomic = _with_options("atomic", AtomicConfig, **atomic)
    return AtomicSource(source, atomic)


def _with_options[T](what: str, make: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call `make`; an option that it does not have is an UnknownNameError."""
    try:
        return make(*args, **options)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None:
            raise
        names = (name for name in inspect.signature(make).parameters if name not in ("key", "data_dir"))
        raise UnknownNameError(f"option of {what}", unknown[1], names) from error


def require_folder(key: str, data_dir: Path | None) -> Path:
    """Return the folder of a source.

    Raises:
        DatasetError: None was given, or it does not exist.
    """
    if data_dir is None or not Path(data_dir).is_dir():
        raise DatasetError(
            expected=f"the folder of source {key}",
            got="none" if data_dir is None else f"'{data_dir}', which does not exist",
            fix=f"Pass data_dir=<folder>, e.g. lary suite source={key} data_dir=/data/LARYBench.",
        )
    return Path(data_dir)


def require_protocol(protocol: str) -> Protocols:
    """Return a protocol's name if it is one.

    Raises:
        UnknownNameError: It is neither `native` nor `lary`.
    """
    if protocol not in PROTOCOLS:
        raise UnknownNameError("protocol", protocol, PROTOCOLS)
    return "lary" if protocol == "lary" else "native"
