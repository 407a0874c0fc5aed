"""`lary predict`: probes of an encoder, points of a study, and the success to expect."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lary_policy import cli
from lary_policy.cli.predict import forecast_lines, predict_success
from lary_policy.errors import DatasetError
from lary_policy.paths import read_json
from lary_policy.report import read_points, write_points


@pytest.fixture(scope="module")
def committed(shared_copy, tmp_path_factory):
    """Points of 24 views of reach, made of those of the tiny suite: the lower the error, the more success."""
    path, points = tmp_path_factory.mktemp("study") / "points.jsonl.gz", []
    for one in read_points([shared_copy.outcome.folder / "points.jsonl.gz"]):
        for number in range(24):
            rng, skill = np.random.default_rng(number), number / 24
            hits = tuple((rng.uniform(size=40) < 0.1 + 0.8 * skill).astype(float).tolist())
            mse = {n: replace(s, encoder=f"enc{number}-s", value=s.value * (1.5 - skill), ci95=None)
                   for n, s in one.proxies.items()}  # fmt: skip
            seeds = tuple(map(str, range(40)))
            points.append(
                replace(one, view=f"enc{number}-s", episodes=seeds, outcomes={"success": hits}, proxies=mse)
            )
    write_points(path, points)
    return path


def test_an_encoder_appears_in_the_table_without_being_driven(shared_copy, committed):
    before = {p: t for p, t in shared_copy.snapshot().items() if p.startswith(("probe/", "rollout/"))}
    done = predict_success(shared_copy.config("run=foretold"), [committed])
    assert {p: t for p, t in shared_copy.snapshot().items() if p.startswith(("probe/", "rollout/"))} == before
    assert {(one.view, one.task, one.loop) for one in done.found} == {
        ("pixels", "reach", "policy"), ("pixels", "reach", "subgoal")
    }  # fmt: skip
    for one in done.found:
        assert one.value == pytest.approx(0.5, abs=0.2)  # its errors are those of skill 0.5
        assert one.interval[0] < one.value < one.interval[1]
        assert one.points == 24
        assert 0.85 <= one.coverage <= 1
    lines = forecast_lines(done)
    assert sum("expected" in line and line.endswith("pixels") for line in lines) == 2
    assert sum("measured" in line for line in lines) == 48
    for one in done.found:  # one task: the interval of a loop is the only one
        width = one.interval[1] - one.interval[0]
        said = next(line for line in lines if line.startswith(f"{one.loop}: from"))
        assert f"and are {width:.2f} wide" in said
        assert ("too wide to tell" in said) == (width > 0.5)
    assert read_json(done.folder / "predict.json", sealed=True)["foretold"][0]["view"] == "pixels"


def test_points_of_other_versions_or_settings_are_refused_by_name(shared_copy, committed, tmp_path):
    points, path = read_points([committed]), tmp_path / "old.jsonl.gz"
    old = replace(points[0].origin, versions={**points[0].origin.versions, "probe": 1})
    write_points(path, [replace(p, origin=old) for p in points])
    with pytest.raises(DatasetError, match="got probe of cells 1, not "):
        predict_success(shared_copy.config(), [path])
    with pytest.raises(DatasetError, match="image_px 56, not 28"):
        predict_success(shared_copy.config("image_px=28"), [committed])
    write_points(path, points[:10])
    with pytest.raises(DatasetError, match="at least 20 points"):
        predict_success(shared_copy.config(), [path])
    with pytest.raises(DatasetError, match="views of tasks: push 0"):
        predict_success(shared_copy.config("tasks=[push]"), [committed])


def test_the_verb_prints_the_table(shared_copy, committed, suite_settings, capsys):
    given = [s for s in suite_settings if not s.startswith(("tasks", "encoders", "rollouts"))]
    words = ["encoder=pixels", f"output_dir={shared_copy.output_dir}", f"points=[{committed}]", "run=verb"]
    given.append("max_episode_steps=null")  # the study's own is not that of these points
    assert cli.main(["predict", *given, *words]) == 0
    said = capsys.readouterr().out
    assert "expected" in said
    assert "such intervals cover" in said
