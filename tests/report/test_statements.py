from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from scipy import stats

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.compare import Measured, mcnemar
from lary_policy.report.correlate import correlate
from lary_policy.report.parts import ConstantDimension
from lary_policy.report.statements import Answer, answers, constants, question
from lary_policy.scores.agreement import SampleScores
from lary_policy.scores.score import Score

from .synthetic import HEAD, MSE, SUCCESS, all_scores, probe_scores, rollout_scores, score

Make = Callable[..., ReportBundle]


def answer(scores: list[Score], index: int) -> Answer:
    bundle = ReportBundle("t", "quick", tuple(scores))
    return answers(bundle, correlate(scores)[0])[index]


def decode(mse: dict[str, float], half: float = 0.02) -> tuple[str, str]:
    found = answer(probe_scores("pick_place", "pair", mse, half), 0)
    relative = [s for s in found.statements if "relative" in s.label]
    assert len(relative) == 1
    return found.verdict, f"{relative[0].label}: {relative[0].text}"


def test_a_page_of_one_encoder_does_not_ask_whose() -> None:
    scores = [one for one in all_scores() if one.encoder in ("pixels", "-")]
    bundle = ReportBundle("t", "quick", tuple(scores))
    assert question(bundle) == (
        "Of pixels: how well do its latents tell of actions, and does its head make the robot succeed in "
        "closed loop?"
    )
    asked = [one.question for one in answers(bundle, correlate(scores)[0])]
    assert asked[0] == "How well do its latents decode action?"
    assert not [one for one in asked if one.startswith("Whose")]


def test_numbers_that_never_change_are_named_by_task() -> None:
    dims = [ConstantDimension(f"t{i}", target, "gripper", 0.5) for i in range(6) for target in ("a", "b")]
    assert constants(dims[:3]) == "gripper of t0; gripper of t1"
    assert constants(dims).endswith("gripper of t3; 2 further tasks (below)")
    assert constants([]) == ""


def test_separated_intervals_are_stated_with_their_numbers() -> None:
    verdict, text = decode(MSE)
    assert text == (
        "pick_place, relative targets, inverse model: dinov2-small has the lowest test MSE, "
        "0.31 [0.29, 0.33]; its interval does not overlap with efficientnet-lite0 0.40 [0.38, 0.42] "
        "or pixels 0.52 [0.50, 0.54]."
    )
    assert verdict == (
        "dinov2-small has the lowest test MSE in 2 of 2 comparisons; its interval is clear of every other "
        "encoder's in all of these."
    )


def test_swapped_values_swap_the_sentence() -> None:
    swapped = {**MSE, "pixels": MSE["dinov2-small"], "dinov2-small": MSE["pixels"]}
    verdict, text = decode(swapped)
    assert "pixels has the lowest test MSE, 0.31 [0.29, 0.33]" in text
    assert "or dinov2-small 0.52 [0.50, 0.54]." in text
    assert verdict.startswith("pixels has the lowest")


def test_overlapping_intervals_are_said_to_overlap() -> None:
    verdict, text = decode(MSE, half=0.06)
    assert (
        "but its interval overlaps with efficientnet-lite0 0.40 [0.34, 0.46]: this run does not tell" in text
    )
    assert "It does not overlap with pixels 0.52 [0.46, 0.58]." in text
    assert verdict.endswith("in none of these.")


def test_equal_values_are_level_and_nobody_stands_out() -> None:
    verdict, text = decode({**MSE, "efficientnet-lite0": 0.31})
    assert "efficientnet-lite0 and dinov2-small are level at 0.31" in text
    assert verdict == "No encoder stands out: of 2 comparisons, all end in ties."


def test_split_wins_name_both_encoders() -> None:
    scores = probe_scores("reach", "pair", MSE) + probe_scores(
        "push", "pair", {**MSE, "pixels": 0.31, "dinov2-small": 0.52}
    )
    verdict = answer(scores, 0).verdict
    assert verdict.startswith("No encoder stands out: of 4 comparisons, ")
    assert "dinov2-small has the lowest test MSE in 2 and pixels has the lowest test MSE in 2" in verdict


def test_one_encoder_and_no_scores_are_named() -> None:
    verdict, text = decode({"pixels": 0.5})
    assert "nothing to compare" in verdict
    assert "only pixels was measured" in text
    empty = ReportBundle("t", "quick", ())
    verdicts = [a.verdict for a in answers(empty, ())]
    assert verdicts[0] == "No probe error was measured."
    assert verdicts[1] == "No closed-loop episode was run."
    assert "no scores" in question(empty)


def test_a_missing_encoder_is_named_in_its_cell() -> None:
    scores = probe_scores("reach", "pair", MSE) + probe_scores(
        "push", "pair", {"pixels": 0.5, "dinov2-small": 0.4}
    )
    texts = {s.label: s.text for s in answer(scores, 0).statements}
    assert "Not measured here: efficientnet-lite0." in texts["push, relative targets, inverse model"]
    assert "Not measured" not in texts["reach, relative targets, inverse model"]


def test_closed_loop_names_floor_and_ceiling() -> None:
    found = answer(rollout_scores("reach", "subgoal", SUCCESS), 1)
    text = found.statements[0].text
    assert text.startswith("dinov2-small succeeds most often, 56 % [42, 69], but its interval overlaps with")
    assert "Random head: 0 % [0, 7]." in text
    assert "Scripted expert: 100 % [93, 100]." in text
    assert found.verdict.endswith("told apart from a random one in 1 of 1 cell.")


def test_a_head_no_better_than_random_is_said_to_be() -> None:
    found = answer(rollout_scores("reach", "subgoal", {**dict.fromkeys(SUCCESS, 0.0), "pixels": 0.04}), 1)
    assert "Random head: 0 % [0, 7], not told apart from the best." in found.statements[0].text
    assert found.verdict.endswith("told apart from a random one in 0 of 1 cell.")


def test_missing_references_are_named() -> None:
    scores = [s for s in rollout_scores("reach", "policy", SUCCESS) if s.head not in ("random", "expert")]
    found = answer(scores, 1)
    assert "No random head and no scripted expert was run here." in found.statements[0].text
    assert "random" not in found.verdict


def test_agreement_follows_the_data() -> None:
    assert "in 4 of 4 task and mode cells; 12 of the 12 pairs" in answer(all_scores(), 3).verdict
    worse = [
        s for s in all_scores() if not (s.stage == "rollout" and (s.task, s.mode) == ("reach", "subgoal"))
    ] + rollout_scores("reach", "subgoal", dict(zip(MSE, (0.9, 0.5, 0.1), strict=True)))
    assert "in 3 of 4 task and mode cells; 9 of the 12 pairs" in answer(worse, 3).verdict


def test_two_heads_of_one_encoder_are_compared_head_by_head() -> None:
    other = [
        Score.from_dict({**s.to_dict(), "head": "mlp4096-flatten"})
        for s in probe_scores("reach", "pair", MSE)
    ]
    labels = [s.label for s in answer(probe_scores("reach", "pair", MSE) + other, 0).statements]
    assert len(labels) == 4
    assert "reach, relative targets, inverse model, head mlp4096-flatten" in labels


def test_question_names_the_encoders(make_bundle: Make) -> None:
    assert question(make_bundle()).startswith("Of pixels, efficientnet-lite0 and dinov2-small: ")


def test_many_encoders_are_not_all_spelled_out() -> None:
    _, text = decode({f"e{i}": 0.3 + 0.1 * i for i in range(7)})
    assert text.endswith(
        "does not overlap with e1 0.40 [0.38, 0.42], e2 0.50 [0.48, 0.52] or 4 more encoders."
    )


def outcomes(scores: list[Score], successes: dict[str, list[bool]]) -> tuple[Measured, ...]:
    """Return the episodes behind the success of each encoder."""
    seeds = tuple(map(str, range(len(next(iter(successes.values()))))))
    return tuple(
        Measured(s, SampleScores("success", seeds, seeds, tuple(map(float, successes[s.encoder]))))
        for s in scores
        if s.metric == "success" and s.head == HEAD
    )


def test_success_on_the_same_episodes_is_compared_episode_by_episode() -> None:
    """Eight episodes that one alone solves, none the other way: p = 2 / 2^8, though the intervals overlap."""
    rates = {"a": [True] * 34 + [False] * 16, "b": [True] * 26 + [False] * 24}
    scores = rollout_scores("reach", "subgoal", {name: sum(won) / 50 for name, won in rates.items()})
    plain = ReportBundle("t", "s", tuple(scores))
    assert "this run does not tell them apart" in answers(plain, ())[1].statements[0].text
    paired = ReportBundle("t", "s", tuple(scores), measured=outcomes(scores, rates))
    found = answers(paired, ())[1]
    assert "over the same episodes it is told apart from b 52 %" in found.statements[0].text
    assert "a succeeds most often in 1 of 1 comparison; it is told apart from every other" in found.verdict
    won = {"a": rates["a"], "b": rates["a"][8:] + rates["a"][:8]}  # as many episodes, others
    scores = rollout_scores("reach", "subgoal", {"a": 0.68, "b": 0.66})
    mixed = ReportBundle("t", "s", tuple(scores), measured=outcomes(scores, won))
    assert "over the same episodes it is not told apart from b" in answers(mixed, ())[1].statements[0].text


@pytest.mark.parametrize(("alone", "other"), [(8, 0), (5, 0), (3, 3), (7, 2), (2, 9), (0, 0)])
def test_mcnemar_is_scipys_exact_binomial_test(alone: int, other: int) -> None:
    seeds = tuple(map(str, range(20)))
    first = (1.0,) * alone + (0.0,) * (20 - alone)
    second = (0.0,) * alone + (1.0,) * other + (0.0,) * (20 - alone - other)
    found = mcnemar(
        SampleScores("success", seeds, seeds, first), SampleScores("success", seeds, seeds, second)
    )
    assert found == pytest.approx(stats.binomtest(alone, alone + other).pvalue if alone + other else 1.0)


def test_four_episodes_prove_nothing() -> None:
    rates = {"a": [True] * 4, "b": [False] * 4}
    scores = rollout_scores("reach", "subgoal", {"a": 1.0, "b": 0.0}, n=4)
    bundle = ReportBundle("t", "s", tuple(scores), measured=outcomes(scores, rates))
    assert not answers(bundle, ())[1].statements[0].conclusive


def test_errors_on_the_same_samples_are_compared_sample_by_sample() -> None:
    """A head that is a little better on every recording is better, however much recordings differ."""
    items, recordings = tuple(map(str, range(40))), tuple(str(i // 4) for i in range(40))
    errors = [0.1 + 0.05 * (i // 4) for i in range(40)]
    scores = [
        score(encoder=name, value=0.325 + less, ci95=(0.2, 0.5), clusters=10)
        for name, less in (("a", 0.0), ("b", 0.01))
    ]
    measured = tuple(
        Measured(s, SampleScores("mse", items, recordings, tuple(e + less for e in errors)))
        for s, less in zip(scores, (0.0, 0.01), strict=True)
    )
    bundle = ReportBundle("t", "s", tuple(scores), measured=measured, closed_loop=False)
    assert "over the same samples it is told apart from b" in answers(bundle, ())[0].statements[0].text
    assert not answers(replace(bundle, measured=()), ())[0].statements[0].conclusive


def test_one_recording_supports_no_claim() -> None:
    """A number over a single recording has no interval, so it beats nobody and nobody beats it."""
    one = {"ci95": None, "clusters": 1, "no_interval": "one recording"}
    scores = [score(encoder="a", value=0.1, **one), score(encoder="b", value=9.0, **one)]
    bundle = ReportBundle("t", "s", tuple(scores), closed_loop=False)
    found = answers(bundle, ())[0]
    assert "too few recordings lie behind" in found.statements[0].text
    assert not found.statements[0].conclusive
    assert found.verdict.endswith("in none of these.")
