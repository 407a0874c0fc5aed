"""The scores that a command prints when it is done."""

from dataclasses import replace

from lary_policy.runs.results import score_lines
from lary_policy.scores.score import Score

MSE = Score(
    stage="probe", encoder="pixels", head="mlp512-project32", embodiment="arm7", task="reach", mode="policy",
    target="relative", metric="mse", value=0.05, ci95=(0.04, 0.06), n=50, split="test", seed=0,
    protocol="native", fingerprint="f", seconds=1.0,
)  # fmt: skip
SUCCESS = replace(MSE, stage="rollout", metric="success", value=0.6, ci95=(0.46, 0.72))


def test_the_best_encoder_comes_first_whatever_is_better():
    lines = score_lines([
        MSE, replace(MSE, encoder="efficientnet-lite0", value=0.01, ci95=(0.0, 0.02)),
        SUCCESS, replace(SUCCESS, encoder="efficientnet-lite0", value=0.96, ci95=(0.87, 0.99)),
    ])  # fmt: skip
    names = [next(n for n in ("pixels", "efficientnet-lite0") if n in line) for line in lines]
    assert names == ["efficientnet-lite0", "pixels"] * 2
    assert "success 96 % [87, 99]" in lines[2]
    assert "mse 0.01 [0.00, 0.02]" in lines[0]


def test_other_metrics_stay_in_the_report():
    assert score_lines([replace(MSE, metric="rmse_cm/position")]) == []
