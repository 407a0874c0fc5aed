"""The policy `lary` under `lerobot-train` itself: train, checkpoint, resume, reload, act."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.scripts.lerobot_train import train
from lerobot_files import POSE_NAMES, write_lerobot
from safetensors.torch import load_file
from test_head_from_probe import probe
from tiny_lary import ACTION, PX, STATE

from lary_policy.actions.codec import ActionCodec, RelativeFrame
from lary_policy.actions.embodiment import load_embodiment
from lary_policy.cli.train.cache import require_readable
from lary_policy.cli.train.config import LaryTrainConfig
from lary_policy.encoders.base import load_encoder
from lary_policy.errors import DatasetError, EmbodimentError
from lary_policy.policy.configuration_lary import EncoderConfig, LaryConfig
from lary_policy.policy.modeling_lary import LaryPolicy
from lary_policy.policy.relative_actions import target_statistics

SMALL = {"head_width": 16, "head_blocks": 1, "chunk_size": 4, "dit_heads": 2, "dit_sample_steps": 3}
SMALL |= {"pool_width": 8, "pool_queries": 2, "device": "cpu", "push_to_hub": False}
RUNS = {
    "mlp": ("dinov2-small", {"head": "mlp"}),
    "dit": ("dinov2-small", {"head": "dit", "action_mode": "relative"}),
    "pairs": ("lapa", {"head": "mlp", "n_obs_steps": 2, "observation_stride": 3, "action_mode": "delta"}),
    "unfrozen": ("dinov2-small", {"trainable": "last", "use_proprio": False}),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    root = write_lerobot(
        tmp_path_factory.mktemp("lary_train") / "data",
        episodes=2,
        steps=7,
        video=False,
        cameras=("front", "wrist"),
    )
    info = root / "meta" / "info.json"
    raw = json.loads(info.read_text())
    raw["features"]["action"]["info"] = {"embodiment": "arm7"}
    info.write_text(json.dumps(raw))
    return root


def policy_config(run: str) -> LaryConfig:
    encoder, values = RUNS[run]
    values = dict(values)
    trainable = values.pop("trainable", "none")
    return LaryConfig(
        encoder=EncoderConfig(name=encoder, weights="tiny-random", trainable=trainable), **(SMALL | values)
    )


def pipeline(dataset: Path, out: Path, policy: LaryConfig, steps: int = 3) -> TrainPipelineConfig:
    data = DatasetConfig(repo_id="tests/tiny", root=str(dataset))
    return TrainPipelineConfig(
        dataset=data, policy=policy, output_dir=out, steps=steps, batch_size=4, num_workers=0, log_freq=1,
        save_freq=steps, env_eval_freq=0, seed=1,
    )  # fmt: skip


def observation(policy: LaryPolicy) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    images = {n: torch.rand(2, *f.shape, generator=rng) for n, f in policy.config.image_features.items()}
    return {**images, STATE: torch.rand(2, 7, generator=rng)}


@pytest.mark.parametrize("run", RUNS)
def test_train_resume_reload_act(dataset, tmp_path, monkeypatch, run):
    monkeypatch.setattr(sys, "argv", ["x"])
    cfg = pipeline(dataset, tmp_path / "out", policy_config(run))
    train(cfg)
    last = tmp_path / "out" / "checkpoints" / "last" / "pretrained_model"
    before = load_file(last / "model.safetensors")
    raw = json.loads((last / "config.json").read_text())
    assert (raw["type"], raw["embodiment"], raw["control_hz"]) == ("lary", "arm7", 20.0)
    assert raw["action_feature_names"] == list(POSE_NAMES)

    monkeypatch.setattr(sys, "argv", ["x", f"--config_path={last / 'train_config.json'}", "--resume=true"])
    again = TrainPipelineConfig.from_pretrained(last / "train_config.json")
    again.resume, again.steps, again.save_freq = True, 5, 5
    train(again)
    newer = tmp_path / "out" / "checkpoints" / "last" / "pretrained_model"
    after = load_file(newer / "model.safetensors")
    assert newer.resolve().parent.name.endswith("5")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("head.") for name in changed)
    assert any(name.startswith("encoder.") for name in changed) == (run == "unfrozen")

    loaded_config = PreTrainedConfig.from_pretrained(newer)
    policy = LaryPolicy.from_pretrained(newer, config=loaded_config, strict=True)
    pre, post = make_pre_post_processors(loaded_config, pretrained_path=str(newer))
    for _ in range(3):
        action = post(policy.select_action(pre(observation(policy))))
    assert action.shape == (2, 7)
    assert action.isfinite().all()
    twin = LaryPolicy.from_pretrained(newer)
    seen = pre(observation(policy))
    policy.reset()
    torch.testing.assert_close(twin.select_action(seen), policy.select_action(seen))


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("embodiment", [None, "arm7"])
def test_statistics_of_targets_are_those_of_all_chunks(dataset, embodiment, delta):
    """Computed again from LeRobot's own items, one chunk after the other."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    chunk = 4
    source = LeRobotDataset(
        "tests/tiny", root=dataset, delta_timestamps={ACTION: [i / 20 for i in range(chunk)]}
    )
    layout = None if embodiment is None else load_embodiment(embodiment)
    rows, states = [], []
    for i in range(len(source)):
        item = source[i]
        inside = ~item["action_is_pad"]
        anchor, previous = item[STATE], item[STATE]
        states.append(anchor)
        for action in item[ACTION][inside]:
            anchor = previous if delta else anchor
            if layout is None:
                row = torch.cat([(action - anchor)[:6], action[6:]])
            else:
                row = layout.to_relative(action[None, None], anchor[None])[0, 0]
            rows.append(row)
            previous = action
    want = torch.stack(rows).double()
    frame = RelativeFrame.of(7, embodiment=embodiment, exclude=["gripper"], names=POSE_NAMES)
    codec = ActionCodec(frame, delta=delta, action_dim=7, state_dim=7)
    targets, state = target_statistics(dataset, chunk, codec)
    assert targets.count == len(rows)
    np.testing.assert_allclose(targets.mean, want.mean(0), atol=1e-6)
    std = want.std(0, correction=0)
    least = torch.tensor(layout.least_scale()) / (chunk if delta else 1) if layout else None
    floored = (
        torch.where(std < 1e-3, torch.ones_like(std), std) if least is None else torch.maximum(std, least)
    )
    np.testing.assert_allclose(targets.std, floored, atol=1e-5)
    np.testing.assert_allclose(state.mean, torch.stack(states).double().mean(0), atol=1e-6)


@pytest.mark.parametrize("named", [True, False])
def test_fine_tuning_on_absolute_statistics_keeps_the_policys_own(dataset, tmp_path, monkeypatch, named):
    """LeRobot puts a dataset's statistics into the processors of a checkpoint it fine-tunes."""
    monkeypatch.setattr(sys, "argv", ["x"])
    if not named:  # no embodiment: LeRobot's own relative steps, which it overrides by name
        dataset = Path(shutil.copytree(dataset, tmp_path / "data"))
        info = dataset / "meta" / "info.json"
        info.write_text(info.read_text().replace('"embodiment": "arm7"', '"other": 1'))
    train(pipeline(dataset, tmp_path / "out", policy_config("dit"), steps=1))
    last = tmp_path / "out" / "checkpoints" / "last" / "pretrained_model"
    monkeypatch.setattr(sys, "argv", ["x", f"--policy.path={last}"])
    train(pipeline(dataset, tmp_path / "tuned", policy_config("dit"), steps=1))
    tuned = tmp_path / "tuned" / "checkpoints" / "last" / "pretrained_model"
    raw = json.loads((tuned / "config.json").read_text())
    assert (raw["embodiment"], raw["use_relative_actions"]) == (("arm7", False) if named else (None, False))
    first, second = (load_file(folder / "model.safetensors") for folder in (last, tuned))
    assert set(first) == set(second)
    for name in first:
        if name.startswith("codec."):
            torch.testing.assert_close(first[name], second[name])


def test_training_starts_from_the_head_of_a_probe(dataset, tmp_path, monkeypatch):
    encoder = load_encoder("pixels", image_px=PX)
    head, meta = probe(tmp_path / "probe", encoder)
    monkeypatch.setattr(sys, "argv", ["x"])
    policy = LaryConfig(
        encoder=EncoderConfig(name="pixels"), head_from=str(tmp_path / "probe"), device="cpu",
        push_to_hub=False, optimizer_lr=1e-12,
    )  # fmt: skip
    train(pipeline(dataset, tmp_path / "out", policy, steps=1))
    last = tmp_path / "out" / "checkpoints" / "last" / "pretrained_model"
    loaded = LaryPolicy.from_pretrained(last)
    assert loaded.config.head_from is None
    assert "reach" in loaded.config.head_origin
    assert loaded.config.chunk_size == meta.chunk
    for name, value in head.state_dict().items():
        torch.testing.assert_close(loaded.head.state_dict()[name], value)
    torch.testing.assert_close(loaded.codec.mean, torch.tensor(meta.stats.mean))


def test_a_dataset_of_another_robot_or_rate_is_refused(dataset):
    meta = LeRobotDatasetMetadata("tests/tiny", root=dataset)
    other = policy_config("mlp")
    other.embodiment = "arm16"
    with pytest.raises(EmbodimentError, match=r"arm16.*arm7"):
        make_policy(other, ds_meta=meta)
    slower = policy_config("mlp")
    slower.control_hz = 5.0
    with pytest.raises(EmbodimentError, match="control_hz=20"):
        make_policy(slower, ds_meta=meta)


@pytest.mark.parametrize("mode", ["absolute", "relative"])
def test_a_number_that_is_none_is_named_before_training(dataset, tmp_path, mode):
    root = shutil.copytree(dataset, tmp_path / "data")
    path = next((root / "data").rglob("*.parquet"))
    table = pq.read_table(path)
    actions = table[ACTION].to_pylist()
    actions[9][2] = float("inf")
    place = table.column_names.index(ACTION)
    pq.write_table(table.set_column(place, ACTION, pa.array(actions, table[ACTION].type)), path)
    config = LaryTrainConfig(**vars(pipeline(root, tmp_path / "out", policy_config("mlp"))))
    with pytest.raises(DatasetError, match="in episode 1, frame 2"):
        require_readable(config)
    config.dataset.episodes = [0]
    require_readable(config)  # the other episode is not trained on
    if mode == "relative":  # whose statistics are of the whole dataset
        frame = RelativeFrame.of(7, embodiment="arm7", exclude=["gripper"], names=POSE_NAMES)
        codec = ActionCodec(frame, delta=False, action_dim=7, state_dim=7)
        with pytest.raises(DatasetError, match="in episode 1, frame 2"):
            target_statistics(root, 4, codec)
