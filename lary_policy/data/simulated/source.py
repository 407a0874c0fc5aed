"""Recorded demonstrations of the simulated tasks as a source."""

from __future__ import annotations

from pathlib import Path

from lary_policy.actions import load_embodiment
from lary_policy.data import layout
from lary_policy.data.clips import ClipTable
from lary_policy.data.larybench import load_pairs
from lary_policy.data.pairs import PairTable
from lary_policy.data.registry import SourceSpec, register_source, require_folder, require_protocol
from lary_policy.errors import DatasetError
from lary_policy.paths import read_json


@register_source("simulated")
class SimulatedSource:
    """A folder that `lary data` wrote; its splits are disjoint by seed under either protocol.

    Args:
        key: `simulated`.
        data_dir: The folder with `dataset.json`.
        cameras: Cameras to use, in this order; None for all.
        protocol: `native` or `lary`.

    Raises:
        DatasetError: The folder is missing or holds another kind of dataset.
        UnknownNameError: The protocol does not exist.
    """

    def __init__(
        self,
        key: str = "simulated",
        *,
        data_dir: Path | None,
        cameras: tuple[str, ...] | None = None,
        protocol: str = "native",
    ) -> None:
        self.root = require_folder(key, data_dir)
        about = read_json(self.root / layout.DATASET_FILE)
        try:
            self._dataset = str(about["dataset"])
            self._stride = int(about["stride"])
            splits, names = tuple(about["seeds"]), tuple(about["cameras"])
            embodiment = str(about["embodiment"])
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                expected=f"dataset, embodiment, stride, cameras, seeds in {self.root / layout.DATASET_FILE}",
                got=f"{type(error).__name__}: {error}",
                fix="Write the dataset anew with `lary data`.",
            ) from error
        self.spec = SourceSpec(
            key=key,
            kind="pairs",
            embodiment=embodiment,
            stride=self._stride,
            splits=splits,
            cameras=names if cameras is None else tuple(cameras),
            num_classes=None,
            where="simulated",
            protocol=require_protocol(protocol),
        )
        self._embodiment = load_embodiment(embodiment)

    def pairs(self, split: str) -> PairTable:
        """Read the pairs of a split.

        Raises:
            UnknownNameError: There is no such split or camera.
            DatasetError: A CSV is missing, or no row is usable.
        """
        self.spec.check_split(split)
        return load_pairs(
            self.root,
            self._dataset,
            split,
            embodiment=self._embodiment,
            stride=self._stride,
            cameras=self.spec.cameras,
        )

    def clips(self, split: str) -> ClipTable:
        """Raise DatasetError: this is a source of pairs."""
        raise self.spec.wrong_kind("clips")
