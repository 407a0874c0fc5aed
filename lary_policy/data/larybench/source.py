"""LARYBench's own files as sources: every key of the benchmark, both protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lary_policy.actions import load_embodiment
from lary_policy.data.clips import ClipTable
from lary_policy.data.integrity import IntegrityReport
from lary_policy.data.larybench.clip_csv import CLIP_COLUMNS, read_clips, recording_of
from lary_policy.data.larybench.pair_csv import demonstration_of, open_csv, read_label_pairs, read_pairs
from lary_policy.data.larybench.pair_rows import PairFile
from lary_policy.data.larybench.sets import BenchmarkSet, benchmark_set, list_benchmark_sets, require_stride
from lary_policy.data.larybench.verify import verify_benchmark
from lary_policy.data.layout import find_metadata
from lary_policy.data.pairs import PairTable
from lary_policy.data.registry import register_source
from lary_policy.data.spec import SourceSpec, require_folder, require_protocol
from lary_policy.data.splits import empty_split, split_of

# The tables are part of the benchmark's repository; its counts of rows are those of its page.
_WHERE = (
    " LARYBench's CSVs are in the repository meituan-longcat/LARYBench, its images and clips in the archives"
    " that its README links: 1.2 million clips and 0.6 million pairs of images, by estimate hundreds of GB."
    " To try the commands without them: lary data sample out=sample && lary suite source={} data_dir=sample"
)
NATIVE_SPLITS = ("train", "val", "test")
# Where CSVs lie below data_dir: the benchmark's repository keeps them in data/, its archives have none.
CSV_FOLDERS = ("", "data", "metadata")


@register_source(*list_benchmark_sets())
class LaryBenchSource:
    """One key of LARYBench.

    In protocol `lary` the splits are the files' own. In protocol `native` they are train, val and test, no
    recording (episode, demonstration, source video with all its segments and mirrored twins) being in two of
    them, and `unseen` where the benchmark has it.

    Args:
        key: One of `list_benchmark_sets()`.
        data_dir: Folder that holds `classification/` and `regression/`.
        csv_dir: Folder of the metadata CSVs; None looks in data_dir, data_dir/data and data_dir/metadata.
        protocol: `native` or `lary`.

    Raises:
        DatasetError: A folder does not exist.
        UnknownNameError: The protocol or key does not exist.
    """

    def __init__(
        self, key: str, *, data_dir: Path | None, csv_dir: Path | None = None, protocol: str = "native"
    ) -> None:
        self.data = benchmark_set(key)
        self.root = require_folder(key, data_dir, hint=_WHERE.format(key))
        self.spec = _spec(self.data, protocol)
        self._csv_dirs = [self.root / f for f in CSV_FOLDERS] if csv_dir is None else [Path(csv_dir)]

    def pairs(self, split: str) -> PairTable:
        """Read the pairs of a split.

        Raises:
            DatasetError: It is a source of clips, a CSV is missing, or no row is usable.
            UnknownNameError: There is no such split.
        """
        if self.spec.kind != "pairs":
            raise self.spec.wrong_kind("pairs")
        files = self._filled(split)
        if self.data.embodiment is None:
            return read_label_pairs(files)
        # States are named in the CSVs of CALVIN and VLABench, but not used by the benchmark nor all shipped.
        return read_pairs(
            files, load_embodiment(self.data.embodiment), require_stride(self.data), states=False
        )

    def clips(self, split: str) -> ClipTable:
        """Read the clips of a split.

        Raises:
            DatasetError: It is a source of pairs, a CSV is missing, or no row is usable.
            UnknownNameError: There is no such split.
        """
        if self.spec.kind != "clips":
            raise self.spec.wrong_kind("clips")
        return read_clips(self._filled(split), clamp=self.spec.protocol == "lary")

    def verify(self, **options: Any) -> IntegrityReport:
        """Check every CSV and every file that it names, see `verify_benchmark`."""
        return verify_benchmark(self, **options)

    def files(self, split: str) -> tuple[PairFile, ...]:
        """Return the CSVs of a split with their rows that belong to it; DatasetError if one is missing."""
        self.spec.check_split(split)
        if self.spec.protocol == "lary" or split in self.data.further_splits:
            return (self._open(split),)
        if self.data.native_test == "file" and split == "test":
            return (self._open(self.data.val_split),)
        shipped = self.data.splits[:1] if self.data.native_test == "file" else self.data.splits[:2]
        return tuple(self._share(self._open(name), split) for name in shipped)

    def _filled(self, split: str) -> tuple[PairFile, ...]:
        """Return the files of a split; DatasetError if no recording falls into it, but some into others."""
        files = self.files(split)
        if any(file.rows for file in files) or self.spec.protocol == "lary" or split not in NATIVE_SPLITS:
            return files
        counts = {
            name: len({self.recording(f, cells) for f in self.files(name) for _, cells in f.rows})
            for name in NATIVE_SPLITS
        }
        if not any(counts.values()):
            return files
        raise empty_split(f"{self.data.key} (native)", split, counts)

    def csv_path(self, split: str) -> Path:
        """Return the CSV of one of the benchmark's own splits.

        Raises:
            DatasetError: It is missing; the message says where it was looked for.
            UnknownNameError: There is no such split.
        """
        self.data.media_of(split)
        fix = "Pass csv_dir=<folder of the benchmark's CSVs>."
        return find_metadata(self._csv_dirs, self.data.key, split, fix)

    def media_root(self, split: str) -> Path:
        """Return the folder that the paths in the CSV of one of the benchmark's own splits start from."""
        return self.root / self.data.media_of(split)

    def _open(self, split: str) -> PairFile:
        path, root = self.csv_path(split), self.media_root(split)
        if self.spec.kind == "clips":
            return open_csv(path, root, CLIP_COLUMNS)
        return open_csv(path, root, namespace=dict(self.data.split_media).get(split, ""))

    def _share(self, file: PairFile, split: str) -> PairFile:
        """Return the rows of a CSV whose recording falls into a native split."""
        test_share = {"test_share": 0.0} if self.data.native_test == "file" else {}
        rows = tuple(
            row for row in file.rows if split_of(self.recording(file, row[1]), **test_share) == split
        )
        return replace(file, rows=rows)

    def recording(self, file: PairFile, cells: Mapping[str, str]) -> str:
        """Return the recording that a row belongs to."""
        if self.spec.kind == "clips":
            return recording_of(cells.get("video_path") or "")
        if self.data.embodiment is None:
            return demonstration_of(cells.get("src_img") or "")
        return file.episode(cells)


def _spec(data: BenchmarkSet, protocol: str) -> SourceSpec:
    protocol = require_protocol(protocol)
    native = protocol == "native"
    reported: Sequence[str] = ("test",) if native else (data.val_split,)
    return SourceSpec(
        key=data.key,
        kind=data.kind,
        embodiment=data.embodiment,
        stride=data.stride,
        splits=(*NATIVE_SPLITS, *data.further_splits) if native else data.splits,
        cameras=("main",),
        num_classes=data.num_classes,
        where="larybench",
        protocol=protocol,
        train_split="train" if native else data.train_split,
        select_split="val" if native else data.val_split,
        report_splits=(*reported, *data.further_splits),
    )
