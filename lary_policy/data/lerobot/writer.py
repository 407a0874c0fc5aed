"""Writes LeRobot datasets (format v3) with LeRobot's own writer, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lary_policy.actions import Embodiment
from lary_policy.data.lerobot.files import ACTION, DISTURBED, EXECUTED, IMAGE_PREFIX, STATE, SUCCESS
from lary_policy.errors import ConfigError, StoreError
from lary_policy.frames import probe_video
from lary_policy.paths import visible_files

CODECS = ("h264", "av1", "hevc")
# Quality of videos; less is better. LeRobot's own 30 is meant for frames of 480 x 640: of simulated ones of
# 112 x 112 it leaves 30 dB; 18 leaves 33.6 dB at 2.6 times the size, of 34.4 dB that halved colour allows.
DEFAULT_CRF = 18
_SILENT = {"hevc": {"x265-params": "log-level=error"}}  # or it prints two screens an episode
MAX_CRF = 51  # of h264 and hevc; av1's goes on to 63, where nothing is left to see
Frames = Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class LeRobotForm:
    """What all episodes of a dataset have in common.

    Attributes:
        repo_id: Its name, `user/name`.
        embodiment: Layout of actions and states; its name is written beside the action's names.
        cameras: Short names, in order.
        height: Of the frames, pixels.
        width: Of the frames, pixels.
        codec: One of `CODECS` for videos (lossy, small); None for PNG in the tables (lossless).
        crf: Quality of videos, 0 to `MAX_CRF`; less is better.
        noise: Whether `EXECUTED` and `DISTURBED` are written, too.

    Raises:
        ConfigError: The control rate is no whole number, or frames of videos are not of even size.
    """

    repo_id: str
    embodiment: Embodiment
    cameras: tuple[str, ...]
    height: int
    width: int
    codec: str | None = "h264"
    crf: int = DEFAULT_CRF
    noise: bool = False

    def __post_init__(self) -> None:
        if self.codec is not None and (self.height % 2 or self.width % 2):
            raise ConfigError(
                expected="frames of even height and width for video",
                got=f"{self.height} x {self.width}",
                fix="Pass video=false, or record frames of another size.",
            )
        if self.embodiment.control_hz != int(self.embodiment.control_hz):
            raise ConfigError(
                expected="a whole number of control steps a second, as LeRobot counts frames",
                got=f"{self.embodiment.control_hz:g}",
                fix="Choose another embodiment.",
            )

    def features(self) -> dict[str, dict[str, Any]]:
        """Return the features as LeRobot describes them."""
        a, labels = self.embodiment.action_dim, list(self.embodiment.labels)
        about = {"embodiment": self.embodiment.name, "control_hz": self.embodiment.control_hz}
        pose: dict[str, Any] = {"dtype": "float32", "shape": (a,), "names": labels, "info": about}
        flag: dict[str, Any] = {"dtype": "bool", "shape": (1,), "names": None}
        image = {
            "dtype": "image" if self.codec is None else "video",
            "shape": (self.height, self.width, 3),
            "names": ["height", "width", "channels"],
        }
        noise = {EXECUTED: pose, DISTURBED: flag} if self.noise else {}
        images = {f"{IMAGE_PREFIX}{camera}": image for camera in self.cameras}
        # A dict for each, because LeRobot writes the codec into those of videos.
        shared = {**images, STATE: pose, ACTION: pose, SUCCESS: flag, **noise}
        return {name: dict(feature) for name, feature in shared.items()}


class LeRobotWriter:
    """Writes a dataset; a context that closes all files also when its block fails.

    Args:
        folder: Of the dataset, which must not exist.
        form: What all episodes have in common.
        longest: Frames of the longest episode.
    """

    def __init__(self, folder: Path, form: LeRobotForm, *, longest: int) -> None:
        from lerobot.configs.video import RGBEncoderConfig
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        self.form = form
        self._dataset = LeRobotDataset.create(
            form.repo_id,
            fps=int(form.embodiment.control_hz),
            root=folder,
            features=form.features(),
            robot_type=form.embodiment.name,
            use_videos=form.codec is not None,
            rgb_encoder=None
            if form.codec is None
            else RGBEncoderConfig(vcodec=form.codec, crf=form.crf, extra_options=_SILENT.get(form.codec, {})),
            streaming_encoding=form.codec is not None,
            video_backend="pyav",  # nothing is read here; asking which one works prints a page of warnings
            # LeRobot drops frames when the queue of its encoder is full: it never is.
            encoder_queue_maxsize=longest + 1,
        )

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # or LeRobot would close, and write, whenever it is collected as garbage
            with suppress(OSError, RuntimeError, ValueError):
                self._dataset.finalize()

    def add(self, task: str, frames: Sequence[Frames], values: Mapping[str, NDArray[Any]]) -> None:
        """Write one episode; StoreError where a video could not be encoded.

        Args:
            task: The instruction.
            frames: Of each of T steps the picture `[h w 3]` of each camera.
            values: Of every other feature its numbers `[T ...]`.
        """
        try:
            with _quiet():
                for step, views in enumerate(frames):
                    images = {f"{IMAGE_PREFIX}{camera}": image for camera, image in views.items()}
                    numbers = {name: column[step] for name, column in values.items()}
                    self._dataset.add_frame({**images, **numbers, "task": task})
                self._dataset.save_episode()
        except RuntimeError as error:  # of LeRobot's encoder threads; other errors arrive as they are
            raise StoreError(
                expected="videos of every camera",
                got=f"{error}",
                fix="Free disk space, choose another codec, or pass video=false.",
            ) from error

    def finish(self, splits: Mapping[str, tuple[int, int]]) -> None:
        """Close all files and name the splits: first and last + 1 episode of each.

        StoreError where a video lacks frames.
        """
        from lerobot.datasets.io_utils import write_info

        self._dataset.finalize()
        meta = self._dataset.meta
        for key in meta.video_keys:
            found = sum(
                probe_video(path).frames for path in visible_files(meta.root / "videos" / key, "**/*.mp4")
            )
            if found != meta.total_frames:
                raise StoreError(
                    expected=f"{meta.total_frames} frames in the videos of {key}",
                    got=f"{found}",
                    fix="LeRobot's encoder lost some: start the same command again, or pass video=false.",
                )
        meta.info.splits = {name: f"{first}:{last}" for name, (first, last) in splits.items()}
        write_info(meta.info, meta.root)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep `datasets` from drawing a bar for each episode, and encoders from their remarks on each file."""
    import av
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bar()
    av.logging.set_libav_level(av.logging.ERROR)
    before = os.environ.get("SVT_LOG")
    os.environ["SVT_LOG"] = "1"  # errors only; the encoder of av1 reads no option but this
    try:
        yield
    finally:
        if before is None:
            del os.environ["SVT_LOG"]
        else:
            os.environ["SVT_LOG"] = before
        av.logging.set_libav_level(av.logging.INFO)  # FFmpeg's own default
        if shown:
            datasets.enable_progress_bar()
