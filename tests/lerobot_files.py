"""Small LeRobot datasets (format v3), made by LeRobot's own writer, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from video_files import moving_square

POSE_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
JOINT_NAMES = ("shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "gripper.pos")
LEGS = ((0.03, 0, 0), (0, 0.03, 0), (0, 0, -0.03))  # metres a chunk: forward, left, down


def path_of(steps: int, dim: int, episode: int) -> np.ndarray:
    """Return poses `[steps, dim]` that move along one axis after the other; the gripper closes at the end."""
    values = np.zeros((steps, dim), np.float32)
    for step in range(1, steps):
        leg = LEGS[(episode + step // 5) % len(LEGS)]
        values[step] = values[step - 1]
        values[step, : min(3, dim - 1)] += np.array(leg[: min(3, dim - 1)], np.float32) / 5
    if dim > 4:
        values[:, 3] = np.linspace(0, 0.4, steps)
    values[: steps - steps // 4, -1] = 100.0
    return values


def write_lerobot(
    root: Path,
    *,
    episodes: int = 4,
    steps: int = 21,
    names: Sequence[str] | None = POSE_NAMES,
    dim: int = 7,
    cameras: Sequence[str] = ("top",),
    tasks: Sequence[str] = ("push the cube", "lift the cube"),
    state: bool = True,
    video: bool = True,
    fps: int = 20,
    codec: str = "h264",
) -> Path:
    """Write a dataset of `episodes` episodes; episode e has `steps + e` frames of 64 x 48 pixels."""
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    vector = {"dtype": "float32", "shape": (dim,), "names": None if names is None else list(names)}
    image = {
        "dtype": "video" if video else "image",
        "shape": (48, 64, 3),
        "names": ["height", "width", "channels"],
    }
    features = {**{f"observation.images.{name}": image for name in cameras}, "action": vector}
    if state:
        features["observation.state"] = vector
    dataset = LeRobotDataset.create(
        "tests/tiny", fps=fps, root=root, features=features, use_videos=video,
        rgb_encoder=RGBEncoderConfig(vcodec=codec),
    )  # fmt: skip
    for episode in range(episodes):
        length = steps + episode
        poses = path_of(length, dim, episode)
        views = [moving_square(length, seed=10 * episode + i) for i in range(len(cameras))]
        for step in range(length):
            frame = {f"observation.images.{c}": v[step] for c, v in zip(cameras, views, strict=True)}
            frame["action"] = poses[min(step + 1, length - 1)]
            if state:
                frame["observation.state"] = poses[step]
            dataset.add_frame({**frame, "task": tasks[episode % len(tasks)]})
        dataset.save_episode()
    dataset.finalize()
    return root
