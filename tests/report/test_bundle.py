from __future__ import annotations

import numpy as np
import pytest
import torch

from lary_policy.errors import ConfigError, ShapeError
from lary_policy.report.bundle import ReportBundle, check_scores
from lary_policy.report.parts import Confusion, Trajectory, Video, collect_failures
from lary_policy.types import EpisodeResult

from .synthetic import DIMS, score


def test_defaults_need_only_title_suite_and_scores() -> None:
    bundle = ReportBundle("t", "s", [])  # type: ignore[arg-type]
    assert bundle.scores == ()
    assert bundle.inputs_checked is None
    assert bundle.encoders() == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value": float("nan"), "ci95": (0.0, 1.0)}, "finite"),
        ({"value": 0.5, "ci95": (0.0, float("inf"))}, "finite"),
        ({"seconds": float("nan")}, "finite"),
        ({"value": 0.5, "ci95": (0.6, 0.7)}, "contains the value"),
        ({"value": 0.5, "ci95": (0.1, 0.4)}, "contains the value"),
        ({"metric": "success", "value": 96.0, "ci95": (86.0, 99.0)}, "rate between 0 and 1"),
        ({"n": 0}, "at least one sample"),
    ],
)
def test_wrong_numbers_are_named_with_their_score(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ShapeError, match=words) as caught:
        check_scores([score(task="push", **changes)])
    assert "probe pixels" in str(caught.value)
    assert "push" in str(caught.value)


def test_numpy_float32_is_named_before_it_reaches_json() -> None:
    with pytest.raises(ShapeError, match="Python numbers"):
        check_scores([score(value=np.float32(0.5))])


def test_interval_may_touch_its_value_within_rounding() -> None:
    check_scores([score(metric="success", value=1.0, ci95=(0.93, 1.0 - 1e-12))])


def test_duplicates_are_refused_even_with_another_fingerprint() -> None:
    with pytest.raises(ConfigError, match=r"0\.5 \(fingerprint f00d\) and 0\.4 \(fingerprint beef\)"):
        check_scores([score(), score(value=0.4, ci95=(0.3, 0.5), fingerprint="beef")])
    check_scores(
        [score(), score(seed=1), score(split="val"), score(protocol="lary"), score(target="absolute")]
    )


def test_trajectory_takes_tensors_and_refuses_wrong_shapes() -> None:
    true = torch.zeros(10, 7)
    kept = Trajectory("pixels", "reach", "pair", "relative", "3", DIMS, true, true + 1)  # type: ignore[arg-type]
    assert kept.predicted == ((1.0,) * 7,) * 10
    for wrong, words in (
        (true[:, :6], "one column a label"),
        (true[:9], "9 predicted steps"),
        (true / 0, "NaN"),
    ):
        with pytest.raises(ShapeError, match=words):
            Trajectory("pixels", "reach", "pair", "relative", "3", DIMS, true, wrong)  # type: ignore[arg-type]


def test_confusion_takes_counts_only() -> None:
    assert Confusion("pixels", "reach", ("a", "b"), [[3, 1], [0, 2]]).counts == ((3, 1), (0, 2))  # type: ignore[arg-type]
    for wrong in ([[0.5, 0.5], [1, 0]], [[1, 2]], [[-1, 2], [0, 1]]):
        with pytest.raises(ShapeError):
            Confusion("pixels", "reach", ("a", "b"), wrong)  # type: ignore[arg-type]


def test_video_needs_an_outcome_for_each_seed() -> None:
    with pytest.raises(ShapeError, match="2 seeds and 1 flags"):
        Video("a.mp4", "two tiles", (1, 2), (True,))


def test_collect_failures_groups_seeds_by_name() -> None:
    names = [None, "non_finite_action", "out_of_range_action", "non_finite_action"]
    results = [EpisodeResult(90 + i, False, False, 5, None, name, 0.0, 0.0) for i, name in enumerate(names)]
    found = collect_failures("pixels", "random", "reach", "policy", results)
    assert [(f.failure, f.seeds, f.episodes) for f in found] == [
        ("non_finite_action", (91, 93), 4),
        ("out_of_range_action", (92,), 4),
    ]
    assert collect_failures("pixels", "random", "reach", "policy", results[:1]) == ()
