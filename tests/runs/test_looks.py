"""`looks` in runs: part of the keys of cells, refused before anything runs."""

import json
import shutil

import pytest
from synthetic_panda import write_panda

from lary_envs.scene.table import LOOKS as SIMULATED
from lary_policy.data.simulated.collect import collect_demonstrations
from lary_policy.errors import DatasetError, SimulationError, UnknownNameError
from lary_policy.runs.collect import data_cells, run_collect
from lary_policy.runs.config import LOOKS, run_config
from lary_policy.runs.context import RunContext
from lary_policy.runs.rollout import Loop, run_rollout

SMALL = ("demos={train:1,val:1,test:1}", "episodes=2", "num_worlds=2", "image_px=28")


@pytest.fixture
def root(tmp_path, monkeypatch):
    write_panda(tmp_path / "menagerie")
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path / "menagerie"))
    return tmp_path / "menagerie"


@pytest.fixture
def context(settings, tmp_path, root):
    return lambda *more: RunContext.create(run_config(settings(*SMALL, f"output_dir={tmp_path}/out", *more)))


def test_the_schema_knows_the_looks_of_the_simulation(settings):
    assert set(LOOKS) == set(SIMULATED)
    assert run_config(settings()).looks == "primitives"
    with pytest.raises(UnknownNameError, match="menagerie, primitives"):
        run_config(settings("looks=meshes"))


def test_other_looks_are_other_cells(context):
    plain, dressed = context(), context("looks=menagerie")
    keys = [cell.key for run in (plain, dressed) for cell in data_cells(run, "reach")]
    assert len(set(keys)) == 4


def test_what_cannot_be_dressed_is_refused_before_anything_runs(settings, tmp_path, root):
    with pytest.raises(UnknownNameError, match="Valid names: arm7"):
        RunContext.create(run_config(settings("looks=menagerie", "tasks=[dual_reach]")))
    shutil.rmtree(root / "franka_emika_panda")
    with pytest.raises(SimulationError, match="MENAGERIE_ROOT"):
        RunContext.create(run_config(settings("looks=menagerie")))


def test_demonstrations_and_rollouts_show_the_chosen_looks(context):
    run, plain = context("looks=menagerie"), context()
    data = run_collect(run, "reach")
    other = run_collect(plain, "reach")
    assert json.loads((data.source.root / "dataset.json").read_text())["looks"] == "menagerie"
    assert "looks" not in json.loads((other.source.root / "dataset.json").read_text())
    mine, theirs = (d.table("train") for d in (data, other))
    assert mine.rows[0].src_frames[0].read_bytes() != theirs.rows[0].src_frames[0].read_bytes()
    assert mine.rows[0].action.read_bytes() == theirs.rows[0].action.read_bytes()
    loop = run.config.loops[0]
    results = [run_rollout(c, Loop(d, loop)) for c, d in ((run, data), (plain, other))]
    assert results[0]["episodes"] == results[1]["episodes"]
    assert results[0]["video"] != results[1]["video"]
    videos = [(c.cache / r["video"]).read_bytes() for c, r in zip((run, plain), results, strict=True)]
    assert videos[0] != videos[1]


def test_a_dataset_of_other_looks_is_not_reused(tmp_path, root):
    options = {"splits": {"train": [0]}, "image_px": 28, "num_worlds": 1}
    for made, asked in (("primitives", "menagerie"), ("menagerie", "primitives")):
        folder = tmp_path / "sets" / made
        collect_demonstrations(folder, "reach", looks=made, **options)
        assert collect_demonstrations(folder, "reach", looks=made, **options).reused
        with pytest.raises(DatasetError, match="differs in looks"):
            collect_demonstrations(folder, "reach", looks=asked, **options)
