"""`lary_act` and `lary_diffusion` through LeRobot's own training entry: train, checkpoint, resume, load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from drop_in_policies import SIZES, tiny_encoder
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.policies.factory import get_policy_class
from lerobot.scripts.lerobot_train import train
from lerobot_files import write_lerobot
from safetensors import safe_open

from lary_policy.policy.drop_in import LaryACTConfig, LaryDiffusionConfig

CONFIGS = {"lary_act": LaryACTConfig, "lary_diffusion": LaryDiffusionConfig}
CAMERA = "observation.images.top"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a LeRobot dataset of images, 48 x 64 px."""
    return write_lerobot(tmp_path_factory.mktemp("data") / "tiny", episodes=2, steps=12, video=False)


def run(name: str, dataset: Path, folder: Path, **changes: Any) -> Path:
    """Train in this process and return the last checkpoint."""
    policy = CONFIGS[name](device="cpu", push_to_hub=False, encoder=tiny_encoder(), **SIZES[name])
    settings: dict[str, Any] = {"steps": 3, "save_freq": 3, **changes}
    train(
        TrainPipelineConfig(
            dataset=DatasetConfig(repo_id="tests/tiny", root=str(dataset)), policy=policy, output_dir=folder,
            batch_size=2, num_workers=0, log_freq=1, env_eval_freq=0, seed=0, **settings,
        )
    )  # fmt: skip
    return folder / "checkpoints" / "last" / "pretrained_model"


@pytest.mark.parametrize("name", CONFIGS)
def test_trains_resumes_and_loads(
    name: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["x"])  # validate() reads the command line again
    checkpoint = run(name, dataset, tmp_path / "run")
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        assert not [key for key in file.keys() if "backbone" in key]  # noqa: SIM118  no mapping
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["type"] == name
    assert config["encoder"]["sha256"]
    assert (config["action_dim"], config["control_hz"], config["action_feature_names"][0]) == (7, 20.0, "x")

    monkeypatch.setattr(
        sys, "argv", ["x", f"--config_path={checkpoint / 'train_config.json'}", "--resume=true"]
    )
    resumed = TrainPipelineConfig.from_pretrained(checkpoint / "train_config.json")
    resumed.resume, resumed.steps = True, 5
    before = get_policy_class(name).from_pretrained(checkpoint)
    train(resumed)
    assert json.loads((checkpoint.parent / "training_state" / "training_step.json").read_text())["step"] == 5
    after = get_policy_class(name).from_pretrained(checkpoint)
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    observation = {CAMERA: torch.rand(1, 3, 48, 64), "observation.state": torch.zeros(1, 7)}
    assert after.select_action(observation).shape == (1, 7)


@pytest.mark.slow
def test_the_command_line_knows_the_type(dataset: Path, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("lerobot-train")), "--policy.type=lary_act",
        "--policy.push_to_hub=false", "--policy.device=cpu", "--policy.encoder.name=dinov2-small",
        "--policy.encoder.weights=tiny-random", "--policy.encoder.image_px=28", "--policy.chunk_size=4",
        "--policy.n_action_steps=2", "--policy.dim_model=16", "--policy.n_heads=2",
        "--dataset.repo_id=tests/tiny", f"--dataset.root={dataset}", "--steps=2", "--batch_size=2",
        "--num_workers=0", f"--output_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "checkpoints" / "last" / "pretrained_model" / "model.safetensors").is_file()
