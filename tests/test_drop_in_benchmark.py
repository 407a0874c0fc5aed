"""`benchmarks/run.py drop_in`: remembered tokens are the encoder's; figures and verdict name both sides."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lary_policy.policy.configuration_lary import EncoderConfig
from lary_policy.policy.encoder.observation import ObservationEncoder

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def load() -> Iterator[Any]:
    """Import the benchmarks' modules, which are no package."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(BENCHMARKS))
        for path in BENCHMARKS.glob("*.py"):
            sys.modules.pop(path.stem, None)


def test_remembered_tokens_are_the_encoders_and_each_frame_is_seen_once(load: Any) -> None:
    encoder = ObservationEncoder(EncoderConfig(weights="tiny-random", image_px=28))
    seen: list[int] = []
    encoder.backbone.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    images = torch.rand(4, 3, 32, 32)
    expected = encoder.feature_map(images[[2, 0, 0, 3]])
    seen.clear()
    memory: dict[bytes, torch.Tensor] = {}
    load("drop_in_training").remember(encoder, memory)
    encoder.feature_map(images[:3])
    again = encoder.feature_map(images[[2, 0, 0, 3]])
    torch.testing.assert_close(again, expected)
    assert seen == [3, 1]
    assert len(memory) == 4


def test_figures_and_verdict_name_both_sides(load: Any) -> None:
    case, outcome = load("cases_drop_in"), load("drop_in_training").Outcome
    pairs = [(outcome(0.2, 10.0, None, 1.0), outcome(0.4, 30.0, None, 1.0)),
             (outcome(0.4, 20.0, None, 1.0), outcome(0.3, 30.0, None, 1.0))]  # fmt: skip
    figures = {f.metric: f for f in case._figures("act", pairs)}
    assert set(figures) == {"act_l1", "act_position_mm", "act_l1_difference"}
    assert (figures["act_l1"].value, figures["act_l1"].baseline) == pytest.approx((0.3, 0.35))
    assert figures["act_l1_difference"].low == pytest.approx(-0.2)
    assert "does not beat with every seed" in case._sentence("act", "dinov2-small", 7, pairs)
    assert "(0.50 of it), better with 1 of 1 seeds" in case._sentence("act", "dinov2-small", 7, pairs[:1])


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["act", "diffusion"])
def test_both_sides_are_trained_and_measured(load: Any, policy: str, tmp_path: Path) -> None:
    (case,) = [c for c in load("run").CASES if c.name == "drop_in"]
    tiny = {
        "policies": policy, "encoder": "pixels", "image_px": 56, "encoder_px": 28, "train_episodes": 2,
        "val_episodes": 1, "steps": 10, "batch": 2, "seeds": 1, "episodes": 1, "output_dir": str(tmp_path),
    }  # fmt: skip
    figures = {f.metric: f for f in load(case.module).run(**{**case.settings, **tiny}, device="cpu")}
    both = [f"{policy}_{name}" for name in ("l1", "position_mm", "success", "l1_difference")]
    assert list(figures) == ["mean_action_l1", *both]
    assert figures[f"{policy}_l1"].value > 0
    assert figures[f"{policy}_l1"].ratio > 0
    assert not list(tmp_path.iterdir())
