"""`lary train` with LeRobot policies on an encoder: lerobot-train's checkpoint, images encoded once."""

import sys
from pathlib import Path

import pytest
from drop_in_policies import SIZES
from lerobot_files import write_lerobot
from safetensors.torch import load_file

from lary_policy.cli.train import main
from lary_policy.policy.encoder import ObservationEncoder

sys.path.append(str(Path(__file__).parents[1]))
from test_train_policy import PRETRAINED, require_same_checkpoint

COMMON = (
    "--dataset.repo_id=tests/tiny", "--policy.device=cpu", "--policy.encoder.weights=tiny-random",
    "--policy.encoder.image_px=28", "--batch_size=4", "--num_workers=0", "--log_freq=0", "--env_eval_freq=0",
    "--steps=3", "--seed=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """27 frames of two cameras."""
    folder = tmp_path_factory.mktemp("lerobot") / "data"
    return write_lerobot(folder, episodes=3, steps=8, cameras=("top", "wrist"), video=False)


@pytest.fixture(scope="module")
def one_camera(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lerobot") / "one"
    return write_lerobot(folder, episodes=3, steps=8, cameras=("top",), video=False)


@pytest.fixture
def seen(monkeypatch):
    """Count the images that encoders see; stored latents are none."""
    count, encode = [0], ObservationEncoder.encode_frames

    def counted(encoder, frames):
        count[0] += frames.shape[0]
        return encode(encoder, frames)

    monkeypatch.setattr(ObservationEncoder, "encode_frames", counted)
    return count


def flags(name, **changes):
    sizes = {**SIZES[name], **changes}
    return (
        f"--policy.type={name}",
        *(f"--policy.{key}={list(v) if isinstance(v, tuple) else v}" for key, v in sizes.items()),
    )


def train(root, folder, *words):
    main("train", [*COMMON, f"--dataset.root={root}", f"--output_dir={folder}", *words])
    return folder


@pytest.mark.parametrize("name", ["lary_act", "lary_diffusion", "lary_vqbet"])
def test_the_checkpoint_is_the_one_without_stored_latents(name, data, one_camera, tmp_path, seen, capfd):
    root, frames = (one_camera, 27) if name == "lary_vqbet" else (data, 54)
    ours = train(root, tmp_path / "cached", *flags(name))
    assert f"{frames} encoded, 0 stored before" in " ".join(capfd.readouterr().err.split())
    encoded, seen[0] = seen[0], 0
    theirs = train(root, tmp_path / "uncached", *flags(name), "--cache_latents=false")
    assert encoded == frames < seen[0] + frames
    require_same_checkpoint(ours, theirs)
    config = (ours / PRETRAINED / "config.json").read_text()
    assert '"latents": null' in config
    start = load_file(
        train(root, tmp_path / "start", *flags(name), "--policy.optimizer_lr=0.0")
        / PRETRAINED
        / "model.safetensors"
    )
    trained = load_file(ours / PRETRAINED / "model.safetensors")
    assert any(not start[key].equal(value) for key, value in trained.items())


def test_why_frames_are_encoded_at_every_step_is_said(data, tmp_path, capfd):
    windows = ("--policy.encoder.name=lapa", "--policy.encoder.image_px=192")
    train(
        data, tmp_path / "pairs", *flags("lary_diffusion", encoder_features="pooled"), *windows, "--steps=1"
    )
    said = " ".join(capfd.readouterr().err.split())
    assert "every step, because of policy.encoder.name=lapa: it sees several frames" in said
    train(data, tmp_path / "all", *flags("lary_act"), "--policy.encoder.trainable=all", "--steps=1")
    assert "policy.encoder.trainable=all: latents change" in " ".join(capfd.readouterr().err.split())
