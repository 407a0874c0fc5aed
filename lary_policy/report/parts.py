"""The pieces of a report besides scores: trajectories, confusions, videos, failures. Plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lary_policy.errors import ShapeError
from lary_policy.types import EpisodeResult

Rows = tuple[tuple[float, ...], ...]
Maps = tuple[Rows, ...]
KINDS = ("class", "robot", "collection")


def _rows(values: Any, what: str, width: int) -> Rows:
    """Turn nested sequences or an array `[steps, width]` into tuples of finite floats."""
    nested = values.tolist() if hasattr(values, "tolist") else values
    rows = tuple(tuple(float(x) for x in row) for row in nested)
    if not rows or any(len(row) != width for row in rows):
        raise ShapeError(
            expected=f"{what} of shape [steps, {width}], one column a label",
            got=f"{len(rows)} rows of lengths {sorted({len(row) for row in rows})}",
            fix="Pass one episode, its chunks joined in time.",
        )
    if not all(math.isfinite(x) for row in rows for x in row):
        raise ShapeError(
            expected=f"finite {what}",
            got="NaN or infinite values",
            fix="Train the head again with a lower learning rate, or run `lary data verify`.",
        )
    return rows


@dataclass(frozen=True)
class Trajectory:
    """True and predicted actions over the steps of one episode.

    Attributes:
        encoder: Registry name.
        task: Task or dataset name.
        mode: `pair` or `policy`.
        target: `absolute` or `relative`.
        episode: Which episode, e.g. `test 412`.
        labels: One name an action dimension (a of them).
        true: Rows [steps, a]; arrays and tensors are accepted.
        predicted: Rows [steps, a].
        units: Unit of each dimension, or empty.
    """

    encoder: str
    task: str
    mode: str
    target: str
    episode: str
    labels: tuple[str, ...]
    true: Rows
    predicted: Rows
    units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "units", tuple(self.units))
        object.__setattr__(self, "true", _rows(self.true, "true actions", len(self.labels)))
        object.__setattr__(self, "predicted", _rows(self.predicted, "predicted actions", len(self.labels)))
        if len(self.true) != len(self.predicted) or len(self.units) not in (0, len(self.labels)):
            raise ShapeError(
                expected=f"{len(self.true)} predicted steps and 0 or {len(self.labels)} units",
                got=f"{len(self.predicted)} predicted steps and {len(self.units)} units",
                fix="Pass predictions for the same steps as the true actions.",
            )


@dataclass(frozen=True)
class Confusion:
    """Counts of predicted classes for each true class.

    Attributes:
        encoder: Registry name.
        task: Task or dataset name.
        labels: Class names (c of them).
        counts: Rows [c, c]: true class down, predicted class across.
        mode: Score mode it belongs to.
    """

    encoder: str
    task: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    mode: str = "atomic"

    def __post_init__(self) -> None:
        rows = _rows(self.counts, "confusion counts", len(self.labels))
        if len(rows) != len(self.labels) or any(x < 0 or x != int(x) for row in rows for x in row):
            raise ShapeError(
                expected=f"a {len(self.labels)} x {len(self.labels)} matrix of counts",
                got=f"{len(rows)} rows, least value {min(min(row) for row in rows)}",
                fix="Pass counts (not shares) with true classes as rows.",
            )
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "counts", tuple(tuple(int(x) for x in row) for row in rows))


@dataclass(frozen=True)
class Video:
    """One mp4 file to embed.

    Attributes:
        path: Path relative to the folder of the report (or an absolute path inside it).
        caption: What is tiled in it.
        seeds: Seeds of the tiled episodes in reading order, or empty.
        successes: Whether each of them succeeded.
        reference: Whether it shows the scripted expert or a random head.
    """

    path: str
    caption: str
    seeds: tuple[int, ...] = ()
    successes: tuple[bool, ...] = ()
    reference: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))
        object.__setattr__(self, "seeds", tuple(int(s) for s in self.seeds))
        object.__setattr__(self, "successes", tuple(bool(s) for s in self.successes))
        if len(self.seeds) != len(self.successes):
            raise ShapeError(
                expected="one success flag a tiled seed",
                got=f"{len(self.seeds)} seeds and {len(self.successes)} flags",
                fix="Pass both for every tile, or neither.",
            )


@dataclass(frozen=True)
class EpisodeFailure:
    """Episodes of one rollout cell that were stopped for the same reason.

    Attributes:
        encoder: Registry name or `-`.
        head: Head description.
        task: Task name.
        mode: `subgoal` or `policy`.
        failure: Name, e.g. `non_finite_action`.
        seeds: Seeds of the stopped episodes.
        episodes: Episodes run in this cell.
    """

    encoder: str
    head: str
    task: str
    mode: str
    failure: str
    seeds: tuple[int, ...]
    episodes: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(int(s) for s in self.seeds))


@dataclass(frozen=True)
class ConstantDimension:
    """An action dimension that never changes in training data: its normalised error says nothing.

    Attributes:
        task: Task or dataset name.
        target: `absolute` or `relative`.
        label: Name of the dimension.
        value: Its only value.
    """

    task: str
    target: str
    label: str
    value: float


@dataclass(frozen=True)
class CodebookUse:
    """How evenly the codes of a quantised encoder are used on one task's frames.

    Attributes:
        encoder: Registry name.
        task: Task or dataset name.
        codes: Entries of the codebook.
        used: Entries that some token became.
        perplexity: Exponential of the entropy of their use: `codes` when all are used alike, 1 for one alone.
        dead: Entries that no token became.
        tokens: Tokens that were quantised.
    """

    encoder: str
    task: str
    codes: int
    used: int
    perplexity: float
    dead: tuple[int, ...]
    tokens: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "dead", tuple(int(code) for code in self.dead))
        if self.used + len(self.dead) != self.codes or not 0 <= self.perplexity <= self.codes + 1e-6:
            raise ShapeError(
                expected=f"used and dead codes that make {self.codes}, and a perplexity up to that",
                got=f"{self.used} used, {len(self.dead)} dead, perplexity {self.perplexity}",
                fix="Extract the latents again.",
            )


def collect_failures(
    encoder: str, head: str, task: str, mode: str, results: Sequence[EpisodeResult]
) -> tuple[EpisodeFailure, ...]:
    """Group the stopped episodes of one rollout cell by failure name (none stopped: an empty tuple)."""
    names = sorted({r.failure for r in results if r.failure is not None})
    return tuple(
        EpisodeFailure(
            encoder, head, task, mode, n, tuple(r.seed for r in results if r.failure == n), len(results)
        )
        for n in names
    )


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

    BLANK: ClassVar[str] = "(blank)"  # of samples without a name

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
