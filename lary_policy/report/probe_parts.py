"""Pieces of a report on probes: the heads behind the scores, classes by frequency, attention. Plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lary_policy.errors import ShapeError

Maps = tuple[tuple[tuple[float, ...], ...], ...]
KINDS = ("class", "robot", "collection")


@dataclass(frozen=True)
class HeadInfo:
    """The head behind some scores.

    Attributes:
        encoder: Registry name.
        reference_key: Name of the encoder in LARYBench, or empty.
        task: Task or dataset name.
        protocol: `native` or `lary`.
        head: Head description.
        target: Its target.
        num_params: Trained parameters.
        best_epoch: Epoch of the reported weights.
        lr: Peak learning rate, of a sweep that of the chosen head.
        weight_decay: The same.
        statistics: Where mean and deviation of targets come from, or empty.
        seconds: Training time.
        seed: Of training.
    """

    encoder: str
    reference_key: str
    task: str
    protocol: str
    head: str
    target: str
    num_params: int
    best_epoch: int
    lr: float
    weight_decay: float
    statistics: str
    seconds: float
    seed: int


@dataclass(frozen=True)
class ClassTail:
    """F1 of each class with how often it occurs.

    Attributes:
        encoder: Registry name.
        task: Dataset name.
        protocol: `native` or `lary`.
        head: Head description.
        names: Classes (c of them).
        train: Training samples of each.
        test: Evaluated samples of each.
        f1: F1 of each.
    """

    encoder: str
    task: str
    protocol: str
    head: str
    names: tuple[str, ...]
    train: tuple[int, ...]
    test: tuple[int, ...]
    f1: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("names", "train", "test", "f1"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        lengths = {len(v) for v in (self.names, self.train, self.test, self.f1)}
        if len(lengths) != 1 or not all(0 <= x <= 1 for x in self.f1):
            raise ShapeError(
                expected=f"one count and one F1 between 0 and 1 for each of {len(self.names)} classes",
                got=f"lengths {sorted(lengths)}",
                fix="Train the probe again.",
            )


@dataclass(frozen=True)
class Composition:
    """What the splits of a dataset are made of.

    Attributes:
        task: Dataset name.
        protocol: `native` or `lary`.
        kind: What is counted, one of `KINDS`: samples of each class, robot type or collection of recordings.
        splits: Splits in their order.
        names: Of the classes, robots or collections (c of them).
        counts: Samples `[c, splits]`.
    """

    task: str
    protocol: str
    kind: str
    splits: tuple[str, ...]
    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for name in ("splits", "names"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "counts", tuple(tuple(int(x) for x in row) for row in self.counts))
        shapes = {len(row) for row in self.counts}
        if len(self.counts) != len(self.names) or shapes - {len(self.splits)} or self.kind not in KINDS:
            raise ShapeError(
                expected=f"counts [{len(self.names)}, {len(self.splits)}] of one of {', '.join(KINDS)}",
                got=f"{len(self.counts)} rows of lengths {sorted(shapes)} of '{self.kind}'",
                fix="Write the report again.",
            )


@dataclass(frozen=True)
class SplitSize:
    """How much one split holds.

    Attributes:
        task: Dataset name.
        protocol: `native` or `lary`.
        split: Its name.
        role: What it is for: `train`, `select`, `report`, or two of them.
        samples: Usable rows.
        recordings: Episodes, demonstrations or videos that they were cut from.
        classes: Different classes, 0 in a dataset of actions.
    """

    task: str
    protocol: str
    split: str
    role: str
    samples: int
    recordings: int
    classes: int


@dataclass(frozen=True)
class Attention:
    """Where a class head looks in one sample.

    Attributes:
        encoder: Registry name.
        task: Dataset name.
        protocol: `native` or `lary`.
        true: Class of the sample.
        predicted: Predicted class.
        weights: `[t, h, w]`: of the frames, pairs or time steps, relative to even attention.
        frames: The frames as the encoder sees them, JPEG files in base64; empty where they are not at hand.
    """

    encoder: str
    task: str
    protocol: str
    true: str
    predicted: str
    weights: Maps
    frames: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", tuple(self.frames))
        maps = tuple(tuple(tuple(float(x) for x in row) for row in one) for one in self.weights)
        object.__setattr__(self, "weights", maps)
        shapes = {(len(one), len(row)) for one in maps for row in one}
        if len(shapes) != 1 or not all(math.isfinite(x) and x >= 0 for one in maps for r in one for x in r):
            raise ShapeError(
                expected="finite weights [t, h, w], none negative",
                got=f"maps of shapes {sorted(shapes)}",
                fix="Train the probe again.",
            )
