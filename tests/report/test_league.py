"""The league of proxies on points whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lary_policy.report.compare import Measured, family_of
from lary_policy.report.driven import Driven, driven
from lary_policy.report.league import POOLED, leaders, league
from lary_policy.report.tables import league_table
from lary_policy.scores import SampleScores

from .synthetic import probe_scores, rollout_scores


def grid(families=8, tasks=("reach", "push"), noise=0.0, **fixed):
    """Views whose state probe tells success and whose policy MSE is noise."""
    rng = np.random.default_rng(0)
    found = []
    for family in range(families):
        for layer in (1, 2):
            skill = rng.uniform()
            for task in tasks:
                hits = (rng.uniform(size=(1, 60)) < np.clip(skill, 0.02, 0.98)).astype(float)
                own = {"state_probe": skill + noise * rng.normal(), "policy_mse": rng.uniform(), **fixed}
                found.append(Driven(f"enc{family}-s@layer{layer}", task, "policy", hits, own, 100 * layer))
    return found


def test_the_better_proxy_leads_and_is_told_apart():
    found = league(grid())
    pooled = [s for s in found.standings if s.task == POOLED]
    assert [s.proxy for s in pooled] == ["state_probe", "policy_mse"]
    first = pooled[0]
    assert first.readings["pearson"].value > 0.9
    assert (first.points, first.missing, first.families) == (32, 0, 8)
    assert "foretells success" in first.verdict
    assert set(first.without) == {f"enc{i}" for i in range(8)}
    (duel,) = found.duels
    assert "foretells better than" in duel.verdict
    assert "told apart from 1" in leaders(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_league_can_be_pasted():
    found = league(grid())
    head, rule, first, second = league_table(found).splitlines()
    assert head.startswith("| policy mode, 2 tasks | r [seeds, episodes] | over families |")
    assert head.count("|") == rule.count("|") == first.count("|") == second.count("|")
    best = next(s for s in found.standings if s.task == POOLED)
    single = sorted(
        s.readings["pearson"].value for s in found.standings if s.proxy == best.proxy and s.task != POOLED
    )
    assert f"| {np.mean(single):.2f}, {single[0]:.2f} to {single[1]:.2f} | 32 of 8 families |" in first
    assert f"{best.readings['pearson'].value:.2f} [" in first
    assert league_table(league([replace(p, proxies={"policy_mse": 0.1}) for p in grid(families=2)])) == ""


def test_views_that_did_not_run_everywhere_are_counted_and_named():
    points = [p for p in grid(families=3) if (p.view, p.task) != ("enc1-s@layer2", "push")]
    (note,) = league(points, ()).notes
    assert note == "policy mode: 1 of 12 views on tasks were not run: enc1-s@layer2 on push."
    assert league(grid(families=3)).notes == ()


def test_a_task_that_tells_nothing_is_left_out_by_name():
    points = grid()
    easy = [replace(p, task="easy", outcomes=np.ones((1, 60))) for p in points if p.task == "reach"]
    found, without = league([*points, *easy]), league(points)
    assert [s for s in found.standings if s.task == POOLED] == [
        s for s in without.standings if s.task == POOLED
    ]
    assert found.duels == without.duels
    assert found.notes == (
        "policy mode: success is the same for all views on easy: left out where tasks are taken together.",
    )
    assert all(not s.readings for s in found.standings if s.task == "easy")
    assert "success the same everywhere" in league(easy).standings[0].verdict


def test_few_families_are_no_evidence_about_others():
    found = league(grid(families=3))
    first = next(s for s in found.standings if s.task == POOLED)
    assert "cannot be told from 3 families" in first.verdict
    assert all("cannot be told" in duel.verdict for duel in found.duels)


def test_constant_and_missing_proxies_are_named_and_counted():
    points = grid(invariance=0.5)
    points[0] = replace(points[0], proxies={"policy_mse": 0.3})
    found = {s.proxy: s for s in league(points).standings if s.task == POOLED}
    assert found["state_probe"].missing == 1
    assert found["state_probe"].points == 31
    assert "the score the same everywhere" in found["invariance"].verdict
    assert found["invariance"].ties[0] == 31
    assert not found["invariance"].readings


def measured(rates, fingerprint=None):
    out = []
    for score in rollout_scores("reach", "policy", rates):
        if fingerprint:
            score = replace(score, fingerprint=fingerprint)
        seeds = tuple(str(300_000 + i) for i in range(10))
        values = tuple(float(i < round(10 * score.value)) for i in range(10))
        if score.metric == "success":
            out.append(Measured(score, SampleScores("success", seeds, seeds, values)))
    return out


def test_loops_are_paired_with_scores_of_the_same_weights_only():
    rates = {"a-1": 0.2, "b-1": 0.8}
    scores = probe_scores("reach", "policy", {"a-1": 0.5, "b-1": 0.2})
    points, notes = driven(measured(rates), scores, {"a-1": (4, 8)})
    assert {p.view: dict(p.proxies) for p in points} == {
        "a-1": {"policy_mse": 0.5},
        "b-1": {"policy_mse": 0.2},
    }
    assert [p.numbers for p in points] == [32, None]
    assert notes == ()
    points, notes = driven(measured(rates, "other"), scores, {})
    assert all(not p.proxies for p in points)
    assert "left out" in notes[0]


def test_training_seeds_are_rows_of_outcomes():
    one = measured({"a-1": 0.2})
    two = [replace(m, score=replace(m.score, seed=7)) for m in measured({"a-1": 0.6})]
    (point,), _ = driven([*one, *two], [], {})
    assert point.outcomes.mean(1) == pytest.approx([0.2, 0.6])


def test_families_are_named_by_encoders():
    assert family_of("dinov2-small@84px,layer6") == family_of("dinov2-small@random") == "dinov2"
    assert family_of("efficientnet-lite2@96px") == "efficientnet"
    assert family_of("my-pkg.enc:Mine@56px") == "my-pkg.enc:Mine"
    assert family_of("auto:facebook/dinov2-base@56px") == "dinov2"
    assert family_of("lapa-dinov2") == family_of("lapa") == "lapa"
    assert family_of("vjepa2-large") == "vjepa2"


def test_the_figure_shows_each_loop_with_two_proxies_and_says_what_cannot_be_told():
    from lary_policy.report import ReportBundle
    from lary_policy.report.figures import Palette
    from lary_policy.report.figures.league import proxies_side_by_side

    rates = {f"e{i}-1": 0.1 + 0.1 * i for i in range(6)}
    scores = probe_scores("reach", "policy", {view: 1 - rate for view, rate in rates.items()})
    scores += [
        replace(s, mode="state", metric="r2", value=s.value / 2, ci95=None, target="state")
        for s in scores
        if (s.metric, s.target) == ("mse", "relative")
    ]
    outcomes = measured(rates)
    bundle = ReportBundle("t", "s", (*scores, *(m.score for m in outcomes)), measured=tuple(outcomes))
    (drawing,) = proxies_side_by_side(bundle, Palette(bundle.encoders()))
    assert "policy MSE leads" in drawing.caption
    assert "6 points of 6 families" in drawing.caption
    assert "<svg" in drawing.panels[0]
    assert drawing.panels[0].count('data-name="MMRV"') == 2
    alone = replace(bundle, scores=tuple(s for s in bundle.scores if s.mode != "state"))
    assert list(proxies_side_by_side(alone, Palette(alone.encoders()))) == []


def test_a_page_of_many_views_names_few_of_them():
    from lary_policy.report import ReportBundle
    from lary_policy.report.figures import Palette
    from lary_policy.report.figures.correlation import against_success
    from lary_policy.report.statements import question

    rates = {f"a-{i}": 0.05 * i for i in range(1, 13)}
    scores = probe_scores("reach", "policy", {view: 1 - rate**2 for view, rate in rates.items()})
    bundle = ReportBundle("t", "s", (*scores, *(m.score for m in measured(rates))))
    assert "Of 12 encoders and views" in question(bundle)
    drawing = next(d for d in against_success(bundle, Palette(bundle.encoders())) if d.panels)
    assert [view for view in rates if f">{view}</text>" in drawing.panels[0]] == ["a-1", "a-12"]
    alone = [Driven(f"b-{i}", "push", "policy", np.ones((1, 4)), {}) for i in range(2)]
    points = [Driven(v, "reach", "policy", np.ones((1, 4)), {}) for v in rates] + alone
    said = next(note for note in league(points).notes if "were not run" in note)
    assert "12 views on push; b-0 and b-1 on reach" in said


def test_training_seeds_and_episodes_are_told_apart_as_variances():
    """Rates of five seeds with deviation .1, of 2,000 episodes of equal difficulty."""
    rng = np.random.default_rng(1)
    rates = np.array([0.3, 0.4, 0.5, 0.6, 0.7])
    hits = (rng.uniform(size=(5, 2000)) < rates[:, None]).astype(float)
    found = Driven("a", "t", "policy", hits, {}).spread()
    assert found["seeds"] == pytest.approx(rates.std(ddof=1), abs=0.02)
    assert found["episodes"] == pytest.approx(hits.mean(0).std(ddof=1) / np.sqrt(2000))
    alike = np.tile(rng.uniform(size=(1, 50)) < 0.5, (3, 1)).astype(float)
    assert Driven("a", "t", "policy", alike, {}).spread()["seeds"] == 0.0
    assert "seeds" not in Driven("a", "t", "policy", alike[:1], {}).spread()
