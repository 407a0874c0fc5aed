"""Points of a study: written, read, put together and never mixed."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from lary_policy.errors import DatasetError
from lary_policy.paths import MAX_JSON_BYTES
from lary_policy.report import (
    Measured,
    Origin,
    ReportBundle,
    merge_points,
    points_bundle,
    read_points,
    study_points,
    write_points,
    write_report,
)
from lary_policy.report.compare import REFERENCE_HEADS
from lary_policy.scores import SampleScores, wilson_ci

from .synthetic import probe_scores, rollout_scores

HERE = Origin({"probe": 10, "rollout": 6}, "cpu", {"image_px": 84}, "0.1", "abc")
RATES = {f"e{i}-s": 0.1 + 0.1 * i for i in range(6)} | {"e0-s@noise0.5": 0.3}


def outcomes(task="reach", seed=0):
    """Ten episodes of each view, with all four outcomes."""
    found = []
    for score in rollout_scores(task, "policy", RATES):
        if score.metric != "success":
            continue
        hits = [float(i < round(10 * score.value)) for i in range(10)]
        seeds = tuple(str(300_000 + i) for i in range(10))
        one = wilson_ci(int(sum(hits)), 10)
        score = replace(score, seed=seed, n=10, value=one.value, ci95=one.ci95, clusters=10)
        done, left = [0.5 + v / 2 for v in hits], [v / 4 for v in hits]
        known = {"success": hits, "success_at_end": hits, "progress": done, "speed": left}
        for metric, values in known.items():
            mean = float(np.mean(values))
            found.append(
                Measured(
                    replace(
                        score, metric=metric, value=mean, ci95=None if metric != "success" else score.ci95
                    ),
                    SampleScores(metric, seeds, seeds, tuple(values)),
                )
            )
    return found


def bundle(seeds=(0,), origin=HERE):
    scores = probe_scores("reach", "policy", {view: 1 - rate for view, rate in RATES.items()})
    scores = [replace(s, seed=seed) for s in scores for seed in seeds]
    scores += [
        replace(s, mode="state", metric="r2", value=1 - s.value, ci95=None, target="state")
        for s in scores
        if (s.metric, s.target) == ("mse", "relative")
    ]
    known = [m for seed in seeds for m in outcomes(seed=seed)]
    shown = [m.score for m in known if m.score.metric in ("success", "success_at_end")]
    return ReportBundle("t", "s", (*scores, *shown), measured=tuple(known), origin=origin,
                        latents=dict.fromkeys(RATES, (4, 8)))  # fmt: skip


def test_points_are_read_back_and_make_the_same_league(tmp_path):
    first = bundle(seeds=(0, 1))
    write_report(first, tmp_path)
    points = read_points([tmp_path / "points.jsonl.gz"])
    points = [p for p in points if p.facts["head"] not in REFERENCE_HEADS]  # which are there, too
    assert len(points) == 2 * len(RATES)
    assert set(points[0].outcomes) == {"success", "success_at_end", "progress", "speed"}
    again = points_bundle(points, title="t", suite="s", origin=HERE)
    ours, theirs = (one.league.to_dict() for one in (first, again))
    for a, b in zip(ours["standings"], theirs["standings"], strict=True):
        assert (a["proxy"], a["task"], a["points"], a["verdict"]) == (
            b["proxy"],
            b["task"],
            b["points"],
            b["verdict"],
        )
        assert a["readings"]["pearson"]["value"] == pytest.approx(b["readings"]["pearson"]["value"], abs=1e-5)
    write_points(tmp_path / "once.gz", points)
    write_points(tmp_path / "again.gz", study_points(again, HERE))
    assert (tmp_path / "again.gz").read_bytes() == (tmp_path / "once.gz").read_bytes()
    assert (tmp_path / "once.gz").stat().st_size < 400 * len(points)


def test_points_of_several_runs_are_put_together_and_counted_once():
    half, whole = study_points(bundle(seeds=(0,)), HERE), study_points(bundle(seeds=(0, 1)), HERE)
    merged, notes = merge_points([*half, *whole])
    assert len(merged) == len(whole)
    assert notes == ()
    changed = replace(half[0], outcomes={**half[0].outcomes, "success": (0.0,) * 10})
    merged, notes = merge_points([*whole, changed])
    assert "measured twice" in notes[0]
    assert merged[0].outcomes["success"] == whole[0].outcomes["success"]


@pytest.mark.parametrize(
    "other", [replace(HERE, versions={"probe": 9, "rollout": 6}), replace(HERE, device="cuda"),
              replace(HERE, setup={"image_px": 112})],
)  # fmt: skip
def test_points_of_another_kind_are_named_and_never_mixed(other):
    here, there = study_points(bundle(), HERE), study_points(bundle(), other)[:3]
    merged, notes = merge_points([*there, *here])
    assert len(merged) == len(here)
    assert "3 points of" in notes[0]
    if other.versions != HERE.versions:
        with pytest.raises(DatasetError, match=r"got cell versions probe 9, rollout 6 on cpu"):
            merge_points(there, HERE.versions)


def test_which_file_is_read_first_changes_no_interval():
    points = study_points(bundle(), HERE)
    there, back = points, points[::-1]
    assert points_bundle(there, title="", suite="").league == points_bundle(back, title="", suite="").league


def test_a_family_that_an_encoder_declares_goes_with_its_points(tmp_path):
    declared = replace(bundle(), families={"e0-s": "e1"})
    assert {p.family for p in declared.driven[0]} == {f"e{i}" for i in range(1, 6)} | {"e0"}  # of its control
    write_points(tmp_path / "points.gz", study_points(declared, HERE))
    again = points_bundle(read_points([tmp_path / "points.gz"]), title="t", suite="s")
    assert {p.family for p in again.driven[0] if p.view == "e0-s"} == {"e1"}


def test_damaged_files_are_named_with_their_line(tmp_path):
    path = tmp_path / "points.jsonl.gz"
    later = json.dumps({**study_points(bundle(), HERE)[0].to_json(), "format": 9})
    wrong = {"points of a study": b"no gzip", "line 1": gzip.compress(b"{}\n")}
    for says, content in {**wrong, "format 9": gzip.compress(later.encode())}.items():
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=says):
            read_points([path])
    with pytest.raises(DatasetError, match="no such file"):
        read_points([tmp_path / "none.gz"])
    os.mkfifo(tmp_path / "pipe.gz")
    with pytest.raises(DatasetError, match="no regular file"):
        read_points([tmp_path / "pipe.gz"])
    path.write_bytes(gzip.compress(b" " * (MAX_JSON_BYTES + 1), 1))
    assert path.stat().st_size < MAX_JSON_BYTES / 100
    with pytest.raises(DatasetError, match="more than 268435456 bytes unpacked"):
        read_points([path])


def changed(field, value):
    """Return a line whose field, named with dots, has another value; `...` takes the field away."""
    line = next(p for p in study_points(bundle(), HERE) if p.proxies and sum(p.outcomes["success"]) == 3)
    raw = place = json.loads(json.dumps(line.to_json()))
    *path, last = field.split(".")
    for name in path:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return raw


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("outcomes.success", "1111000000", r"hits\.success: 4, the ones of outcomes\.success, .*; got 3"),
        ("outcomes.success", [0.5] * 10, r"outcomes\.success: 10 digits 0 and 1"),
        ("outcomes.success", "111000000", r"outcomes\.success: 10 digits"),
        ("outcomes.success", ..., r"got none called 'success'"),
        ("outcomes.success_at_end", "0001110000", r"success_at_end: 0 in episode 3, which has no success"),
        ("outcomes.speed", [0.5] * 10, r"speed: 0 in episode 3"),
        ("outcomes.progress", [float("nan")] * 10, r"outcomes\.progress: 10 numbers from 0 to 1.*got \[NaN"),
        ("outcomes.progress", [1e999] * 10, r"outcomes\.progress"),
        ("outcomes.progress", [10**400] * 10, r"outcomes\.progress"),
        ("outcomes.progress", [1.5] * 10, r"outcomes\.progress"),
        ("outcomes.progres", [1.0] * 10, r"a known outcome.*Did you mean 'progress'"),
        ("hits.success", 10, r"hits\.success: 3.*got 10"),
        ("hits.success", 3.0, r"hits\.success"),
        ("hits.progress", 3, r"in hits the fields .*also one called 'progress'"),
        ("n", 9, r"n: 10, its episodes.*got 9"),
        ("n", True, r"n: a whole number"),
        ("seed", 1.9, r"seed: a whole number from 0.*got 1\.9"),
        ("seed", "0", r"seed: "),
        ("latent", [0], r"latent: .*got \[0\]"),
        ("latent", "48", r"latent: "),
        ("loop", "polcy", r"loop: one of subgoal, policy"),
        ("loop", ["policy"], r"loop: "),
        ("view", 5, r"view: a text"),
        ("view", ..., r"none called 'view'"),
        ("episodes", ["1"] * 10, r"episodes: texts, each once"),
        ("colour", "red", r"also one called 'colour'"),
        ("origin", 5, r"origin: an object"),
        ("origin.device", 5, r"origin\.device: a text.*got 5"),
        ("origin.versions", {"probe": "10"}, r"origin\.versions: "),
        ("origin.more", 1, r"in origin the fields .*'more'"),
        ("proxies.policy_mse", 5, r"proxies\.policy_mse: an object"),
        ("proxies.policy_mse.encoder", "other", r"in proxies\.policy_mse the fields .*'encoder'"),
        ("proxies.policy_mse.metric", "r2", r"also one called 'metric'"),
        ("proxies.policy_mse.value", float("inf"), r"proxies\.policy_mse\.value: a finite number.*Infinity"),
        ("proxies.policy_mse.value", 77.0, r"an interval that contains the value"),
        ("proxies.policy_mse.value", "0.3", r"proxies\.policy_mse\.value"),
        ("proxies.policy_mse.ci95", [0.1], r"proxies\.policy_mse\.ci95"),
        ("proxies.policy_mse.n", 0, r"proxies\.policy_mse\.n: a whole number from 1"),
        ("proxies.policy_mes", {}, r"a known proxy.*policy_mse"),
    ],
)  # fmt: skip
def test_a_line_that_contradicts_itself_is_named_with_its_field(tmp_path, field, value, words):
    path, whole = tmp_path / "points.jsonl.gz", json.dumps(changed("seed", 0))
    path.write_bytes(gzip.compress(f"{whole}\n{json.dumps(changed(field, value))}\n".encode()))
    with pytest.raises(DatasetError, match=words) as found:
        read_points([path])
    assert f"in line 2 of {path}" in found.value.expected
    assert "lary report" in found.value.fix


def test_controls_are_counted_apart_and_other_outcomes_have_standings():
    found = bundle(seeds=(0, 1)).league
    first = next(s for s in found.standings if s.readings)
    assert (first.points, first.controls, first.families) == (7, 1, 6)
    assert {s.outcome for s in found.outcomes} == {"success_at_end", "progress", "speed"}
    assert "speed of success" in next(s.verdict for s in found.outcomes if s.outcome == "speed")
    assert all(one["training_seeds"] == 2 for one in found.spread)
    assert all(one["seeds"] == 0.0 for one in found.spread)  # both ran the same outcomes here


def test_what_keeps_points_apart_is_named_whichever_side_has_it():
    longer = replace(HERE, setup={**HERE.setup, "max_episode_steps": 150})
    assert longer.apart(HERE) == "max_episode_steps None, not 150"
    assert HERE.apart(longer) == "max_episode_steps 150, not None"
    assert HERE.apart(HERE) == ""
