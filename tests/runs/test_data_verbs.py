"""`lary data verify|indices|prepare|statistics` from the command line."""

import json
import os

import numpy as np
import pytest
from larybench_files import make_calvin, make_clips, make_libero, make_robocoin, read_csv, write_csv
from video_files import moving_square, write_video

from lary_policy import cli
from lary_policy.latents.store import LatentStore


def lary(*arguments):
    return cli.main(["data", *arguments])


def report(folder, name):
    [path] = (folder / "out").glob(f"{name}-*.json")
    return json.loads(path.read_text())


@pytest.fixture
def settings(tmp_path):
    return [f"data_dir={tmp_path}", f"output_dir={tmp_path}/out"]


def test_verify_exits_0_on_sound_files_and_1_with_a_report_otherwise(tmp_path, settings, capsys):
    make_calvin(tmp_path)
    assert lary("verify", "source=calvin", "workers=1", *settings) == 0
    for path in (tmp_path / "out").glob("*.json"):
        path.unlink()
    row = read_csv(tmp_path / "data/calvin_metadata_val.csv")[0]
    image = tmp_path / "regression/calvin/val_stride5" / row["src_img"]
    os.truncate(image, 40)
    assert lary("verify", "source=calvin", "workers=0", *settings) == 1
    found = report(tmp_path, "verify-calvin")
    assert [p["item"] for p in found["problems"]] == [str(image)]
    assert found["checked"] == {"csv": 2, "rows": 36, "images": 45, "actions": 36}
    assert str(image) in " ".join(capsys.readouterr().err.split())


def test_d22_a_leak_or_a_missing_csv_is_never_exit_code_0(tmp_path, settings):
    """Defect D22: the reference's integrity and preparation scripts always end with 0."""
    make_libero(tmp_path)
    assert lary("verify", "source=libero", "workers=0", *settings) == 1
    assert lary("verify", "source=vlabench", "workers=0", *settings) == 1


def test_indices_of_a_source_and_of_a_csv(tmp_path, settings):
    make_clips(tmp_path)
    assert lary("indices", "source=robot_1st", "workers=0", *settings) == 0
    written = read_csv(tmp_path / "out/indices/robot_1st_metadata_train.csv")
    assert all(len(row["sample_indices"].split(",")) == 9 for row in written)
    csv = tmp_path / "data/robot_1st_metadata_val.csv"
    rows = read_csv(csv)
    rows[0]["video_path"] = "none.mp4"
    write_csv(tmp_path, csv.name, rows[0], rows)
    options = [f"csv={csv}", f"media_dir={tmp_path}/classification", "num_frames=4", "workers=0"]
    assert lary("indices", *options, f"output_dir={tmp_path}/out") == 1
    written = read_csv(tmp_path / "out/indices" / csv.name)
    assert written[0]["sample_indices"] == ""
    assert len(written[1]["sample_indices"].split(",")) == 4


def test_prepare(tmp_path, settings):
    make_clips(tmp_path, "human_1st", recordings=1, segments=1)
    name = "human_1st_metadata_train.csv"
    rows = read_csv(tmp_path / "data" / name)
    extra = {**rows[0], "dataset": "SSv2", "video_path": "SSv2/0_0_rev.mp4"}
    write_csv(tmp_path, name, rows[0], [*rows, extra])
    write_video(tmp_path / "raw/7.webm", moving_square(30), codec="libvpx-vp9")
    seed = {"video_path": "x/7.webm", "seed_output": "0 - 0.5 pick"}
    write_csv(tmp_path, "seed_ssv2.csv", seed, [seed])
    assert lary("prepare", f"ssv2_root={tmp_path}/raw", "workers=0", *settings) == 0
    assert (tmp_path / "classification/SSv2/0_0_rev.mp4").is_file()
    assert report(tmp_path, "prepare")["made"] == 1
    assert lary("prepare", f"egodex_root={tmp_path}/raw", "workers=0", *settings) == 2  # no annotations
    assert lary("prepare", *settings) == 2


def test_statistics_are_written_where_blank_robots_are_pooled_knowingly(tmp_path, settings, capsys):
    make_robocoin(tmp_path)
    assert lary("statistics", "source=robocoin", "protocol=lary", *settings) == 2
    assert "unknown_robots=pool" in capsys.readouterr().err
    assert lary("statistics", "source=robocoin", "protocol=lary", "unknown_robots=pool", *settings) == 0
    written = json.loads((tmp_path / "out/statistics/robocoin.json").read_text())
    assert set(written["robot_stats"]) == {"galaxea_r1_lite", "leju_robot"}
    make_calvin(tmp_path)
    assert lary("statistics", "source=calvin", "relative=true", "protocol=lary", *settings) == 0
    written = json.loads((tmp_path / "out/statistics/relative_action_stats_calvin.json").read_text())
    assert written["count"] == 24
    assert lary("statistics", "source=robocoin", "unknown_robots=guess", *settings) == 2


def test_import(tmp_path, settings):
    make_calvin(tmp_path)
    rows = read_csv(tmp_path / "data/calvin_metadata_val.csv")
    (tmp_path / "la/calvin/val/lapa").mkdir(parents=True)
    for i, row in enumerate(rows):
        row["la_path"] = f"calvin/val/lapa/{i}.npz"
        np.savez_compressed(tmp_path / "la" / row["la_path"], tokens=np.full((4, 8), i, np.float32))
    write_csv(tmp_path, "val_la_calvin_5_lapa.csv", rows[0], rows)
    options = ["source=calvin", "split=val", "model=lapa", f"latents_dir={tmp_path}/la", *settings]
    assert lary("import", *options) == 0
    assert report(tmp_path, "import-calvin")["imported"] == 12
    [store] = (tmp_path / "out/cache/latents").iterdir()
    assert len(LatentStore.open(store)) == 12
    (tmp_path / "la" / rows[0]["la_path"]).unlink()
    assert lary("import", *options) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "source=clavin", "data_dir=."], "calvin"),
        (["verify", "data_dir=."], "source=calvin"),
        (["verify", "source=calvin"], "data_dir="),
        (["verify", "source=calvin", "worker=1"], "Did you mean 'workers'"),
        (["verify", "source=calvin", "data_dir=.", "workers=-1", "protocol=paper"], "native"),
        (["indices"], "media_dir=<folder>"),
        (["indices", "source=calvin", "data_dir=."], "a source of pairs"),
        (["statistics", "source=libero", "data_dir=."], "which has classes"),
        (["import", "source=calvin", "data_dir=."], "split=None, model=None"),
        (["indexes"], "indices"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_says_what_to_do(arguments, message, capsys):
    assert lary(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("action", ["verify", "indices", "prepare", "statistics", "import"])
def test_help_lists_the_settings_of_an_action(action, capsys):
    assert lary(action, "--help") == 0
    text = capsys.readouterr().out
    assert f"usage: lary data {action}" in text
    assert "data_dir=null" in text
