"""Every error of the package, each saying what was expected, what was got and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class LaryPolicyError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        expected: What the code needed.
        got: What it was given.
        fix: What the user can do, ideally an exact command.
    """

    def __init__(self, *, expected: str, got: str, fix: str) -> None:
        self.expected, self.got, self.fix = expected, got, fix
        super().__init__(f"expected {expected}; got {got}. {fix}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.expected, self.got, self.fix)


def _rebuilt(kind: type[LaryPolicyError], expected: str, got: str, fix: str) -> LaryPolicyError:
    """Return a copied or unpickled error, whatever the arguments of its own constructor."""
    error = kind.__new__(kind)
    LaryPolicyError.__init__(error, expected=expected, got=got, fix=fix)
    return error


class UnknownNameError(LaryPolicyError):
    """A name is not in its registry; the message lists the valid ones and the closest match, or `meant`.

    Of more than `MOST_NAMES` it lists the five closest where `listed` says what lists them all.
    """

    MOST_NAMES = 25

    def __init__(
        self, kind: str, name: str, valid: Iterable[str], *, meant: str = "", listed: str = ""
    ) -> None:
        names = sorted(valid)
        close = [meant] if meant else difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean '{close[0]}'? " if close else ""
        said = f"Valid names: {', '.join(names) or '(none)'}."
        if listed and len(names) > self.MOST_NAMES:
            near = difflib.get_close_matches(name, names, n=5, cutoff=0.0)
            said = f"Closest of {len(names)} names: {', '.join(near)}. {listed}"
        super().__init__(expected=f"a known {kind}", got=f"'{name}'", fix=hint + said)


def look_up[V](kind: str, name: str, table: Mapping[str, V]) -> V:
    """Return what a registry has under a name; UnknownNameError where it has nothing."""
    if name not in table:
        raise UnknownNameError(kind, name, table)
    return table[name]


def summary(error: BaseException, length: int = 200) -> str:
    """Return kind and words of an error of someone else's code on one line, cut to a length."""
    try:
        words = " ".join(str(error).split())
    except Exception as its_own:  # a text that cannot be made: `__str__` is someone else's code too
        words = f"its text raises {type(its_own).__name__}"
    return f"{type(error).__name__}: {words[:length]}".removesuffix(": ")


class ConfigError(LaryPolicyError):
    """A configuration value is missing, of the wrong type or contradicts another."""


class WeightsMissingError(LaryPolicyError):
    """Pretrained weights are not on this machine and were not allowed to be random."""


class WeightsMismatchError(LaryPolicyError):
    """A weight file does not fit the architecture, or its hash differs from the pinned one."""


class FrameFormatError(LaryPolicyError):
    """Frames are not uint8 RGB of shape [b t h w 3], or an image cannot be decoded."""


class DatasetError(LaryPolicyError):
    """A dataset file is missing, has no such column, or contradicts its neighbours."""


class UnsafePathError(LaryPolicyError):
    """A path leaves the folder it must stay in."""


class StoreError(LaryPolicyError):
    """A latent store is corrupt, belongs to another encoder, or cannot be written."""


class ShapeError(LaryPolicyError):
    """A tensor has the wrong shape, dtype or range."""


class EmbodimentError(LaryPolicyError):
    """Action layouts, statistics or conventions do not fit each other."""


class DeviceError(LaryPolicyError):
    """What a device computes is not what the CPU computes of the same."""


class SimulationError(LaryPolicyError):
    """A task, camera, world count or action does not fit the simulated environment."""


def require_one(**counts: int) -> None:
    """Raise SimulationError for the first of named numbers that is below 1."""
    for name, value in counts.items():
        if value < 1:
            raise SimulationError(
                expected=f"{name} of at least 1", got=f"{value}", fix=f"Choose {name} >= 1."
            )


class ContactOverflowError(LaryPolicyError):
    """A simulated world had more contacts or constraint rows than the physics engine has room for."""


class TrainingError(LaryPolicyError):
    """Training met a non-finite loss or has nothing to learn from."""


class HeadMismatchError(LaryPolicyError):
    """A saved head belongs to another encoder, embodiment or version, or its file is incomplete."""
