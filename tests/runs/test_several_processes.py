"""A run on a source in two processes, as `accelerate launch` and `torchrun` start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from larybench_files import make_calvin, make_libero

from lary_policy import cli
from lary_policy.heads.training import workers as together

LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
HEADS = "heads=[{kind:mlp,width:16,train:{epochs:2}},{kind:attentive,width:16,num_heads:2,train:{epochs:1}}]"
SETTINGS = (
    "source=larybench", "sources=[calvin,libero]", HEADS, "encoder=pixels", "encoder.image_px=28",
    "device=cpu", "protocol=lary", "loggers=[jsonl]", "run=run",
)  # fmt: skip


def lary(
    data: Path, output: Path, *launcher: str, verb: str = "suite", sources: str = "calvin,libero"
) -> subprocess.CompletedProcess[str]:
    command = (*(launcher or (sys.executable,)), "-m", "lary_policy.cli", verb, *SETTINGS)
    return subprocess.run(
        [*command, f"sources=[{sources}]", f"data_dir={data}", f"output_dir={output}"],
        capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_calvin(root, train=12, val=3, chunks=2)
    make_libero(root, demos=8)
    return root


@pytest.fixture(scope="module")
def two(data, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Output folder and what was said by a run of two processes."""
    output = tmp_path_factory.mktemp("two")
    return output, lary(data, output, *LAUNCHER)


def scores(output: Path) -> dict[tuple[str, ...], Any]:
    rows = json.loads((output / "run" / "report.json").read_text())
    return {(r["task"], r["metric"], r["target"]): (r["n"], r["value"]) for r in rows}


@pytest.mark.slow  # three interpreters that import torch on two cores
def test_two_processes_report_what_one_does(data, two, tmp_path):
    output, done = two
    assert done.returncode == 0, done.stderr[-3000:]
    assert cli.main(["suite", *SETTINGS, f"data_dir={data}", f"output_dir={tmp_path}"]) == 0
    alone, together_ = scores(tmp_path), scores(output)
    assert alone.keys() == together_.keys()
    assert {task for task, *_ in alone} == {"calvin", "libero"}
    for key, (count, value) in alone.items():
        assert together_[key] == (count, pytest.approx(value, rel=1e-3, abs=1e-4)), key


@pytest.mark.slow
def test_only_the_first_process_writes_and_speaks(two):
    output, done = two
    assert done.stdout.split() == [str(output / "run" / "report.html")]
    assert done.stderr.count("  probe calvin-lary-pixels") == 1
    cells = [path.parent for path in (output / "cache" / "probe").glob("*/result.json")]
    assert len(cells) == 2
    for cell in cells:
        lines = (cell / "metrics.jsonl").read_text().splitlines()
        result = json.loads((cell / "result.json").read_text())
        assert len(lines) == len(result["history"])
        assert not (cell / "training.safetensors").exists()


@pytest.mark.slow
def test_an_error_ends_all_processes_and_is_said_once(tmp_path):
    done = lary(tmp_path / "nowhere", tmp_path / "output", *LAUNCHER)
    assert done.returncode != 0
    assert done.stderr.count("DatasetError: expected the folder of source calvin") == 1


@pytest.mark.parametrize(
    "command",
    [("data", "verify"), ("suite", "source=calvin", "-m", "seed=0,1")],
    ids=lambda c: " ".join(c),
)
def test_what_needs_one_process_says_so(command, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main([*command]) == 2
    assert "2 processes of a launcher" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    assert cli.main([*command]) == 2
    assert capsys.readouterr().err == ""


def test_without_a_launcher_nothing_waits(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    together.connect("cpu")
    together.wait_for_all()
    assert together.agree([1]) == [1]
    assert together.first_alone(lambda: "done", lambda: "read") == "done"
    assert together.first_then_all(lambda: "done") == "done"


@pytest.mark.slow  # five interpreters that import torch, and more frames than one shard takes
def test_every_process_encodes_its_share_of_the_same_store(tmp_path):
    """Three shards of frames: one a process, with the digests that a single process gives them."""
    make_calvin(tmp_path / "data", train=400, val=2, chunks=2)
    found = []
    for name, launcher in (("three", (*LAUNCHER[:-1], "3")), ("one", ())):
        done = lary(tmp_path / "data", tmp_path / name, *launcher, verb="extract", sources="calvin")
        assert done.returncode == 0, done.stderr[-3000:]
        (store,) = (tmp_path / name / "cache" / "latents").iterdir()
        (cell,) = (tmp_path / name / "cache" / "extract").glob("*/result.json")
        result = json.loads(cell.read_text())
        told = {key: result[key] for key in ("requested", "unique", "encoded", "reused", "quarantined")}
        shards = sorted(path.stem for path in store.glob("shards/*.safetensors"))
        index = sorted(map(str, pq.read_table(store / "index.parquet").to_pylist()))
        found.append((shards, index, told))
    assert len(found[0][0]) == 3
    assert found[0] == found[1]
