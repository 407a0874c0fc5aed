"""What a source is: pairs of frames with actions or labels, or labelled clips, wherever they lie."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from lary_policy.data.clips import ClipTable
from lary_policy.data.pairs import PairTable
from lary_policy.errors import ConfigError, DatasetError, UnknownNameError

Protocols = Literal["native", "lary"]
PROTOCOLS: tuple[Protocols, ...] = ("native", "lary")


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
        where: Whose files they are: the subpackage of `lary_policy.data` that reads them.
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
    where: str
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
    """A dataset with splits.

    A source that can also be acted in has a method `world(num_worlds, ...)`, which opens its environment.
    """

    spec: SourceSpec

    def pairs(self, split: str) -> PairTable:
        """Read the pairs of a split; DatasetError if it is a source of clips."""
        ...

    def clips(self, split: str) -> ClipTable:
        """Read the clips of a split; DatasetError if it is a source of pairs."""
        ...


def require_folder(key: str, data_dir: Path | None, *, hint: str = "") -> Path:
    """Return the folder of a source; `hint` says where its files come from.

    Raises:
        DatasetError: None was given, or it does not exist.
    """
    if data_dir is None or not Path(data_dir).is_dir():
        raise DatasetError(
            expected=f"the folder of source {key}",
            got="none" if data_dir is None else f"'{data_dir}', which does not exist",
            fix=f"Pass data_dir=<folder>, e.g. lary suite source={key} data_dir=/data/LARYBench.{hint}",
        )
    return Path(data_dir)


def require_protocol(protocol: str) -> Protocols:
    """Return a protocol's name; UnknownNameError where it is neither `native` nor `lary`."""
    if protocol not in PROTOCOLS:
        raise UnknownNameError("protocol", protocol, PROTOCOLS)
    return "lary" if protocol == "lary" else "native"


def checked_settings(what: str, make: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in the types that the arguments of `make` are annotated with: lists as tuples, paths.

    Nothing is rounded, cut up or read as another type: `stride=2.5` is no whole number and `cameras=front` no
    list of names. Messages name what they are settings of.

    Raises:
        UnknownNameError: `make` has no such argument; the message lists those it has.
        ConfigError: A value is of another type than its argument.
    """
    signature = inspect.signature(make)
    hints = typing.get_type_hints(make.__init__ if inspect.isclass(make) else make)
    names = [name for name in signature.parameters if name not in ("key", "data_dir")]
    taken = {}
    for name, value in settings.items():
        if name not in signature.parameters:
            raise UnknownNameError(f"option of {what}", name, names)
        fits, taken[name] = _cast(value, hints.get(name, Any))
        if not fits:
            listed = isinstance(value, str) and _words(hints[name]).startswith("a list")
            raise ConfigError(
                expected=f"{name} of {what} as {_words(hints[name])}",
                got=f"{value!r} ({type(value).__name__})",
                fix=f"Pass {name}=[{value}]." if listed else f"Correct {name}, or leave it out.",
            )
    return taken


def _cast(value: Any, hint: Any) -> tuple[bool, Any]:
    """Return whether a value is of a type, and the value as that type has it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or origin is Literal:
        return hint is Any or value in arguments, value
    if origin in (typing.Union, types.UnionType):
        found = [result for fits, result in (_cast(value, one) for one in arguments) if fits]
        return bool(found), found[0] if found else value
    if hint is types.NoneType:
        return value is None, value
    if origin in (tuple, Sequence, list):
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
            return False, value
        items = [_cast(one, arguments[0]) for one in value]
        return all(fits for fits, _ in items), tuple(item for _, item in items)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool), value
    if hint is Path:
        return isinstance(value, str | Path), Path(value) if isinstance(value, str) else value
    kind = origin or hint
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), value


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def _words(hint: Any) -> str:
    """Return a type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if one is types.NoneType else _words(one) for one in arguments)
    if origin in (tuple, Sequence, list):
        return f"a list, each {_words(arguments[0])}"
    return _NAMES.get(hint, getattr(origin or hint, "__name__", str(hint)))
