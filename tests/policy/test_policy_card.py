"""The model card that LeRobot pushes: its own, with the encoder's identity and measured scores."""

from __future__ import annotations

import json
import os

import pytest
from huggingface_hub import ModelCard
from tiny_lary import config

from lary_policy.errors import DatasetError
from lary_policy.policy.card import card_scores
from lary_policy.policy.modeling_lary import LaryPolicy
from lary_policy.scores.score import Score

SUCCESS = Score(
    stage="rollout", encoder="dinov2-small", head="mlp512", embodiment="arm7", task="reach", mode="policy",
    target="relative", metric="success", value=0.88, ci95=(0.762, 0.944), n=50, split="seeds 300000-300049",
    seed=0, protocol="native", fingerprint="f" * 16, seconds=1.0,
)  # fmt: skip


def test_lerobots_card_is_extended_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(ModelCard, "validate", lambda self, **_: None)  # asks the hub
    report = tmp_path / "report.json"
    report.write_text(json.dumps([SUCCESS.to_dict()]))
    settings = config(
        "dinov2-small", "tiny-random", scores_from=str(report), embodiment="arm7", tags=["mine"]
    )
    policy = LaryPolicy(settings)
    policy.save_pretrained(tmp_path / "policy")
    loaded = LaryPolicy.from_pretrained(tmp_path / "policy")
    for each in (policy, loaded):  # the scores travel with the checkpoint
        card = each.generate_model_card("local/reach", "lary", None, each.config.tags)
        assert {"lary", "lerobot", "robotics", "mine", "dinov2-small"} <= set(card.data["tags"])
        assert card.data["license"] == "apache-2.0"
        text = str(card)
        assert "| rollout | reach | policy | relative | success | 0.88 | 0.762 to 0.944 | 50 |" in text
        assert f"sha256 `{policy.config.encoder.sha256}`" in text
        assert "stored in this checkpoint" in text  # drawn weights are
        assert "lerobot" in text
    assert loaded.config.scores_from is None


def test_a_card_without_scores_says_so(monkeypatch):
    monkeypatch.setattr(ModelCard, "validate", lambda self, **_: None)
    card = LaryPolicy(config(license="mit")).generate_model_card("local/reach", "lary", "mit", None)
    assert "--policy.scores_from" in str(card)
    assert card.data["license"] == "mit"


def test_a_pipe_is_no_report(tmp_path):
    os.mkfifo(tmp_path / "report.json")
    with pytest.raises(DatasetError, match="no regular file"):
        card_scores(tmp_path / "report.json")


def test_scores_are_read_from_reports_and_cells_or_refused(tmp_path):
    rows = [SUCCESS.to_dict()]
    (tmp_path / "result.json").write_text(json.dumps({"scores": rows, "head": "mlp512"}))
    assert card_scores(tmp_path) == card_scores(tmp_path / "result.json") == rows
    (tmp_path / "bad.json").write_text(json.dumps([{"value": 1}]))
    for path in (tmp_path / "bad.json", tmp_path / "missing.json"):
        with pytest.raises(DatasetError, match=r"report\.json"):
            LaryPolicy(config(scores_from=str(path)))
