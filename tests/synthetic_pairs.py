"""A small dataset in the LARYBench layout and a real, tiny encoder."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lary_policy.actions.embodiment import Embodiment, load_embodiment
from lary_policy.data import layout
from lary_policy.types import LatentSpec

STRIDE = 5


class PoolEncoder:
    """Average colour of each cell of a 4 x 4 grid, and a count of what it was asked to encode."""

    def __init__(self, fingerprint: str = "00112233aabbccdd", scale: float = 1.0) -> None:
        self.fingerprint = fingerprint
        self.latent = LatentSpec(kind="frame", tokens=16, width=3, grid=(1, 4, 4))
        self.scale = scale
        self.frames_seen = 0
        self.batches: list[int] = []

    def encode(self, frames: Tensor) -> Tensor:
        b, t = frames.shape[:2]
        self.frames_seen += b * t
        self.batches.append(b)
        images = frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        cells = torch.nn.functional.adaptive_avg_pool2d(images, 4)
        return cells.flatten(2).transpose(1, 2).reshape(b, t, 16, 3) * self.scale


@dataclass
class Synthetic:
    """A dataset on disk; `rows` may be edited and written again with `save`."""

    root: Path
    columns: tuple[str, ...]
    rows: list[dict[str, Any]] = field(default_factory=list)
    dataset: str = "calvin"
    split: str = "val"

    def save(self) -> None:
        path = self.root / layout.metadata_name(self.dataset, self.split)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows)

    def path(self, row: int, column: str) -> Path:
        return self.root / self.rows[row][column]


def write_synthetic(
    root: Path, *, episodes: int = 3, chunks: int = 4, px: int = 24, states: bool = True,
    first_episode: int = 0, split: str = "val",
) -> Synthetic:  # fmt: skip
    rng = np.random.default_rng(first_episode)
    made = Synthetic(root, layout.LARY_COLUMNS, split=split)
    for episode in range(first_episode, first_episode + episodes):
        for folder in (layout.IMAGES, layout.STATES, layout.ACTIONS):
            (root / folder / f"ep_{episode}").mkdir(parents=True)
        start = episode * 1000  # frame numbers are global in CALVIN
        for i in range(chunks + 1):
            step = start + i * STRIDE
            pixels = rng.integers(0, 256, (px, px, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / layout.frame_file(layout.IMAGES, episode, step))
            if states:
                np.save(root / layout.state_file(episode, step), rng.normal(size=7).astype(np.float32))
        for i in range(chunks):
            src, tgt = start + i * STRIDE, start + (i + 1) * STRIDE
            action = layout.action_file(episode, src, tgt)
            np.save(root / action, rng.normal(size=(STRIDE, 7)).astype(np.float32))
            sides = (("src", src), ("tgt", tgt))
            frames = {f"{side}_img": layout.frame_file(layout.IMAGES, episode, s) for side, s in sides}
            poses = {f"{side}_state": layout.state_file(episode, s) for side, s in sides}
            common = {"dataset": "calvin", "type": "robot", "perspective": "1st", "action": action}
            made.rows.append(common | frames | poses)
    made.save()
    return made


@pytest.fixture
def synthetic(tmp_path: Path) -> Synthetic:
    return write_synthetic(tmp_path / "set")


@pytest.fixture
def make_synthetic(tmp_path: Path) -> Callable[..., Synthetic]:
    return lambda name="set", **options: write_synthetic(tmp_path / name, **options)


@pytest.fixture
def arm7() -> Embodiment:
    return load_embodiment("arm7")


@pytest.fixture
def pool_encoder() -> PoolEncoder:
    return PoolEncoder()


@pytest.fixture
def make_encoder() -> Callable[..., PoolEncoder]:
    return PoolEncoder
