import json

import numpy as np
import pytest
from PIL import Image

from lary_policy.data import layout
from lary_policy.data.registry import open_source
from lary_policy.data.simulated.source import SimulatedSource
from lary_policy.errors import DatasetError, UnknownNameError


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
    with pytest.raises(DatasetError, match="KeyError"):
        SimulatedSource(data_dir=recorded)
    (recorded / layout.DATASET_FILE).unlink()
    with pytest.raises(DatasetError, match="FileNotFoundError"):
        SimulatedSource(data_dir=recorded)
