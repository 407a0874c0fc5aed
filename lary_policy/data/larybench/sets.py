"""The datasets of LARYBench: keys, splits, strides, layouts (protocol sections 1.1, 1.2, 1.5, 1.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lary_policy.errors import DatasetError, UnknownNameError

Kind = Literal["pairs", "clips"]
Statistics = Literal["constants", "per_robot", "none"]


@dataclass(frozen=True)
class BenchmarkSet:
    """One key of the benchmark.

    Attributes:
        key: Name used in the CSVs' file names.
        kind: `pairs` of images or `clips` of video.
        splits: Splits that the benchmark ships as files; the first one is trained on.
        media: Folder of the images or clips below the data root.
        split_media: Folder below `media` of splits that have their own.
        embodiment: Action layout, or None for datasets of classes.
        stride: Control steps between the frames of a pair = length of its chunk, or None.
        num_classes: Classes of the label, or None for datasets of actions.
        statistics: Where the mean and std of actions come from.
        native_test: What native results are reported on: the benchmark's own second file where it holds
            other environments (`file`), or a share of all recordings where the files share them (`regroup`).
    """

    key: str
    kind: Kind
    splits: tuple[str, ...]
    media: str
    split_media: tuple[tuple[str, str], ...] = ()
    embodiment: str | None = None
    stride: int | None = None
    num_classes: int | None = None
    statistics: Statistics = "none"
    native_test: Literal["file", "regroup"] = "regroup"

    @property
    def train_split(self) -> str:
        """The benchmark's own training split."""
        return self.splits[0]

    @property
    def val_split(self) -> str:
        """The benchmark's own split for selection and, in its paper, for results."""
        return self.splits[1]

    @property
    def further_splits(self) -> tuple[str, ...]:
        """Splits beside the two, e.g. robots or tasks that were never trained on."""
        return self.splits[2:]

    def media_of(self, split: str) -> str:
        """Return the folder of a split's media below the data root; UnknownNameError for no split of it."""
        if split not in self.splits:
            raise UnknownNameError(f"split of {self.key}", split, self.splits)
        return "/".join((self.media, *(folder for name, folder in self.split_media if name == split)))

    def latents_name(self, split: str, model: str) -> str:
        """Return the name of the CSV with the column `la_path` that the reference's extraction writes."""
        stride = f"{self.stride}_" if self.stride is not None else ""
        return f"{split}_la_{self.key}_{stride}{model}.csv"


TRAIN_VAL = ("train", "val")
SEEN_UNSEEN = ("seen_train", "seen_val", "unseen")
_VLABENCH = {
    "kind": "pairs",
    "splits": TRAIN_VAL,
    "media": "regression/vlabench",
    "embodiment": "arm7",
    "statistics": "constants",
}

_SETS = (
    BenchmarkSet("human_1st", "clips", TRAIN_VAL, "classification", num_classes=123),
    BenchmarkSet("robot_1st", "clips", TRAIN_VAL, "classification", num_classes=54),
    BenchmarkSet("libero", "pairs", TRAIN_VAL, "classification/LIBERO", num_classes=28),
    BenchmarkSet(
        "calvin", "pairs", TRAIN_VAL, "regression/calvin",
        split_media=(("train", "train_stride5"), ("val", "val_stride5")),
        embodiment="arm7", stride=5, statistics="constants",
        native_test="file",  # environments A, B, C are trained on; D, never seen, is the second file
    ),
    BenchmarkSet(key="vlabench", stride=5, **_VLABENCH),  # type: ignore[arg-type]
    BenchmarkSet(key="vlabench_15", stride=15, **_VLABENCH),  # type: ignore[arg-type]
    BenchmarkSet(key="vlabench_30", stride=30, **_VLABENCH),  # type: ignore[arg-type]
    BenchmarkSet(
        "agibotbeta", "pairs", SEEN_UNSEEN, "regression/agibot_45",
        embodiment="arm16", stride=45, statistics="per_robot",
    ),
    BenchmarkSet(
        "robocoin", "pairs", SEEN_UNSEEN, "regression/robocoin_10",
        embodiment="arm12", stride=10, statistics="per_robot",
    ),
)  # fmt: skip
_BY_KEY = {s.key: s for s in _SETS}

CLIP_FRAMES = 9  # frames of a clip that encoders see (protocol section 3)


def list_benchmark_sets() -> tuple[str, ...]:
    """Return the keys of the benchmark's datasets."""
    return tuple(_BY_KEY)


def benchmark_set(key: str) -> BenchmarkSet:
    """Return what is known of a dataset of the benchmark; UnknownNameError where there is no such key."""
    if key not in _BY_KEY:
        raise UnknownNameError("LARYBench dataset", key, _BY_KEY)
    return _BY_KEY[key]


def require_stride(found: BenchmarkSet) -> int:
    """Return the stride of a dataset of actions; DatasetError for one of classes."""
    if found.stride is None:
        raise DatasetError(
            expected="a dataset with action chunks",
            got=f"{found.key}, which has classes",
            fix=f"Choose one of {', '.join(s.key for s in _SETS if s.stride is not None)}.",
        )
    return found.stride
