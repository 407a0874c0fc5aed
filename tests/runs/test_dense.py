"""`windows=dense`: a policy head learns from every control step; nothing else changes."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lary_policy.data.simulated import (
    DENSE,
    EpisodeJob,
    SimulatedSource,
    layout_of,
    read_episodes,
    verify_dataset,
)
from lary_policy.data.simulated.collect import ExpertSession
from lary_policy.errors import ConfigError
from lary_policy.paths import read_json

ASKED = (
    "probes=[{mode:pair,target:absolute,head:mlp-small},"
    "{mode:policy,target:relative,head:mlp-small,proprio:true,windows:dense},"
    "{mode:policy-critical,target:relative,head:mlp-small,proprio:true,windows:dense}]"
)


@pytest.fixture(scope="module")
def dense(shared_copy):
    """The finished suite, its policy head trained on every control step besides."""
    before = shared_copy.snapshot()
    outcome = shared_copy.run(ASKED, "rollouts=[{mode:policy,target:relative}]", "run=dense")
    return shared_copy, outcome, {name for name in shared_copy.snapshot() if name not in before}


def test_nothing_but_the_dense_head_is_computed(dense):
    shared, outcome, made = dense
    heads = {name.split("/")[1] for name in made if name.startswith(("probe/", "rollout/"))}
    assert all("-dense-" in name or "expert" in name for name in heads), heads
    assert {r["head"] for r in outcome.results.probe} == {"mlp512-project32", "mlp512-project32-dense"}
    (drives, *_) = [r for r in outcome.results.rollout if r["encoder"] == "pixels" and r["head"] != "random"]
    assert drives["head"] == "mlp512-project32-dense"
    rows = next(r["rows"] for r in outcome.results.probe if r["mode"] == "policy")
    chunks = next(r["rows"] for r in shared.outcome.results.probe if r["mode"] == "policy")
    assert rows["test"] == chunks["test"]
    assert rows["train"]["used"] > 3 * chunks["train"]["used"]
    assert {p.facts["head"] for p in _points(outcome)} >= {"mlp512-project32-dense"}


def _points(outcome):
    from lary_policy.report import read_points

    return read_points([outcome.folder / "points.jsonl.gz"])


def test_dense_windows_are_those_of_a_plain_loop(dense):
    (folder,) = dense[0].cells("data", "reach-dense")
    (base,) = [
        path for path in dense[0].cells("data", "reach") if "goals" not in path.name and path != folder
    ]
    source = SimulatedSource(data_dir=base, dense=folder)
    table, k = source.pairs(DENSE), source.spec.stride
    settings, records = read_json(base / "dataset.json"), read_episodes(folder)[:2]
    session = ExpertSession(settings, 2, "cpu")
    raw = session.record([EpisodeJob(r.episode, r.seed, "train") for r in records], layout_of(settings),
                         every_step=True)  # fmt: skip
    session.close()
    found = {(row.episode, row.src_step): place for place, row in enumerate(table.rows)}
    assert len([row for row in table.rows if row.episode == "0"]) == records[0].steps - k + 1
    for record, told in zip(records, raw, strict=True):
        clean, states = np.array([c.numpy() for c in told.clean]), np.array([s.numpy() for s in told.states])
        for step in range(len(clean) - k + 1):
            place = found[str(record.episode), step]
            np.testing.assert_array_equal(table.actions()[place].numpy(), clean[step : step + k])
            np.testing.assert_array_equal(table.anchors()[place].numpy(), states[step])
        step = len(clean) // 2
        picture = np.asarray(Image.open(str(table.rows[found[str(record.episode), step]].src_frames[0])))
        assert (picture == np.asarray(Image.open(io.BytesIO(told.images[step][0])))).all()
    every = source.pairs("train")
    for row, chunk in zip(every.rows, every.actions(), strict=True):
        assert (table.actions()[found[row.episode, row.src_step]] == chunk).all()
    assert not verify_dataset(folder, workers=0).problems


def test_windows_are_refused_where_they_mean_nothing(copy):
    with pytest.raises(ConfigError, match="of a question about the present frame"):
        copy.config("probes=[{mode:pair,target:absolute,head:mlp-small,windows:dense}]", "rollouts=[]")
    with pytest.raises(ConfigError, match="windows=dense for simulated tasks"):
        replace(copy.config(ASKED, "rollouts=[]"), tasks=(), source="calvin", rollouts=())
