import json

import numpy as np
import pytest
import torch
from PIL import Image

from lary_policy.actions.embodiment import load_embodiment
from lary_policy.data import layout
from lary_policy.data.larybench.pair_csv import load_pairs
from lary_policy.data.registry import open_source
from lary_policy.data.simulated.source import SimulatedSource
from lary_policy.errors import ConfigError, DatasetError, UnknownNameError
from lary_policy.frames.frame import decode_frame


@pytest.fixture
def recorded(tmp_path):
    """A folder as `lary data` writes it, with one episode a split and two cameras that share files."""
    rng = np.random.default_rng(0)
    about = {"dataset": "reach", "embodiment": "arm7", "stride": 5, "cameras": ["front"],
             "seeds": {"train": [0], "val": [1], "test": [2]}}  # fmt: skip
    (tmp_path / layout.DATASET_FILE).write_text(json.dumps(about))
    for episode, split in enumerate(about["seeds"]):
        lines = ["src_img,tgt_img,action,episode,label"]
        for folder in (layout.IMAGES, layout.ACTIONS):
            (tmp_path / folder / f"ep_{episode}").mkdir(parents=True)
        for step in (0, 5, 10):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / layout.frame_file(layout.IMAGES, episode, step))
        for src in (0, 5):
            names = [layout.frame_file(layout.IMAGES, episode, s) for s in (src, src + 5)]
            action = layout.action_file(episode, src, src + 5)
            np.save(tmp_path / action, rng.normal(size=(5, 7)).astype(np.float32))
            lines.append(",".join([*names, action, str(episode), "Up"]))
        (tmp_path / layout.metadata_name("reach", split)).write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("protocol", ["native", "lary"])
def test_splits_embodiment_and_rows_come_from_the_folder(recorded, protocol):
    source = open_source("simulated", data_dir=recorded, protocol=protocol)
    spec = source.spec
    assert (spec.kind, spec.embodiment, spec.stride, spec.where) == ("pairs", "arm7", 5, "simulated")
    assert (spec.splits, spec.report_splits, spec.protocol) == (("train", "val", "test"), ("test",), protocol)
    table = source.pairs("test")
    assert (len(table), table.labels(), set(table.robot_types())) == (2, ("Up", "Up"), {""})
    assert {row.episode for row in table.rows} == {"2"}


def test_wrong_folder_camera_kind_and_split_are_named(recorded, tmp_path):
    with pytest.raises(DatasetError, match="clips"):
        SimulatedSource(data_dir=recorded).clips("train")
    with pytest.raises(UnknownNameError, match="unseen"):
        SimulatedSource(data_dir=recorded).pairs("unseen")
    with pytest.raises(UnknownNameError, match="wrist"):
        SimulatedSource(data_dir=recorded, cameras=("wrist",)).pairs("train")
    (recorded / layout.DATASET_FILE).write_text("{}")
    with pytest.raises(DatasetError, match="no usable dataset"):
        SimulatedSource(data_dir=recorded)
    (recorded / layout.DATASET_FILE).unlink()
    with pytest.raises(DatasetError, match="no such file"):
        SimulatedSource(data_dir=recorded)


def test_a_task_is_a_source_that_collects_itself_and_opens_a_world(tmp_path):
    """Row for row what `load_pairs` reads, with goals, labels, measured poses and noise."""
    options = {
        "task": "reach", "folder": str(tmp_path / "reach"), "cameras": ["front", "wrist"], "image_px": 32,
        "demos": {"train": 2, "val": 1, "test": 1, "noise_std_m": 0.01}, "episodes": 1, "num_worlds": 4,
    }  # fmt: skip
    source = open_source("simulated", **options)
    assert source.spec.splits == ("train", "val", "test", "rollout")
    for split in source.spec.splits:
        ours, goals = source.pairs(split), split == "rollout"
        root = tmp_path / "reach" / ("goals" if goals else "demos")
        theirs = load_pairs(
            root, "reach", split, embodiment=load_embodiment("arm7"), stride=5, cameras=("front", "wrist")
        )
        assert ours.rows == theirs.rows
        for name in ("actions", "executed", "anchors", "noise_steps", "episodes"):
            assert torch.equal(getattr(ours, name)(), getattr(theirs, name)())
        assert ours.has_states
        assert ours.labels() == theirs.labels()
        assert bool(ours.noise_steps().any()) == (split == "train")
    again = open_source("simulated", data_dir=source.root, goals=source.goals_root)
    assert again.pairs("rollout").rows == source.pairs("rollout").rows
    world = source.world(1)
    world.reset([300_000])
    shown = decode_frame(source.pairs("rollout").rows[0].src_frames[1])
    assert torch.equal(world.frames()[0, 1], shown)
    world.close()


def test_what_a_task_needs_to_be_collected_is_named(recorded, tmp_path):
    with pytest.raises(ConfigError, match="demos="):
        open_source("simulated", task="reach", folder=tmp_path / "x")
    with pytest.raises(ConfigError, match="train, val, test"):
        open_source("simulated", task="reach", folder=tmp_path / "x", demos={"train": 2})
    with pytest.raises(DatasetError, match="names none"):
        open_source("simulated", data_dir=recorded).world(1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cameras": "front"}, r"a list, each text.*Pass cameras=\[front\]"),
        ({"stride": 2.5}, "a whole number"),
        ({"stride": True}, "a whole number"),
        ({"episodes": None}, "a whole number"),
        ({"demos": [1]}, "Mapping"),
    ],
)
def test_settings_are_never_read_as_another_type(recorded, options, words):
    with pytest.raises(ConfigError, match=words):
        open_source("simulated", data_dir=recorded, **options)
