"""A tiny dataset in LARYBench's layout, to try every command on files without the benchmark's own.

Names, columns and splits are those of protocol sections 1.2 and 1.3, quirks included; contents are noise.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from lary_policy.errors import ConfigError

LABEL = """Synthetic: noise in the layout of LARYBench, written by `lary data sample`.
It shows that commands run. Numbers measured on it say nothing about any encoder.
"""
PAIR_COLUMNS = ("dataset", "type", "perspective", "src_img", "src_state", "tgt_img", "tgt_state", "action")
AGIBOT_COLUMNS = (
    "dataset", "task_id", "episode_id", "perspective", "robot_type", "src_img", "tgt_img", "action",
)  # fmt: skip
ROBOCOIN_COLUMNS = ("dataset", "robot_type", "perspective", "src_img", "tgt_img", "action")
LIBERO_COLUMNS = ("src_img", "tgt_img", "action")
CLIP_COLUMNS = ("dataset", "video_path", "action", "sample_indices")
OPPOSITE = {"Open": "Close", "Close": "Open", "Up": "Down", "Down": "Up", "Forward_Up": "Backward_Down"}
Rows = list[dict[str, Any]]


def write_csv(root: Path, name: str, columns: Iterable[str], rows: Rows) -> Path:
    """Write `root/data/<name>`, where the benchmark's repository keeps its CSVs."""
    path = root / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _image(path: Path, rng: np.random.Generator, px: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (px, px, 3), dtype=np.uint8)).save(path)


def _chunk(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values.astype(np.float32))


def _chain(
    media: Path, folder: str, episode: int, first: int, *, chunks: int, stride: int, dim: int, seed: int
) -> Rows:  # fmt: skip
    """Write a chain of frames `stride` apart with the chunks between them; return the cells of each pair."""
    rng, prefix = np.random.default_rng(seed), f"{folder}/" if folder else ""
    frame = f"{prefix}images/ep_{episode}/frame_{{:06d}}.png".format
    rows = []
    for step in range(first, first + (chunks + 1) * stride, stride):
        _image(media / frame(step), rng)
    for src in range(first, first + chunks * stride, stride):
        action = f"{prefix}actions/ep_{episode}/action_{src:06d}to{src + stride - 1:06d}.npy"
        _chunk(media / action, rng.normal(size=(stride, dim)) * np.linspace(0.1, 3, dim) + np.arange(dim))
        rows.append({"src_img": frame(src), "tgt_img": frame(src + stride), "action": action})
    return rows


def _with_states(rows: Rows) -> Rows:
    """Add the columns of states, which are named in the CSVs but not shipped."""
    for row in rows:
        for side in ("src", "tgt"):
            state = row[f"{side}_img"].replace("images/", "states/").replace("frame_", "state_")
            row[f"{side}_state"] = state.replace(".png", ".npy")
    return rows


def make_calvin(root: Path, *, train: int = 6, val: int = 3, chunks: int = 4) -> None:
    """CALVIN: two folders whose episodes have the same names; frame numbers are global."""
    for split, episodes, seed in (("train", train, 0), ("val", val, 1000)):
        media = root / "regression" / "calvin" / f"{split}_stride5"
        rows = [
            {"dataset": "CALVIN", "type": "robot", "perspective": "1st", **row}
            for e in range(1, episodes + 1)
            for row in _chain(media, "", e, 65 * e, chunks=chunks, stride=5, dim=7, seed=seed + e)
        ]
        write_csv(root, f"calvin_metadata_{split}.csv", PAIR_COLUMNS, _with_states(rows))


def make_vlabench(root: Path, stride: int = 5, *, episodes: int = 8, chunks: int = 6) -> None:
    """VLABench: windows divided 75 to 25 at random, so that episodes and frames are in both splits."""
    key = "vlabench" if stride == 5 else f"vlabench_{stride}"
    media = root / "regression" / "vlabench"
    rows = [
        {"dataset": "VLABench", "type": "robot", "perspective": "3rd", **row}
        for e in range(episodes)
        for row in _chain(media, "", e, 300 * e, chunks=chunks, stride=stride, dim=7, seed=2000 + e)
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    rows = _with_states([rows[i] for i in order])
    cut = len(rows) * 3 // 4
    write_csv(root, f"{key}_metadata_train.csv", PAIR_COLUMNS, rows[:cut])
    write_csv(root, f"{key}_metadata_val.csv", PAIR_COLUMNS, rows[cut:])


def make_agibotbeta(root: Path, *, episodes: int = 4, chunks: int = 2) -> None:
    """AgiBot: task folders, frame numbers from 0 in each episode, one robot type, stride 45."""
    media = root / "regression" / "agibot_45"
    for split, task in (("seen_train", 327), ("seen_val", 352), ("unseen", 593)):
        rows = [
            {"dataset": f"task_{task}", "task_id": task, "episode_id": 804000 + e, "perspective": "1st",
             "robot_type": "a2d", **row}
            for e in range(episodes)
            for row in _chain(
                media, f"task_{task}", 804000 + e, 0, chunks=chunks, stride=45, dim=16, seed=task + e
            )
        ]  # fmt: skip
        write_csv(root, f"agibotbeta_metadata_{split}.csv", AGIBOT_COLUMNS, rows)


ROBOTS = (("G1edu-u3_pick", ""), ("R1_Lite_move", "galaxea_r1_lite"), ("leju_pour", "leju_robot"))


def make_robocoin(root: Path, *, blank: bool = True, episodes: int = 2, chunks: int = 3) -> None:
    """RoboCOIN: one folder a sub-dataset, several robot types, some of them blank, stride 10."""
    media = root / "regression" / "robocoin_10"
    for number, split in enumerate(("seen_train", "seen_val", "unseen")):
        rows = [
            {"dataset": f"{name}_{split}", "robot_type": robot, "perspective": "1st", **row}
            for k, (name, robot) in enumerate(ROBOTS)
            if robot or blank
            for e in range(episodes)
            for row in _chain(
                media, f"{name}_{split}", e, 3366 + 100 * e, chunks=chunks, stride=10, dim=12,
                seed=5000 + 100 * number + 10 * k + e,
            )
        ]  # fmt: skip
        write_csv(root, f"robocoin_metadata_{split}.csv", ROBOCOIN_COLUMNS, rows)


def make_libero(root: Path, *, demos: int = 6) -> None:
    """LIBERO: every segment forward and, with its images swapped, under the opposite label; split by rows."""
    media = root / "classification" / "LIBERO"
    rows: Rows = []
    for demo in range(demos):
        for number, label in enumerate(("Open", "Up", "Forward_Up")):
            folder = f"libero_goal_clean/open_the_drawer_demo/demo_{demo}/action_{number:02d}"
            rng = np.random.default_rng(9000 + 10 * demo + number)
            start, end = f"{folder}/action_start.png", f"{folder}/action_end.png"
            _image(media / start, rng)
            _image(media / end, rng)
            rows.append({"src_img": start, "tgt_img": end, "action": label})
            rows.append({"src_img": end, "tgt_img": start, "action": OPPOSITE[label]})
    order = np.random.default_rng(1).permutation(len(rows))
    cut = len(rows) * 3 // 4
    write_csv(root, "libero_metadata_train.csv", LIBERO_COLUMNS, [rows[i] for i in order[:cut]])
    write_csv(root, "libero_metadata_val.csv", LIBERO_COLUMNS, [rows[i] for i in order[cut:]])


def moving_square(frames: int, width: int = 64, height: int = 48, seed: int = 0) -> np.ndarray:
    """Return uint8 `[t h w 3]`: a bright square that wanders over a noisy background."""
    rng = np.random.default_rng(seed)
    background = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
    video = np.repeat(background[None], frames, 0)
    x, y = rng.integers(0, width - 12), rng.integers(0, height - 12)
    for t in range(frames):
        x, y = (x + int(rng.integers(0, 6))) % (width - 12), (y + int(rng.integers(0, 3))) % (height - 12)
        video[t, y : y + 12, x : x + 12] = (250, 220, 20 + (t * 7) % 200)
    return video


def _write_clip(path: Path, frames: np.ndarray) -> None:
    """Encode frames `[t h w 3]` as mp4 of 30 frames a second; threads cost more than 20 small frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def make_clips(root: Path, key: str = "robot_1st", *, recordings: int = 5, segments: int = 2) -> None:
    """Human_1st or Robot_1st: clips `<recording>_<segment>[_rev].mp4` of 20 frames, nine of them chosen."""
    dataset, labels = (
        ("TACO", ("place", "pick")) if key == "human_1st" else ("AgiBotWorld-Beta", ("grab", "fold"))
    )
    media = root / "classification"
    rows: Rows = []
    for recording in range(recordings):
        for segment in range(segments):
            frames = moving_square(20, 32, 24, seed=100 * recording + segment)
            for suffix, images in (("", frames), ("_rev", frames[::-1])):
                name = f"{dataset}/{160335 + recording}_{segment}{suffix}.mp4"
                _write_clip(media / name, images)
                rows.append(
                    {"dataset": dataset, "video_path": name, "action": labels[segment % len(labels)],
                     "sample_indices": "1,3,5,7,9,11,13,15,17"}
                )  # fmt: skip
    rows.sort(key=lambda row: (row["video_path"].endswith("_rev.mp4"), row["video_path"]))  # twins apart
    cut = len(rows) * 7 // 10
    write_csv(root, f"{key}_metadata_train.csv", CLIP_COLUMNS, rows[:cut])
    write_csv(root, f"{key}_metadata_val.csv", CLIP_COLUMNS, rows[cut:])


def write_sample(root: Path) -> Path:
    """Write all keys of the benchmark below one root, seconds and a few MB.

    Raises:
        ConfigError: The folder exists and is not empty.
    """
    if root.exists() and any(root.iterdir()):
        raise ConfigError(
            expected="a new or empty folder",
            got=f"{root}",
            fix="Pass out=<a new folder>, or delete this one.",
        )
    root.mkdir(parents=True, exist_ok=True)
    (root / "SYNTHETIC.txt").write_text(LABEL, encoding="utf-8")
    # As many recordings as it takes until, by their names, every split has one.
    make_calvin(root, train=22)
    for stride in (5, 15, 30):
        make_vlabench(root, stride, episodes=9, chunks=4)
    make_agibotbeta(root, episodes=12)
    make_robocoin(root)
    make_libero(root, demos=14)
    make_clips(root, "human_1st", recordings=8)
    make_clips(root, "robot_1st", recordings=8)
    return root
