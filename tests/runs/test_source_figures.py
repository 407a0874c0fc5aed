"""What a run on files hands to its report besides scores: frames under attention, composition of splits."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
import torch
from larybench_files import make_clips, make_libero, make_robocoin
from PIL import Image

from lary_policy import cli
from lary_policy.data.pairs import PairTable
from lary_policy.data.registry import open_source
from lary_policy.encoders.preprocess import Preprocess
from lary_policy.runs.classes import FRAME_PX, seen_frames
from lary_policy.runs.context import RunData
from lary_policy.runs.rows import compositions, split_sizes

SETTINGS = (
    "encoder=pixels", "encoder.image_px=28", "head=attentive-small", "head.num_heads=2", "head.width=16",
    "head.train.epochs=1", "device=cpu", "protocol=lary", "run=run",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_libero(root, demos=6)
    make_clips(root, "human_1st", recordings=4)
    make_robocoin(root)
    return root


def opened(data: Path, key: str) -> RunData:
    return RunData(open_source(key, data_dir=data, protocol="lary"), "lary")


@pytest.mark.parametrize(("key", "frames"), [("libero", 2), ("human_1st", 9)])
def test_attention_lies_over_the_frames_of_its_sample(data, tmp_path, key, frames):
    assert cli.main(["suite", f"source={key}", f"data_dir={data}", f"output_dir={tmp_path}", *SETTINGS]) == 0
    (cell,) = (tmp_path / "cache/probe").glob("*/result.json")
    maps = json.loads(cell.read_text())["attention"]
    assert maps
    for one in maps:
        assert len(one["frames"]) == len(one["weights"]) == frames
        assert "place" not in one
        image = Image.open(io.BytesIO(base64.b64decode(one["frames"][0])))
        assert (image.format, image.size) == ("JPEG", (FRAME_PX, FRAME_PX))
    page = (tmp_path / "run/report.html").read_text()
    look = "Where class heads look" + (" in pairs" if frames == 2 else "")
    for heading in (look, "What the datasets are made of", "Datasets"):
        assert f">{heading}</h" in page
    assert page.count("data:image/png;base64") >= len(maps) * frames


def test_frames_are_those_of_the_row_as_the_encoder_crops_them(data):
    table = opened(data, "libero").table("val")
    assert isinstance(table, PairTable)
    squashed = seen_frames(table, 1, Preprocess(mean=(0.5,) * 3, std=(0.2,) * 3))
    cropped = seen_frames(table, 1, Preprocess(crop=(256, 128)))
    assert len(squashed) == len(cropped) == 2
    assert squashed != cropped
    original = (
        Image.open(table.rows[1].src_frames[0])
        .convert("RGB")
        .resize((FRAME_PX, FRAME_PX), Image.Resampling.BICUBIC)
    )
    theirs = torch.tensor(list(original.tobytes()), dtype=torch.float32)
    ours = torch.tensor(
        list(Image.open(io.BytesIO(base64.b64decode(squashed[0]))).convert("RGB").tobytes()),
        dtype=torch.float32,
    )
    assert float((ours - theirs).abs().mean()) < 12  # what JPEG makes of noise


def test_frames_that_are_gone_are_left_out(tmp_path):
    make_libero(tmp_path, demos=2)
    table = opened(tmp_path, "libero").table("val")
    table.rows[0].tgt_frames[0].unlink()
    assert seen_frames(table, 0, Preprocess()) == []


def test_what_splits_are_made_of(data):
    robots = opened(data, "robocoin")
    by = {c.kind: c for c in compositions(robots)}
    assert by["robot"].splits == ("seen_train", "seen_val", "unseen")
    assert dict(zip(by["robot"].names, by["robot"].counts, strict=True)) == {
        "(blank)": (6, 6, 6), "galaxea_r1_lite": (6, 6, 6), "leju_robot": (6, 6, 6),
    }  # fmt: skip
    assert len(by["collection"].names) == 9
    assert "class" not in by
    sizes = {size.split: size for size in split_sizes(robots)}
    assert (sizes["seen_train"].samples, sizes["seen_train"].recordings) == (18, 6)
    assert [sizes[s].role for s in sizes] == ["train", "select, report", "report"]


def test_classes_of_a_split_are_counted(data):
    libero = opened(data, "libero")
    (classes, *_) = compositions(libero)
    assert classes.kind == "class"
    assert sum(map(sum, classes.counts)) == 36
    assert {size.classes for size in split_sizes(libero)} <= {5, 6}
    assert {c.kind for c in compositions(opened(data, "human_1st"))} == {"class"}
