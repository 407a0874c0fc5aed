"""LeRobot's training configuration with the settings of the latent cache; saved as LeRobot's own."""

import functools
import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TRAIN_CONFIG_NAME, TrainPipelineConfig

# Settings of ours, which a plain lerobot-train does not know.
OWN_FIELDS = ("cache_latents", "latents_dir", "latents_dtype", "latents_views")

# No `from __future__ import annotations` here: draccus and LeRobot's parser want the types themselves.


@functools.cache
def usable_decoder() -> str:
    """Return what decodes videos here: `torchcodec`, or `pyav` where it cannot be loaded.

    LeRobot's own default finds out the same, and prints a hundred lines on the way.
    """
    try:
        importlib.import_module("torchcodec")
    except (ImportError, OSError, RuntimeError):  # as LeRobot expects of it
        return "pyav"
    return "torchcodec"


@dataclass
class TrainDataConfig(DatasetConfig):
    """LeRobot's settings of a dataset, with `usable_decoder` as default of `video_backend`."""

    video_backend: str = field(default_factory=usable_decoder)


@dataclass
class LaryTrainConfig(TrainPipelineConfig):
    """What `lary train` takes: every flag of lerobot-train and four of its own.

    Attributes:
        dataset: As LeRobot's.
        cache_latents: Encode every frame once where that changes nothing.
        latents_dir: Folder for latents; `cache` beside the output folder by default.
        latents_dtype: Dtype of stored latents; the encoder's own by default, which loses nothing.
        latents_views: With `dataset.image_transforms.enable`: random looks of each image, encoded once,
            of which every step draws; 0 encodes a new one at every step, as lerobot-train does.
    """

    dataset: TrainDataConfig
    cache_latents: bool = True
    latents_dir: str | None = None
    latents_dtype: str | None = None
    latents_views: int = 0

    # No settings, so without types: whether `validate` ran, and the dataset's folder before that of a view.
    _validated = False
    _seen_root = None

    def validate(self) -> None:
        """Resolve and check the settings, once: LeRobot's loop asks again after the cache was set up."""
        if not self._validated:
            super().validate()
            self._validated = True

    def train_on(self, view: Path) -> None:
        """Train on a view of the dataset and the latents in it."""
        self._seen_root = (self.dataset.root,)
        self.dataset.root = str(view)
        self.policy.latents = str(view)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as lerobot-train knows them: of the whole dataset, without our own."""
        told = super().to_dict()
        for name in OWN_FIELDS:
            del told[name]
        if self._seen_root is not None:
            (told["dataset"]["root"],) = self._seen_root
            told["policy"]["latents"] = None
        return told

    def _save_pretrained(self, save_directory: Path) -> None:
        (save_directory / TRAIN_CONFIG_NAME).write_text(json.dumps(self.to_dict(), indent=4))
