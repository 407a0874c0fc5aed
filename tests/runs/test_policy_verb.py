"""`lary policy`: a finished probe becomes a checkpoint that acts in LeRobot's hands as in `lary rollout`."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from conftest import SETTINGS
from lerobot.policies.factory import make_pre_post_processors
from lerobot.utils.constants import OBS_STATE

from lary_policy.actions.embodiment import load_embodiment
from lary_policy.cli import main
from lary_policy.encoders.base import load_encoder
from lary_policy.errors import HeadMismatchError
from lary_policy.heads.files import load_head
from lary_policy.policy.modeling_lary import LaryPolicy
from lary_policy.rollout.agents import HeadAgent, Observation

SHARED = [s for s in SETTINGS if not s.startswith(("tasks", "encoders"))]


def command(tiny, out, *more):
    return [
        "policy",
        *SHARED,
        "encoder=pixels",
        "env=reach",
        f"output_dir={tiny.output_dir}",
        f"out={out}",
        *more,
    ]


def test_the_checkpoint_plans_what_the_rollouts_agent_plans(tiny, tmp_path, capsys):
    out = tmp_path / "policy"
    assert main(command(tiny, out)) == 0
    printed = capsys.readouterr().out
    words = shlex.split(printed.splitlines()[-1])
    assert words[0] == "lerobot-eval"
    assert {f"--policy.path={out}", "--env.task=reach", '--env.cameras=["front"]', "--seed=300000"} < set(
        words
    )
    files = {p.name for p in out.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "policy_preprocessor.json",
        "policy_postprocessor.json",
    } < files
    policy = LaryPolicy.from_pretrained(out)
    assert policy.config.n_action_steps == policy.config.chunk_size == 5
    before, after = make_pre_post_processors(policy.config, pretrained_path=str(out))
    (cell,) = tiny.cells("probe", "reach-pixels-policy-relative")
    head, meta = load_head(cell)
    agent = HeadAgent(
        load_encoder("pixels", image_px=56), head, load_embodiment("arm7"), meta.stats, target="relative",
        proprio_stats=meta.proprio_stats,
    )  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 1, 56, 56, 3), dtype=torch.uint8, generator=rng)
    state = torch.tensor(meta.proprio_stats.mean) + torch.rand(2, 7, generator=rng) * 0.1
    want = agent.plan(Observation(frames, state, state, 0))
    seen = before({OBS_STATE: state, "observation.images.front": frames[:, 0].movedim(-1, 1).float() / 255})
    torch.testing.assert_close(after(policy.predict_action_chunk(seen)), want, atol=1e-5, rtol=0)


def test_the_card_has_the_scores_of_probe_and_rollout(tiny, tmp_path):
    main(command(tiny, tmp_path / "policy"))
    card = (tmp_path / "policy" / "README.md").read_text()
    (cell,) = tiny.cells("rollout", "reach-pixels-policy-relative")
    rows = json.loads((cell / "result.json").read_text())["scores"]
    success = next(row for row in rows if row["metric"] == "success")
    assert f"| rollout | reach | policy | relative | success | {success['value']:.4g} |" in card
    assert "| probe | reach | policy | relative | mse |" in card
    assert "license: apache-2.0" in card
    assert "sha256" in card


def test_a_folder_of_a_probe_is_enough(tiny, tmp_path, capsys):
    (cell,) = tiny.cells("probe", "reach-pixels-policy-relative")
    out = tmp_path / "policy"
    arguments = ["policy", f"head_from={cell}", f"out={out}", "image_px=56", "device=cpu", "n_action_steps=2"]
    assert main(arguments) == 0
    assert json.loads((out / "config.json").read_text())["n_action_steps"] == 2
    assert main(arguments) == 0  # an earlier checkpoint is replaced


def test_what_cannot_be_exported_is_named(tiny, tmp_path, capsys):
    def refused(arguments, text):
        assert main(arguments) == 2
        assert text in capsys.readouterr().err

    refused(command(tiny, tmp_path / "a", "seed=7"), "lary probe env=reach encoder=pixels")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    refused(command(tiny, tmp_path / "full"), "other files")
    (pair,) = tiny.cells("probe", "reach-pixels-pair-absolute")
    refused(["policy", f"head_from={pair}", f"out={tmp_path / 'b'}", "image_px=56"], "mode pair")
    refused(["policy", f"head_from={tmp_path}", f"out={tmp_path / 'b'}"], "head.json")
    assert not (tmp_path / "b").exists()
    with pytest.raises(HeadMismatchError):
        load_head(tmp_path)
