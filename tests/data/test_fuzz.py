"""Damaged files of every format that is read: a value or a named error, never anything else, never a wait."""

import io
import json
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from larybench_files import make_calvin, make_clips
from lerobot_files import write_lerobot
from PIL import Image
from video_files import moving_square, write_video

from lary_policy.data import layout
from lary_policy.data.arrays import PlainChunks, read_chunk, read_steps
from lary_policy.data.integrity import find_changes, write_checksums
from lary_policy.data.larybench.statistics import read_statistics
from lary_policy.data.lerobot.files import LeRobotFiles
from lary_policy.data.lerobot.view import LeRobotAbout, write_view
from lary_policy.data.registry import open_source
from lary_policy.data.simulated.writer import read_episodes
from lary_policy.errors import LaryPolicyError
from lary_policy.frames.frame import decode_frame
from lary_policy.frames.stored import ParquetFrame
from lary_policy.frames.video import check_video, frame_numbers, probe_video, read_video_frames

SECONDS = 20.0  # a file that takes longer than this hangs
ODD = (
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x" * 999,
    "\0",
    [],
    {},
    [[]],
    {"a": None},
)


def one_byte(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def of_bytes(data: bytes, rng: random.Random) -> bytes:
    """Cut, repeat, swap, blank or insert a stretch."""
    i, j = sorted(rng.sample(range(len(data) + 1), 2))
    k = rng.randrange(len(data) + 1)
    part = data[i:j]
    return rng.choice(
        [
            lambda: data[:i],
            lambda: data[i:],
            lambda: data[:i] + data[j:],
            lambda: data[:j] + part + data[j:],
            lambda: data[j:] + data[:j],
            lambda: data[:i] + bytes(j - i) + data[j:],
            lambda: data[:k] + rng.randbytes(rng.randrange(1, 64)) + data[k:],
            lambda: b"",
            lambda: data + data,
        ]
    )()


def of_json(data: bytes, rng: random.Random) -> bytes:
    """Replace, drop or double a node anywhere in the tree."""
    value = json.loads(data)
    places = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(value)
    node, key = rng.choice(places)
    action = rng.randrange(8)
    if action == 0:
        del node[key]
    elif action == 1 and isinstance(node, dict):
        node[f"{key}x"] = node.pop(key)
    elif action == 2 and isinstance(node, list):
        node.append(node[key])
    elif action == 3:
        return json.dumps(rng.choice(ODD)).encode()
    else:
        node[key] = rng.choice(ODD)
    return json.dumps(value).encode()


def of_csv(data: bytes, rng: random.Random) -> bytes:
    lines = [line.split(b",") for line in data.split(b"\n")]
    row = rng.choice(lines)
    place = rng.randrange(len(row))
    odd = (
        b"",
        b"../../etc/passwd",
        b"/dev/zero",
        b"nan",
        b"\0",
        b'"',
        b"\xff\xfe",
        b"x" * 200_000,
        b"1e999",
        b"-1",
    )
    action = rng.randrange(5)
    if action == 0:
        del row[place]
    elif action == 1:
        row.insert(place, b"more")
    elif action == 2:
        lines.append(row)
    else:
        row[place] = rng.choice(odd)
    return b"\n".join(b",".join(line) for line in lines)


def of_parquet(data: bytes, rng: random.Random) -> bytes:
    """Drop, rename, retype, blank, cut or reorder a column or rows of a valid table."""
    table = pq.read_table(io.BytesIO(data))
    place = rng.randrange(table.num_columns)
    name, rows = table.column_names[place], table.num_rows
    odd = rng.choice(
        [
            lambda: table.drop([name]),
            lambda: table.rename_columns([f"{n}x" if n == name else n for n in table.column_names]),
            lambda: table.set_column(place, name, pa.nulls(rows)),
            lambda: table.set_column(place, name, pa.array(["x"] * rows)),
            lambda: table.set_column(place, name, pa.array([float("nan")] * rows)),
            lambda: table.set_column(place, name, pa.array([-(2**62)] * rows)),
            lambda: table.set_column(place, name, pa.array([[1.0] * (i % 3) for i in range(rows)])),
            lambda: table.set_column(place, name, pa.array([{"bytes": b"x"}] * rows)),
            lambda: table.slice(rng.randrange(rows)),
            lambda: table.slice(0, 0),
            lambda: table.take(list(reversed(range(rows)))),
            lambda: pa.concat_tables([table, table]),
        ]
    )()
    buffer = io.BytesIO()
    pq.write_table(odd, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One good file of each kind, with what reads it and how it is damaged beside single bits."""
    root = tmp_path_factory.mktemp("fuzz")
    rng = np.random.default_rng(0)
    files = {}

    def add(name, path, read, damage):
        files[name] = (Path(path), read, damage)

    np.save(root / "a.npy", rng.normal(size=(5, 7)).astype(np.float32))
    add("npy", root / "a.npy", lambda p: (read_chunk(p, 5, 7), read_steps(p, 7)), of_bytes)
    add("npy in blocks", root / "a.npy", lambda p: PlainChunks(5, 7).read(str(p)), of_bytes)
    picture = Image.fromarray(moving_square(1)[0])
    for suffix in ("png", "jpg", "bmp", "webp", "tiff", "ppm"):
        picture.save(root / f"a.{suffix}")
        add(suffix, root / f"a.{suffix}", decode_frame, of_bytes)
    for suffix, codec in (("mp4", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4")):
        video = write_video(root / f"v.{suffix}", moving_square(12), codec=codec)
        add(
            suffix,
            video,
            lambda p: (probe_video(p), check_video(p), frame_numbers(p, [0.0]), read_video_frames(p, [1, 7])),
            of_bytes,
        )
    make_calvin(root / "calvin", train=8)
    add(
        "pair csv",
        root / "calvin" / "data" / "calvin_metadata_train.csv",
        lambda p: open_source("calvin", data_dir=root / "calvin", protocol="lary").pairs("train"),
        of_csv,
    )
    make_clips(root / "clips", recordings=2)
    add(
        "clip csv",
        root / "clips" / "data" / "robot_1st_metadata_train.csv",
        lambda p: open_source("robot_1st", data_dir=root / "clips", protocol="lary").clips("train"),
        of_csv,
    )
    add_json(root, add)
    for kind in ("video", "image"):
        dataset = write_lerobot(root / kind, episodes=3, steps=8, video=kind == "video")
        add_lerobot(kind, dataset, add)
    return files


def add_json(root, add):
    about = {"dataset": "reach", "task": "reach", "embodiment": "arm7", "stride": 5, "cameras": ["front"],
             "seeds": {"train": [0], "val": [1]}}  # fmt: skip
    (root / "sim").mkdir()
    (root / "sim" / layout.DATASET_FILE).write_text(json.dumps(about))
    dataset = root / "sim" / layout.DATASET_FILE
    add("dataset.json", dataset, lambda p: open_source("simulated", data_dir=p.parent).spec, of_json)
    record = {"seed": 1, "split": "train", "steps": 10, "success": True, "success_step": 5,
              "labels": ["Up", ""], "noise_steps": [0, 2], "failure": ""}  # fmt: skip
    (root / "sim" / layout.EPISODES_FILE).write_text(json.dumps({"0": record, "1": record}))
    add("episodes.json", root / "sim" / layout.EPISODES_FILE, lambda p: read_episodes(p.parent), of_json)
    stats = {"count": 9, "mean": [0.0] * 7, "std": [1.0] * 7}
    (root / "stats.json").write_text(
        json.dumps(
            {"dataset": "calvin", "action_mode": "absolute", "robot_stats": {"a": stats}, "global": stats}
        )
    )
    add(
        "statistics",
        root / "stats.json",
        lambda p: read_statistics(p, dataset="calvin", action_dim=7),
        of_json,
    )
    (root / "sums").mkdir()
    (root / "sums" / "a").write_text("a")
    write_checksums(root / "sums")
    add(
        "checksums",
        root / "sums" / "checksums.json",
        lambda p: list(find_changes(p.parent, workers=0)),
        of_json,
    )
    lary = {"repo_id": "a/b", "frames": "png", "cameras": ["front"], "dataset": {"failed": {"0": record}},
            "episodes": [{"episode": 0, "seed": 1, "split": "train"}], "steps": 9, "seconds": 1.0,
            "unreadable": [{"item": "x"}]}  # fmt: skip
    (root / "about" / "meta").mkdir(parents=True)
    (root / "about" / "meta" / "lary.json").write_text(json.dumps(lary))
    add(
        "lary.json", root / "about" / "meta" / "lary.json", lambda p: LeRobotAbout.read(p.parents[1]), of_json
    )


def add_lerobot(kind, root, add):
    def tables(_):
        return open_source("lerobot", data_dir=root).pairs("train")

    def view(_):
        out = root.parent / f"{kind}-view"
        shutil.rmtree(out, ignore_errors=True)
        return write_view(LeRobotFiles.read(root), out, camera_stats={"mean": [0.0]})

    def cells(path):
        return [decode_frame(ParquetFrame(path, "observation.images.top", i)) for i in (0, 7)]

    steps = next((root / "data").rglob("*.parquet"))
    add(f"{kind}: steps", steps, tables, of_parquet)
    add(f"{kind}: steps as bytes", steps, tables, of_bytes)
    if kind == "image":
        add("image: cells", steps, cells, of_parquet)
        return
    add("info.json", root / "meta" / "info.json", tables, of_json)
    add("stats.json", root / "meta" / "stats.json", view, of_json)
    add("tasks", root / "meta" / "tasks.parquet", tables, of_parquet)
    add("episodes", next((root / "meta" / "episodes").rglob("*.parquet")), tables, of_parquet)
    add("steps for a view", steps, view, of_parquet)


def damage_all(made, count):
    """Return what every reader made of its damaged file that was no value and no named error."""
    wrong, tried = [], 0
    for name, (path, read, structural) in made.items():
        good, rng = path.read_bytes(), random.Random(name)
        read(path)  # it is good
        for number in range(2 * count):
            damage = one_byte if number < count else structural if number % 3 else of_bytes
            path.write_bytes(damage(good, rng))
            started, tried = time.monotonic(), tried + 1
            try:
                read(path)
            except LaryPolicyError:
                pass
            except Exception as error:  # the point of the test: it is listed
                wrong.append(f"{name} {number}: {type(error).__name__}: {str(error)[:200]}")
            if time.monotonic() - started > SECONDS:
                wrong.append(f"{name} {number}: {time.monotonic() - started:.0f} s")
        path.write_bytes(good)
    return wrong, tried


def test_damaged_files_are_values_or_named_errors(made, caplog):
    caplog.set_level("CRITICAL")  # a source says what it found, each time
    wrong, tried = damage_all(made, 20)
    assert not wrong, "\n".join(wrong)
    assert tried == 40 * len(made) > 1000


@pytest.mark.slow
def test_damaged_files_are_values_or_named_errors_at_length(made, caplog):
    caplog.set_level("CRITICAL")
    wrong, _ = damage_all(made, 200)
    assert not wrong, "\n".join(wrong)
