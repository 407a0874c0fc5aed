"""The probe suite on LARYBench's own files, as a user types it: both protocols, every kind of source."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from larybench_files import make_calvin, make_clips, make_libero, make_robocoin

from lary_policy import cli
from lary_policy.actions.scaling import CONSTANTS
from lary_policy.cli.compose import compose
from lary_policy.heads.config import load_head_config
from lary_policy.latents.store import LatentStore
from lary_policy.runs.config import DEFAULT_HEADS, SMALL_ROWS, run_config

FAST = ("head.train.epochs=1", "head.width=32", "device=cpu")
REGRESSION = ("encoder=pixels", "encoder.image_px=28", "head=mlp-small", *FAST)
CLASSES = ("encoder=pixels", "encoder.image_px=28", "head=attentive-small", "head.num_heads=2", *FAST)


@dataclass(frozen=True)
class Run:
    """Files of the benchmark and an output folder."""

    data: Path
    output: Path

    def lary(self, verb: str, source: str, *settings: str, run: str = "run") -> int:
        return cli.main(
            [
                verb,
                f"source={source}",
                f"data_dir={self.data}",
                f"output_dir={self.output}",
                f"run={run}",
                *settings,
            ]
        )

    def scores(self, run: str = "run") -> list[dict[str, Any]]:
        return json.loads((self.output / run / "report.json").read_text())

    def page(self, run: str = "run") -> str:
        return (self.output / run / "report.html").read_text()

    def cells(self, stage: str, name: str) -> list[dict[str, Any]]:
        found = sorted((self.output / "cache" / stage).glob(f"{name}*/result.json"))
        return [json.loads(path.read_text()) for path in found]

    def written(self) -> dict[str, int]:
        files = (self.output / "cache").rglob("*")
        return {str(p): p.stat().st_mtime_ns for p in files if p.is_file() and "digests" not in p.name}


@pytest.fixture(scope="module")
def calvin(tmp_path_factory) -> Run:
    run = Run(tmp_path_factory.mktemp("calvin"), tmp_path_factory.mktemp("calvin-out"))
    make_calvin(run.data, train=24, val=3, chunks=2)
    assert run.lary("suite", "calvin", "protocol=both", *REGRESSION) == 0
    return run


def test_lary_stores_float32_as_the_reference_and_native_half_of_it(calvin):
    stores = [LatentStore.open(root) for root in (calvin.output / "cache" / "latents").iterdir()]
    assert sorted(store.dtype for store in stores) == ["float16", "float32"]
    assert all(store.verify() == [] for store in stores)


def pick(scores: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [s for s in scores if all(s[k] == v for k, v in wanted.items())]


def test_both_protocols_report_on_their_own_splits(calvin):
    scores = calvin.scores()
    assert {(s["protocol"], s["split"]) for s in scores} == {("native", "test"), ("lary", "val")}
    (lary,) = pick(scores, protocol="lary", metric="mse")
    assert (lary["target"], lary["task"], lary["mode"], lary["n"]) == ("absolute", "calvin", "pair", 6)
    assert {s["target"] for s in pick(scores, protocol="native")} == {"absolute", "relative"}
    assert {"r2", "mse/position", "rmse_cm/position", "deg/orientation"} <= {s["metric"] for s in scores}


def test_lary_normalises_with_the_constants_of_the_reference(calvin):
    """Its head file carries them, and its MSE is in their units."""
    (folder,) = (calvin.output / "cache" / "probe").glob("calvin-lary-*")
    stats = json.loads((folder / "head.json").read_text())["stats"]
    assert tuple(stats["mean"]) == CONSTANTS["calvin"].mean
    (result,) = calvin.cells("probe", "calvin-lary")
    assert result["statistics"] == "constants of the reference"
    scores = {s["metric"]: s["value"] for s in result["scores"]}
    scaled = scores["rmse_cm/dim/x"] / 100 / CONSTANTS["calvin"].std[0]
    assert scores["mse/dim/x"] == pytest.approx(scaled**2, rel=1e-4)


def test_nothing_finished_is_computed_again(calvin):
    before = calvin.written()
    for verb in ("suite", "report", "probe", "extract"):
        assert calvin.lary(verb, "calvin", "protocol=both", *REGRESSION, run="again") == 0
    assert calvin.written() == before
    assert calvin.scores("again") == calvin.scores()


def test_another_seed_or_protocol_adds_cells_and_keeps_the_others(calvin):
    before = calvin.written()
    assert calvin.lary("suite", "calvin", "protocol=lary", "seed=1", *REGRESSION, run="seed") == 0
    after = calvin.written()
    assert {path: after[path] for path in before} == before
    assert len(calvin.cells("probe", "calvin-lary")) == 2
    assert {s["seed"] for s in calvin.scores("seed")} == {1}


def test_the_page_says_what_was_read_and_how(calvin):
    page = calvin.page()
    assert "calvin, protocol lary: rows train 48, val 6; heads learn on train, are chosen on val" in page
    assert "Set aside: none of" in page


@pytest.mark.parametrize(("about", "head"), [("actions", "mlp-small"), ("classes", "attentive-small")])
def test_usual_heads_fit_the_number_of_rows(about, head):
    config = run_config(compose("suite", ["source=calvin"]))

    def heads(protocol, rows, asked=config):
        probes = asked.probes_for(protocol, (about,), "pairs", rows)
        return list(dict.fromkeys(p.head.model for p in probes))

    many = [load_head_config(name).model for name in DEFAULT_HEADS["native", about]]
    assert heads("native", SMALL_ROWS) == heads("native", None) == many
    assert heads("native", SMALL_ROWS - 1) == [load_head_config(head).model]
    reference = [load_head_config(name).model for name in DEFAULT_HEADS["lary", about]]
    assert heads("lary", 10) == reference  # whose numbers are those of the reference, however few the rows
    asked = replace(config, heads=tuple(map(load_head_config, DEFAULT_HEADS["native", about])))
    assert heads("native", 10, asked) == many


def test_few_rows_are_said_with_what_trains_the_other_heads(tmp_path, capsys):
    make_calvin(tmp_path, train=24, val=3)
    settings = ("source=calvin", f"data_dir={tmp_path}", *REGRESSION[:2], "device=cpu", "targets=[absolute]")
    assert cli.main(["probe", *settings, f"output_dir={tmp_path / 'out'}"]) == 0
    said = "".join(capsys.readouterr().err.split())
    assert "92trainingrows,fewerthan5,120,soitsheadsaresmall(mlp512-project32)" in said
    assert "heads=[mlp-reference,mlp-matched]" in said


def test_targets_of_the_reference_are_called_what_they_are(calvin):
    assert calvin.lary("suite", "calvin", "protocol=lary", "targets=[relative]", *REGRESSION, run="rel") == 0
    assert {s["target"] for s in calvin.scores("rel")} == {"displacement"}


def test_six_number_rotations(calvin):
    settings = ("rotation=rot6d", "targets=[relative_pose]", *REGRESSION)
    assert calvin.lary("suite", "calvin", *settings, run="rot6d") == 0
    assert "deg/orientation" in {s["metric"] for s in calvin.scores("rot6d")}


def test_a_damaged_image_is_counted_and_named(tmp_path):
    run = Run(tmp_path / "data", tmp_path / "out")
    make_calvin(run.data, train=24, val=3, chunks=2)
    image = min((run.data / "regression/calvin/val_stride5").rglob("*.png"))
    image.write_bytes(image.read_bytes()[:-20])
    assert run.lary("suite", "calvin", "protocol=lary", *REGRESSION) == 0
    assert {s["n"] for s in run.scores()} == {5}
    assert f"{image.name}" in run.page()


def test_blank_robot_types_are_an_error_that_names_rows_or_are_pooled(tmp_path, capsys):
    run = Run(tmp_path / "data", tmp_path / "out")
    make_robocoin(run.data, episodes=8)
    assert run.lary("suite", "robocoin", *REGRESSION) == 2
    said = capsys.readouterr().err
    assert "robocoin_metadata_seen_train.csv:" in said
    assert "unknown_robots=pool" in said
    assert run.lary("suite", "robocoin", "unknown_robots=pool", "protocol=both", *REGRESSION) == 0
    assert {(s["protocol"], s["split"]) for s in run.scores()} == {
        ("native", "test"), ("native", "unseen"), ("lary", "seen_val"), ("lary", "unseen"),
    }  # fmt: skip
    assert "rows of robot types without statistics of their own" in run.page()


def test_classes_of_pairs(tmp_path):
    run = Run(tmp_path / "data", tmp_path / "out")
    make_libero(run.data, demos=16)
    rename_one_class_of_val(run.data / "data" / "libero_metadata_val.csv")
    assert run.lary("suite", "libero", "protocol=both", *CLASSES) == 0
    scores = run.scores()
    assert {s["mode"] for s in scores} == {"atomic"}
    assert {"top1", "top1_macro", "f1_macro"} <= {s["metric"] for s in scores}
    assert "class &#39;Somewhere&#39; is not in the training split" in run.page()
    for result in run.cells("probe", "libero"):
        for one in result["attention"]:
            assert np.mean(one["weights"]) == pytest.approx(1, rel=1e-4)  # relative to even attention


def rename_one_class_of_val(path: Path) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["action"] = "Somewhere"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Run:
    run = Run(tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("clips-out"))
    make_clips(run.data, "robot_1st", recordings=12)
    return run


@pytest.mark.parametrize(
    ("encoder", "px", "shape"),
    [
        ("pixels", 28, "frame"),
        ("lapa", 32, "pair"),
        ("vjepa2-large", 32, "clip"),
    ],
)
def test_clips_through_each_kind_of_encoder(clips, encoder, px, shape):
    settings = (f"encoder={encoder}", "encoder.weights=tiny-random", *CLASSES[2:], "protocol=both")
    size = () if encoder == "lapa" else (f"encoder.image_px={px}",)
    assert clips.lary("suite", "robot_1st", *settings, *size, run=encoder) == 0
    scores = clips.scores(encoder)
    assert {s["mode"] for s in scores} == {"composite"}
    assert {s["protocol"] for s in scores} == {"native", "lary"}
    extracted = clips.cells("extract", f"robot_1st-lary-{encoder}")
    assert [r["unit"] for r in extracted] == [shape]


def test_a_sweep_runs_every_combination_once(calvin):
    sweep = ("--multirun", "protocol=native,lary", "seed=0,1", *REGRESSION)
    before = set(calvin.written())
    assert calvin.lary("suite", "calvin", *sweep) == 0
    runs = sorted(p.name for p in calvin.output.glob("*-00?-*"))
    assert [name.split("-", 3)[3] for name in runs] == [
        f"protocol-{protocol}-seed-{seed}" for protocol in ("native", "lary") for seed in (0, 1)
    ]
    found = {(s["protocol"], s["seed"]) for run in runs for s in calvin.scores(run)}
    assert found == {(p, s) for p in ("native", "lary") for s in (0, 1)}
    first = calvin.written()
    assert before <= set(first)
    assert calvin.lary("suite", "calvin", *sweep) == 0
    # One report over all of them, without computing anything.
    assert calvin.lary("report", "calvin", "protocol=both", "seeds=[0,1]", *REGRESSION, run="all-seeds") == 0
    found = {(s["protocol"], s["seed"]) for s in calvin.scores("all-seeds")}
    assert found == {(p, s) for p in ("native", "lary") for s in (0, 1)}
    assert "Not finished" not in calvin.page("all-seeds")
    results = [path for path in first if path.endswith(("result.json", "head.safetensors"))]
    assert {p: calvin.written()[p] for p in results} == {p: first[p] for p in results}


def test_errors_of_a_sweep_are_named(calvin, capsys):
    assert calvin.lary("suite", "calvin", "-m", "protocol=lary,larry", *REGRESSION) == 2
    assert "Did you mean 'lary'" in capsys.readouterr().err
    assert calvin.lary("suite", "calvin", "-m", "sed=0,1") == 2
    assert "Did you mean 'seed'" in capsys.readouterr().err


def test_several_sources_in_one_report(calvin):
    """Two sets of files of the same root: the page holds both."""
    make_libero(calvin.data, demos=16)
    heads = (
        "heads=[{kind:mlp,width:32,train:{epochs:1}},{kind:attentive,width:32,num_heads:2,train:{epochs:1}}]"
    )
    settings = ("sources=[calvin,libero]", heads, *REGRESSION[:2], "device=cpu", "protocol=lary")
    assert calvin.lary("suite", "larybench", *settings, run="all") == 0
    assert {(s["task"], s["mode"]) for s in calvin.scores("all")} == {
        ("calvin", "pair"),
        ("libero", "atomic"),
    }


def test_wrong_names_are_named(calvin, capsys):
    for verb, settings, word in (
        ("rollout", (), "verb on a source"),
        ("suite", ("protocol=both", "heads=[attentive-small]"), "a head that answers with"),
        ("suite", ("protocol=larry",), "Did you mean 'lary'"),
        ("suite", ("targets=[absolut]",), "Did you mean 'absolute'"),
    ):
        assert calvin.lary(verb, "calvin", *settings) == 2
        assert word in capsys.readouterr().err
    assert cli.main(["suite", "source=calvi"]) == 2
    assert "Did you mean 'calvin'" in capsys.readouterr().err


def test_help_of_a_source_lists_its_settings(capsys):
    assert cli.main(["suite", "source=calvin", "--help"]) == 0
    said = capsys.readouterr().out
    assert "source=" in said
    assert "unknown_robots=error" in said
    assert "csv_dir=null" in said
