"""A LeRobot dataset without cameras, read a batch at a time from memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lerobot.datasets import LeRobotDataset
from torch import Tensor
from torch.utils.data import Dataset

_DTYPES = {"f": torch.float32, "i": torch.int64, "u": torch.int64, "b": torch.bool}  # as LeRobot's transform
_NUMBER = re.compile(r"float\d+|u?int\d+|bool")


class TableDataset(Dataset[dict[str, Any]]):
    """The same items as a `LeRobotDataset` of numbers alone, whose columns stay in memory.

    LeRobot reads each sample by itself through `datasets`, about 4 ms of a core (0.25 s a batch of 64, which
    is longer than a step on stored latents takes). Everything but items is the dataset's own.

    Args:
        dataset: See `fits`.
    """

    def __init__(self, dataset: LeRobotDataset) -> None:
        self._dataset = dataset
        self._names = [str(name) for name in dataset.meta.tasks.index]
        self._places: dict[int, int] | None = dataset.absolute_to_relative_idx
        self._deltas: dict[str, list[int]] | None = dataset.reader.delta_indices
        table = dataset.hf_dataset.with_format("numpy")[:]
        self._columns = {name: _tensor(values) for name, values in table.items()}
        episodes = dataset.meta.episodes
        self._bounds = np.stack([episodes["dataset_from_index"], episodes["dataset_to_index"]], 1)  # [E 2]

    @staticmethod
    def fits(dataset: Any) -> bool:
        """Return whether a dataset is one of numbers alone, all on this machine."""
        if not isinstance(dataset, LeRobotDataset) or dataset.meta.camera_keys:
            return False
        return all(_NUMBER.fullmatch(str(one["dtype"])) for one in dataset.meta.features.values())

    def __len__(self) -> int:
        return len(self._dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_dataset":  # asked for before there is one, as copies do
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one item, as `LeRobotDataset` does."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the items of a batch; torch's loader asks for them at once."""
        rows = torch.as_tensor(indices)
        found = {name: values[rows] for name, values in self._columns.items()}
        found |= self._windows(found["index"].numpy(), found["episode_index"].numpy())
        tasks = [self._names[task] for task in found["task_index"].tolist()]
        return [
            {name: values[place] for name, values in found.items()} | {"task": task}
            for place, task in enumerate(tasks)
        ]

    def _windows(self, frames: np.ndarray, episodes: np.ndarray) -> dict[str, Tensor]:
        """Return the rows around each frame `[b t ...]` and which of them are beyond its episode `[b t]`."""
        found: dict[str, Tensor] = {}
        first, last = self._bounds[episodes].T[..., None]
        for name, deltas in (self._deltas or {}).items():
            wanted = frames[:, None] + np.asarray(deltas)
            inside = np.clip(wanted, first, last - 1)
            found[name] = self._columns[name][torch.from_numpy(self._relative(inside))]
            found[f"{name}_is_pad"] = torch.from_numpy((wanted < first) | (wanted >= last))
        return found

    def _relative(self, frames: np.ndarray) -> np.ndarray:
        """Return where frames stand among the chosen episodes."""
        if self._places is None:
            return frames
        places = [self._places[frame] for frame in frames.reshape(-1).tolist()]
        return np.array(places, np.int64).reshape(frames.shape)


def _tensor(values: np.ndarray) -> Tensor:
    stacked = values if values.dtype != object else np.stack(list(values))
    return torch.from_numpy(stacked).to(_DTYPES[stacked.dtype.kind])
