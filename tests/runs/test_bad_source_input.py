"""Bad input of a run on files is named or counted; no run ends well with rows missing unnamed."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from larybench_files import make_calvin, make_libero, read_csv, write_csv
from written import rewrite

from lary_policy import cli
from lary_policy.errors import DatasetError
from lary_policy.latents.store import STORE_FILE
from lary_policy.runs import probe as source_probe
from lary_policy.runs.rows import REASONS, RowCount

FAST = ("encoder=pixels", "encoder.image_px=28", "head.train.epochs=2", "head.width=16", "device=cpu")
HEADS = {"calvin": ("head=mlp-small",), "libero": ("head=attentive-small", "head.num_heads=2")}


@pytest.fixture
def lary(tmp_path):
    def run(verb: str, source: str, *settings: str, protocol: str = "lary") -> int:
        folders = (f"data_dir={tmp_path}/data", f"output_dir={tmp_path}/out", "run=run")
        chosen = (f"protocol={protocol}", *FAST, *HEADS[source])
        return cli.main([verb, f"source={source}", *folders, *chosen, *settings])

    return run


def page(root: Path) -> str:
    return re.sub(r"\s+", " ", (root / "out" / "run" / "report.html").read_text())


def scores(root: Path) -> list[dict[str, Any]]:
    return json.loads((root / "out" / "run" / "report.json").read_text())


def edit(root: Path, name: str, change) -> None:
    """Let `change` edit the rows of a CSV in place."""
    rows = read_csv(root / "data" / "data" / name)
    columns = list(rows[0])
    change(rows)
    write_csv(root / "data", name, columns, rows)


def test_a_class_that_training_lacks_is_counted_and_named(tmp_path, lary, capsys):
    make_libero(tmp_path / "data", demos=8)
    edit(tmp_path, "libero_metadata_val.csv", lambda rows: [r.update(action="Somewhere") for r in rows[:3]])
    assert lary("suite", "libero") == 0
    line = "libero, protocol lary, split val: 9 of 12 rows used; left out: 3 of a class that training lacks."
    assert line in page(tmp_path)
    assert line in " ".join(capsys.readouterr().err.split())
    assert {s["n"] for s in scores(tmp_path)} == {9}


def test_a_split_of_such_classes_alone_is_an_error(tmp_path, lary, capsys):
    make_libero(tmp_path / "data", demos=8)
    edit(tmp_path, "libero_metadata_val.csv", lambda rows: [r.update(action="Somewhere") for r in rows])
    assert lary("suite", "libero") == 2
    said = capsys.readouterr().err
    assert "expected a sample in split val of libero with a class that training has" in said
    assert "12 samples, 12 of other classes" in said


def test_a_class_of_one_sample_runs_and_is_named_by_verify(tmp_path, lary, capsys):
    make_libero(tmp_path / "data", demos=8)
    edit(tmp_path, "libero_metadata_train.csv", lambda rows: rows[0].update(action="Once"))
    assert lary("suite", "libero") == 0
    (result,) = (tmp_path / "out/cache/probe").glob("*/result.json")
    classes = {c["name"]: c["train"] for c in json.loads(result.read_text())["classes"]}
    assert classes["Once"] == 1
    assert cli.main(["data", "verify", "source=libero", f"data_dir={tmp_path}/data", "workers=0",
                     "protocol=lary", f"output_dir={tmp_path}/out"]) == 1  # fmt: skip
    assert "class 'Once' has a single row" in " ".join(capsys.readouterr().err.split())


def test_one_class_alone_is_an_error(tmp_path, lary, capsys):
    make_libero(tmp_path / "data", demos=8)
    edit(tmp_path, "libero_metadata_train.csv", lambda rows: [r.update(action="Up") for r in rows])
    assert lary("suite", "libero") == 2
    assert "expected at least two classes in split train of libero; got 'Up' alone" in capsys.readouterr().err


def test_a_store_of_another_encoder_is_put_aside_and_made_anew(tmp_path, lary, capsys):
    make_calvin(tmp_path / "data", train=4, val=2, chunks=2)
    assert lary("extract", "calvin") == 0
    (store,) = (tmp_path / "out/cache/latents").iterdir()
    (cell,) = (tmp_path / "out/cache/extract").glob("*/result.json")
    identity = rewrite(store / STORE_FILE, fingerprint="f" * 16)
    cell.unlink()
    assert lary("suite", "calvin") == 0
    assert "f" * 16 in capsys.readouterr().err
    aside, fresh = sorted((tmp_path / "out/cache/latents").iterdir(), key=lambda p: p != store)[::-1]
    assert json.loads((fresh / STORE_FILE).read_text())["fingerprint"] == identity["fingerprint"]
    assert json.loads((aside / STORE_FILE).read_text())["fingerprint"] == "f" * 16


@pytest.fixture
def interruptible():
    """A shell starts what it puts into the background with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_says_so_and_goes_on_to_the_same_result(tmp_path, lary, capsys, monkeypatch):
    make_calvin(tmp_path / "data", train=4, val=2, chunks=2)
    fit, epochs = source_probe.fit, []

    def stopped(*args, **kwargs):
        args = (*args[:4], lambda record: epochs.append(record.epoch) or os.kill(os.getpid(), 2))
        return fit(*args, **kwargs)

    monkeypatch.setattr(source_probe, "fit", stopped)
    assert lary("suite", "calvin") == 130
    assert "type the same again" in capsys.readouterr().err
    assert epochs == [1]
    monkeypatch.undo()
    assert lary("report", "calvin") == 2
    assert "not finished: probe calvin-lary-pixels" in " ".join(capsys.readouterr().err.split())
    assert "This run goes on" in (tmp_path / "out/run/report.html").read_text()  # of the stopped run
    assert lary("suite", "calvin") == 0
    continued = [(s["metric"], s["value"]) for s in scores(tmp_path)]
    assert "Not finished" not in page(tmp_path)
    assert lary("suite", "calvin", f"output_dir={tmp_path}/other") == 0
    others = json.loads((tmp_path / "other/run/report.json").read_text())
    assert [(s["metric"], s["value"]) for s in others] == continued


def test_rows_of_every_fault_are_counted_by_kind(tmp_path, lary):
    make_calvin(tmp_path / "data", train=4, val=3, chunks=2)
    media = tmp_path / "data/regression/calvin/val_stride5"
    rows = read_csv(tmp_path / "data/data/calvin_metadata_val.csv")
    (media / rows[0]["action"]).unlink()
    os.truncate(media / rows[2]["src_img"], 60)
    assert lary("suite", "calvin") == 0
    expected = (
        "calvin, protocol lary, split val: 4 of 6 rows used; left out: 1 whose cells or files cannot be "
        "read, 1 whose images or clips do not decode."
    )
    assert expected in page(tmp_path)
    assert {s["n"] for s in scores(tmp_path)} == {4}


def test_rows_cannot_be_lost_without_a_reason():
    assert RowCount(3, 3, {"unreadable": 0}).describe() == ""
    with pytest.raises(DatasetError, match="3 rows to be used or left out"):
        RowCount(3, 1, {"unreadable": 1})
    with pytest.raises(DatasetError):
        RowCount(3, 2, {"whatever": 1})
    assert all(RowCount(2, 1, {name: 1}).describe().endswith(text) for name, text in REASONS.items())


@pytest.mark.parametrize(("train", "val", "split"), [(1, 1, "val"), (2, 1, "val")])
def test_too_few_recordings_for_the_splits_are_an_error_that_says_so(
    tmp_path, lary, capsys, train, val, split
):
    make_calvin(tmp_path / "data", train=train, val=val, chunks=2)
    assert lary("suite", "calvin", protocol="native") == 2
    said = capsys.readouterr().err
    assert f"expected at least one recording in split {split} of calvin (native)" in said
    assert f"{train} in train, 0 in val, {val} in test" in said
    assert "protocol=lary takes the splits of the files instead" in said
    assert not (tmp_path / "out/cache").exists()
    assert lary("suite", "calvin", protocol="lary") == 0


def test_a_csv_without_rows_says_so(tmp_path, lary, capsys):
    make_calvin(tmp_path / "data", train=2, val=1, chunks=2)
    edit(tmp_path, "calvin_metadata_val.csv", lambda rows: rows.clear())
    assert lary("suite", "calvin") == 2
    assert "got no rows at all. Restore the whole file." in capsys.readouterr().err
