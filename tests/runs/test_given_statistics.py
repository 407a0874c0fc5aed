"""`statistics=<file>`: actions are normalised with the numbers of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from larybench_files import make_calvin, make_libero, make_robocoin

from lary_policy import cli
from lary_policy.actions.scaling import CONSTANTS

FAST = ("encoder=pixels", "encoder.image_px=28", "head=mlp-small", "head.train.epochs=1", "head.width=16")
CALVIN = {"mean": [0.5] * 7, "std": [2.0] * 7, "count": 9, "dataset": "calvin"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_calvin(root, train=12, val=3, chunks=2)
    make_robocoin(root)
    make_libero(root)
    return root


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """Shared, so that latents are extracted once."""
    return tmp_path_factory.mktemp("out")


@pytest.fixture
def lary(data, output):
    def run(verb: str, source: str, *settings: str) -> int:
        fast = () if verb.startswith("data") else (*FAST, "run=run", "device=cpu")
        folders = (f"data_dir={data}", f"output_dir={output}")
        return cli.main([*verb.split(), f"source={source}", *folders, *fast, *settings])

    return run


def mse(output: Path) -> dict[str, float]:
    rows = json.loads((output / "run" / "report.json").read_text())
    return {r["split"]: r["value"] for r in rows if r["metric"] == "mse"}


def results(output: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in (output / "cache" / "probe").glob(f"{name}*/result.json")]


def test_numbers_written_by_data_statistics_change_nothing(lary, output):
    """The reference's kind of file, robots and blank ones included, is what the train split gives anyway."""
    assert lary("data statistics", "robocoin", "protocol=lary", "unknown_robots=identity") == 0
    assert lary("suite", "robocoin", "protocol=lary") == 0
    own = mse(output)
    assert lary("suite", "robocoin", "protocol=lary", f"statistics={output}/statistics/robocoin.json") == 0
    assert mse(output) == pytest.approx(own, rel=1e-4)
    origins = {r["statistics"] for r in results(output, "robocoin-lary")}
    assert origins == {"train split, each robot (identity)", "file robocoin.json, each robot (identity)"}


def test_the_numbers_of_the_file_are_those_of_the_head(lary, output, tmp_path):
    file = tmp_path / "calvin.json"
    for value in (2.0, 4.0):  # another content is another result, though the file has the same name
        file.write_text(json.dumps({**CALVIN, "std": [value] * 7}))
        assert lary("suite", "calvin", "protocol=lary", f"statistics={file}") == 0
    stats = [
        json.loads(p.read_text())["stats"]["std"] for p in (output / "cache/probe").glob("calvin*/head.json")
    ]
    assert sorted(stats) == [[2.0] * 7, [4.0] * 7]
    assert lary("suite", "calvin", "protocol=lary") == 0
    stats = [
        json.loads(p.read_text())["stats"]["std"] for p in (output / "cache/probe").glob("calvin*/head.json")
    ]
    assert list(CONSTANTS["calvin"].std) in stats


def test_relative_files_are_of_the_references_relative_target(lary, output, tmp_path):
    file = tmp_path / "relative_action_stats_calvin.json"
    file.write_text(json.dumps({**CALVIN, "action_mode": "relative", "definition": "last - first"}))
    assert lary("suite", "calvin", "protocol=lary", "targets=[relative]", f"statistics={file}") == 0
    assert {r["target"] for r in results(output, "calvin-lary") if "relative" in r["statistics"]} == {
        "displacement"
    }


@pytest.mark.parametrize(
    ("source", "content", "settings", "says"),
    [
        ("calvin", {"dataset": "robocoin"}, (), "expected statistics of calvin"),
        ("calvin", {"mean": [0.0] * 12, "std": [1.0] * 12}, (), "7 action dimensions"),
        ("calvin", {"action_mode": "relative"}, (), "expected statistics of absolute actions"),
        ("calvin", {"action_mode": "absolute"}, ("targets=[displacement]",), "of relative actions"),
        ("calvin", {}, ("protocol=native",), "got target relative with statistics="),
        ("libero", {}, ("head=attentive-small",), "a source with actions"),
        ("robocoin", {"mean": [0.0] * 12, "std": [1.0] * 12}, (), "expected statistics of robocoin"),
    ],
)
def test_statistics_that_do_not_fit_are_named_before_anything_is_computed(
    lary, data, tmp_path, capsys, source, content, settings, says
):
    file = tmp_path / "stats.json"
    file.write_text(json.dumps({**CALVIN, **content}))
    away = f"output_dir={tmp_path}/out"
    assert lary("suite", source, "protocol=lary", f"statistics={file}", *settings, away) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out" / "cache").exists()
    assert lary("suite", "calvin", f"statistics={tmp_path}/none.json", "targets=[absolute]", away) == 2
    assert "none.json" in capsys.readouterr().err
