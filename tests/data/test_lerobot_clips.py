"""Clips of LeRobot datasets: which frames they have, wherever those lie, and that probes train on them."""

import json

import pytest
import torch
from lerobot_files import write_lerobot
from video_files import read_clip

from lary_policy import cli
from lary_policy.data.registry import open_source
from lary_policy.errors import ConfigError, DatasetError, UnknownNameError

PROBE = ("encoder=pixels", "encoder.image_px=28", "head=attentive-small", "head.num_heads=2",
         "head.train.epochs=1", "head.width=32", "device=cpu", "attention=0")  # fmt: skip


@pytest.fixture(scope="module", params=[True, False], ids=["video", "images"])
def root(request, tmp_path_factory):
    """Eight episodes of 21, 22, ... frames; tasks alternate."""
    return write_lerobot(tmp_path_factory.mktemp("clips") / "set", episodes=8, video=request.param)


def clips(root, split, **options):
    return open_source("lerobot", data_dir=root, kind="clips", **options).clips(split)


def by_lerobot(root):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("tests/tiny", root=root, video_backend="pyav")


def test_an_episode_is_a_clip_of_nine_evenly_spaced_frames(root):
    theirs, table = by_lerobot(root), clips(root, "train")
    assert [row.recording for row in table.rows] == [f"episode {n}" for n in (0, 3, 4, 5, 7)]
    assert table.labels() == tuple(
        ("push the cube", "lift the cube")[int(row.recording.split()[1]) % 2] for row in table.rows
    )
    for row in table.rows:
        number = int(row.recording.split()[1])
        first = sum(21 + n for n in range(number))
        wanted = [first + int((21 + number) / 9 * i) for i in range(9)]
        seen = [(theirs[i]["observation.images.top"] * 255).round().byte() for i in wanted]
        assert torch.equal(read_clip(row), torch.stack(seen).permute(0, 2, 3, 1))
        assert len(set(table.frame_ids(row))) == 9


def test_pieces_of_episodes_do_not_overlap_and_share_their_recording(root):
    table = clips(root, "train", clip_s=0.5)  # ten frames
    assert len(table) == 5 * 2
    ids = [name for row in table.rows for name in table.frame_ids(row)]
    assert len(set(ids)) == len(ids) == 90
    assert len(set(table.recordings())) == 5
    splits = [set(clips(root, split).recordings()) for split in ("train", "val", "test")]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 8


def test_short_clips_repeat_their_last_frame(root):
    row = clips(root, "val", clip_s=0.15).rows[0]  # three frames
    assert row.indices[2:] == (row.indices[2],) * 7


def test_a_clip_longer_than_an_episode_is_counted(root):
    table = clips(root, "train", clip_s=1.2)  # 24 frames, episodes have 21, 24, 25, 26 and 28
    assert (len(table), [q.item for q in table.quarantined]) == (4, ["episode 0"])
    with pytest.raises(DatasetError, match="smaller clip_s"):
        clips(root, "train", clip_s=10)


def test_a_lost_video_is_named(root, tmp_path):
    import shutil

    copy = shutil.copytree(root, tmp_path / "copy")
    files = list(copy.rglob("*.mp4"))
    if files:
        files[0].unlink()
        with pytest.raises(DatasetError, match="for example"):
            clips(copy, "train")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"kind": "films"}, UnknownNameError),
        ({"kind": "clips", "clip_s": 0}, ConfigError),
        ({"kind": "pairs", "clip_s": 2.0}, ConfigError),
    ],
)
def test_choices_that_do_not_exist(root, options, error):
    with pytest.raises(error):
        open_source("lerobot", data_dir=root, **options)


def test_clips_are_of_one_camera_and_no_pairs(tmp_path, root):
    with pytest.raises(DatasetError, match="source of pairs"):
        open_source("lerobot", data_dir=root, kind="clips").pairs("train")
    two = write_lerobot(tmp_path / "two", episodes=1, steps=5, cameras=("top", "wrist"), video=False)
    with pytest.raises(ConfigError, match=r"cameras=\[top\]"):
        open_source("lerobot", data_dir=two, kind="clips")


def test_a_clip_probe_trains_on_it(root, tmp_path):
    settings = (f"root={root}", "kind=clips", f"output_dir={tmp_path}", "run=run", *PROBE)
    assert cli.main(["suite", "source=lerobot", *settings]) == 0
    scores = json.loads((tmp_path / "run" / "report.json").read_text())
    assert {"top1"} <= {score["metric"] for score in scores}
    assert {score["n"] for score in scores if score["metric"] == "top1"} == {2}
