"""`lary train` in this process: the checkpoint of lerobot-train, with no image encoded on the way."""

import json
import shutil
import sys

import pytest
from lerobot_files import write_lerobot
from safetensors.torch import load_file

from lary_policy import cli
from lary_policy.cli.train import DEFAULTS, main, with_defaults
from lary_policy.errors import ConfigError, StoreError

PRETRAINED = "checkpoints/last/pretrained_model"
STATE = "checkpoints/last/training_state"
# Where a run is, and how it got there.
RUN = ("output_dir", "checkpoint_path", "resume", "pretrained_path")
NAME = "--dataset.repo_id=tests/tiny"
SETTINGS = (
    NAME, "--policy.device=cpu", "--policy.encoder.weights=tiny-random", "--policy.encoder.image_px=28",
    "--policy.head_width=32", "--policy.chunk_size=4", "--policy.scheduler_warmup_steps=0",
    "--batch_size=4", "--num_workers=0", "--log_freq=0", "--env_eval_freq=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lerobot") / "data"
    return write_lerobot(folder, episodes=3, steps=8, cameras=("top", "wrist"), video=False)


@pytest.fixture
def lary_train(data, tmp_path, capfd):
    """Run `lary train` into a folder below tmp_path; returns the folder and what was said."""

    def run(name, *extra, steps=3, settings=SETTINGS):
        capfd.readouterr()
        main(
            "train",
            [
                *settings,
                f"--dataset.root={data}",
                f"--steps={steps}",
                f"--output_dir={tmp_path / name}",
                *extra,
            ],
        )
        return tmp_path / name, " ".join(capfd.readouterr().err.split())

    return run


def lerobot_train(*arguments):
    from lerobot.scripts.lerobot_train import train

    before, sys.argv = sys.argv, ["lerobot-train", *arguments]
    try:
        train()
    finally:
        sys.argv = before


def settings_of(path):
    return json.loads(path.read_text(), object_hook=lambda d: {k: v for k, v in d.items() if k not in RUN})


def require_same_checkpoint(ours, theirs, folders=(PRETRAINED, STATE), tolerance=1e-6):
    """Everything of two checkpoints is equal but the folders they were written to."""
    names = {path.name for path in (theirs / PRETRAINED).iterdir()}
    assert {path.name for path in (ours / PRETRAINED).iterdir()} == names
    for folder in folders:
        for path in (theirs / folder).iterdir():
            mine = ours / folder / path.name
            if path.suffix == ".safetensors":
                expected, found = load_file(path), load_file(mine)
                assert found.keys() == expected.keys()
                for key, value in expected.items():
                    assert (found[key].double() - value.double()).abs().max() <= tolerance, (path.name, key)
            else:
                assert settings_of(mine) == settings_of(path), path.name


class Calls:
    """Counts the images that encoders of policies see."""

    def __init__(self, monkeypatch):
        from lary_policy.policy.encoder.observation import ObservationEncoder

        self.images, encode = 0, ObservationEncoder.encode_frames

        def counted(encoder, frames):
            self.images += frames.shape[0] * frames.shape[1]
            return encode(encoder, frames)

        monkeypatch.setattr(ObservationEncoder, "encode_frames", counted)

    def take(self):
        taken, self.images = self.images, 0
        return taken


def test_the_checkpoint_is_that_of_lerobot_train(data, lary_train, tmp_path, monkeypatch):
    calls = Calls(monkeypatch)
    ours, said = lary_train("cached")
    assert calls.take() == 54  # 27 frames of two cameras
    assert "54 encoded, 0 stored before" in said
    lerobot_train(
        *SETTINGS, *DEFAULTS, f"--dataset.root={data}", "--steps=3", f"--output_dir={tmp_path / 'plain'}"
    )
    assert calls.take() == 24  # three steps of four samples
    require_same_checkpoint(ours, tmp_path / "plain")
    assert f"{tmp_path}/cache/" not in "".join(p.read_text() for p in (ours / PRETRAINED).glob("*.json"))

    again, said = lary_train("again", "--policy.head=dit", "--dataset.use_imagenet_stats=false")
    assert "0 encoded, 54 stored before" in said
    assert calls.take() == 0
    uncached, said = lary_train(
        "uncached", "--policy.head=dit", "--dataset.use_imagenet_stats=false", "--cache_latents=false"
    )
    assert "every step, because of cache_latents=false" in said
    require_same_checkpoint(again, uncached)


def test_a_history_is_clamped_at_the_starts_of_episodes(lary_train):
    history = (
        "--policy.n_obs_steps=3", "--policy.observation_stride=2", "--seed=3", "--dataset.episodes=[0,2]",
        "--policy.action_mode=relative",
    )  # fmt: skip
    ours, _ = lary_train("cached", *history)
    theirs, _ = lary_train("uncached", *history, "--cache_latents=false")
    require_same_checkpoint(ours, theirs)


def test_encoders_of_several_frames(lary_train, monkeypatch):
    calls = Calls(monkeypatch)
    windows = ("--policy.encoder.name=vjepa2-large", "--policy.encoder.image_px=32", "--policy.n_obs_steps=4")
    small = [s for s in SETTINGS if "image_px" not in s]
    ours, _ = lary_train("cached", *windows, settings=small)
    calls.take()
    theirs, _ = lary_train("uncached", *windows, "--cache_latents=false", settings=small)
    assert calls.take() > 24 * 4 - 1
    require_same_checkpoint(ours, theirs)


def test_resuming_a_run_continues_it_and_reuses_its_latents(lary_train, monkeypatch):
    calls = Calls(monkeypatch)
    whole, _ = lary_train("whole", "--save_freq=2", steps=4)
    assert calls.take() == 54
    parts, _ = lary_train("parts", "--save_freq=2", steps=4)
    for path in (parts / "checkpoints" / "000004").rglob("*"):
        if path.is_file():
            path.unlink()
    config = parts / "checkpoints" / "000002" / "pretrained_model" / "train_config.json"
    main("train", [f"--config_path={config}", "--resume=true"])
    assert calls.take() == 0
    require_same_checkpoint(parts, whole, folders=(PRETRAINED,))  # LeRobot's loop draws a seed when it starts


def test_a_run_resumed_after_its_first_epoch_sees_the_same_frames(lary_train):
    """27 frames, batches of 4: seven steps an epoch. LeRobot alone would begin the order of epoch 0 again."""
    whole, _ = lary_train("whole", "--save_freq=9", steps=16)
    parts, _ = lary_train("parts", "--save_freq=9", steps=16)
    shutil.rmtree(parts / "checkpoints" / "000016")
    config = parts / "checkpoints" / "000009" / "pretrained_model" / "train_config.json"
    main("train", [f"--config_path={config}", "--resume=true"])
    require_same_checkpoint(parts, whole, folders=(PRETRAINED,))


def test_the_order_of_a_resumed_run_is_reset_by_lerobot_not_by_us():
    """What LeRobot's sampler does when accelerate tells it the epoch, and what ours does."""
    from lerobot.datasets.sampler import EpisodeAwareSampler, compute_sampler_state

    from lary_policy.cli.train.run import ResumedSampler

    def order(kind, state=None, epochs=3):
        sampler = kind([0, 5], [5, 12], shuffle=True, seed=3)
        if state is not None:
            sampler.load_state_dict(state)
        found = []
        for epoch in range(epochs):
            sampler.set_epoch(epoch)  # accelerate, before each pass
            found += list(sampler)
        return found

    whole = order(EpisodeAwareSampler, epochs=4)
    assert order(ResumedSampler, epochs=4) == whole
    state = compute_sampler_state(step=5, num_frames=12, batch_size=4, num_processes=1)
    assert state == {"epoch": 1, "start_index": 8}
    assert order(ResumedSampler, state) == whole[20:]
    assert order(EpisodeAwareSampler, state)[:4] != whole[20:24]


def test_no_decoder_is_looked_for_at_length(data, lary_train, caplog):
    from lary_policy.cli.train.config import usable_decoder

    with caplog.at_level("WARNING"):
        folder, said = lary_train("run", steps=1)
    assert "torchcodec" not in said + caplog.text
    told = json.loads((folder / PRETRAINED / "train_config.json").read_text())
    assert told["dataset"]["video_backend"] == usable_decoder()


def test_fine_tuning_a_checkpoint_on_renamed_cameras_and_some_episodes(data, lary_train, monkeypatch):
    first, _ = lary_train("first", "--dataset.episodes=[0,2]")
    names = {
        f"observation.images.{a}": f"observation.images.{b}" for a, b in (("top", "wrist"), ("wrist", "top"))
    }
    swapped = (
        f"--policy.path={first / PRETRAINED}", f"--rename_map={json.dumps(names)}", NAME, "--batch_size=4",
        "--num_workers=0", "--env_eval_freq=0", "--policy.push_to_hub=false",
    )  # fmt: skip
    calls = Calls(monkeypatch)
    ours, said = lary_train("ours", settings=swapped)
    assert calls.take() == 18  # the frames of episode 1
    assert "18 encoded, 36 stored before" in said
    theirs, _ = lary_train("theirs", "--cache_latents=false", settings=swapped)
    require_same_checkpoint(ours, theirs)


def test_augmented_images_are_encoded_at_every_step(lary_train, monkeypatch, tmp_path):
    calls, flag = Calls(monkeypatch), "--dataset.image_transforms.enable=true"
    _, said = lary_train("run", flag, steps=1)
    assert "because of dataset.image_transforms.enable=true: frames look different" in said
    assert calls.take() == 8
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ConfigError, match="image_transforms"):
        lary_train("given", flag, "--policy.latents=/nowhere", steps=1)


def test_a_few_random_looks_of_each_image_are_encoded_once_and_drawn_from(lary_train, monkeypatch):
    calls, flags = Calls(monkeypatch), ("--dataset.image_transforms.enable=true", "--latents_views=2")
    plain, _ = lary_train("plain")
    images = calls.take()
    ours, said = lary_train("looks", *flags)
    assert calls.take() == 2 * images  # those of the images as they are were there
    assert f"{2 * images} encoded, {images} stored before" in said
    again, _ = lary_train("again", *flags)
    assert calls.take() == 0
    require_same_checkpoint(ours, again)
    with pytest.raises(AssertionError):
        require_same_checkpoint(ours, plain)
    with pytest.raises(ConfigError, match=r"Add --dataset\.image_transforms\.enable=true"):
        lary_train("alone", "--latents_views=2", steps=1)


def test_every_setting_that_makes_stored_latents_wrong_is_named(monkeypatch):
    from lerobot.configs.default import DatasetConfig, JobConfig, PeftConfig
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.utils.sample_weighting import SampleWeightingConfig

    from lary_policy.cli.train.config import LaryTrainConfig
    from lary_policy.cli.train.run import why_uncached
    from lary_policy.policy.configuration_lary import EncoderConfig, LaryConfig

    def reason(dataset=None, policy=None, **settings):
        dataset = DatasetConfig(repo_id="tests/tiny", **(dataset or {}))
        policy = policy or LaryConfig(device="cpu")
        return why_uncached(LaryTrainConfig(dataset=dataset, policy=policy, **settings))

    def tuned(trainable):
        return LaryConfig(device="cpu", encoder=EncoderConfig(trainable=trainable))

    assert reason() is None
    assert reason(policy=tuned("last")).startswith("policy.encoder.trainable=last: latents change")
    assert reason(policy=tuned("lora")).startswith("policy.encoder.trainable=lora: latents change")
    assert reason(policy=ACTConfig(device="cpu")).startswith("policy.type=act: it has no encoder of ours")
    assert reason({"streaming": True}).startswith("dataset.streaming=true")
    assert reason(peft=PeftConfig()).startswith("peft: latents change")
    assert reason(sample_weighting=SampleWeightingConfig()).startswith("sample_weighting")
    assert reason(job=JobConfig(target="a10g-small")).startswith("job.target=a10g-small")
    assert reason(cache_latents=False) == "cache_latents=false"
    assert reason(policy=LaryConfig(device="cpu", use_amp=True)).startswith(
        "policy.use_amp=true: the encoder"
    )
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert reason().startswith("ACCELERATE_MIXED_PRECISION=bf16")


def test_lerobot_train_itself_takes_stored_latents(data, lary_train, tmp_path, monkeypatch):
    lary_train("first", steps=1)
    (view,) = (tmp_path / "cache" / "views").iterdir()
    held_out = ("--dataset.eval_split=0.3", "--eval_steps=1", "--steps=2")
    common = (*SETTINGS, *DEFAULTS, f"--dataset.root={data}", *held_out)
    lerobot_train(*common, f"--output_dir={tmp_path / 'plain'}")
    calls = Calls(monkeypatch)
    lerobot_train(*common, f"--output_dir={tmp_path / 'stored'}", f"--policy.latents={view}")
    assert calls.take() == 0
    stored, plain = (tmp_path / name / PRETRAINED for name in ("stored", "plain"))
    assert (stored / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert (stored / "config.json").read_text() == (plain / "config.json").read_text()
    with pytest.raises(ConfigError, match="frozen encoder for the stored latents"):
        lerobot_train(
            *common, f"--output_dir={tmp_path / 'x'}", f"--policy.latents={view}",
            "--policy.encoder.trainable=all",
        )  # fmt: skip
    with pytest.raises(StoreError, match="fingerprint"):
        lerobot_train(
            *common, f"--output_dir={tmp_path / 'y'}", f"--policy.latents={view}", "--policy.encoder.seed=1"
        )


@pytest.fixture
def another_precision():
    """A process has one precision of accelerate's, which a test of another one sets anew."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("another_precision")
def test_mixed_precision_gives_the_checkpoint_of_lerobot_train(data, lary_train, tmp_path):
    """Its loop encodes under autocast, so that latents made without would give another checkpoint."""
    amp = ("--policy.use_amp=true", "--steps=2")
    ours, said = lary_train("ours", *amp)
    assert "every step, because of policy.use_amp=true" in said
    lerobot_train(*SETTINGS, *DEFAULTS, f"--dataset.root={data}", *amp, f"--output_dir={tmp_path / 'plain'}")
    require_same_checkpoint(ours, tmp_path / "plain", folders=(PRETRAINED,))


def test_an_encoder_that_was_trained_before_is_not_taken_for_its_namesake(lary_train):
    tuned, _ = lary_train("tuned", "--policy.encoder.trainable=all", "--policy.optimizer_lr_encoder=0.1")
    _, said = lary_train(
        "frozen",
        f"--policy.path={tuned / PRETRAINED}",
        "--policy.encoder.trainable=none",
        settings=(NAME, *SETTINGS[-4:]),
    )
    assert "the encoder in the checkpoint was trained" in said


def test_bad_input_is_named(data, tmp_path, capsys):
    run = ["train", *SETTINGS, f"--dataset.root={data}"]
    old, null = tmp_path / "old", tmp_path / "null"
    for folder in (old, null):
        shutil.copytree(data, folder)
    info = old / "meta" / "info.json"
    info.write_text(info.read_text().replace('"v3.0"', '"v2.1"'))
    stats = json.loads((null / "meta" / "stats.json").read_text())
    stats["action"]["mean"][2] = None
    (null / "meta" / "stats.json").write_text(json.dumps(stats))
    made = tmp_path / "made"
    made.mkdir()
    for arguments, message in (
        (["train", "steps=3"], "Write --steps=3"),
        (["train"], "Example: lary train --dataset.repo_id="),
        (["train", f"--dataset.root={data}"], "Add --dataset.repo_id="),
        (["train", NAME, f"--dataset.root={data.parent}"], f"Did you mean --dataset.root={data}?"),
        (["train", NAME, "--dataset.root", f"{data}x"], f"Did you mean --dataset.root={data}?"),
        (
            ["train", "--config_path=/nowhere/train_config.json", "--resume=true"],
            "/nowhere/train_config.json",
        ),
        ([*run, f"--output_dir={made}"], "already exists"),
        (
            ["train", *SETTINGS, f"--dataset.root={tmp_path / 'none'}", f"--output_dir={tmp_path / 'x'}"],
            "none; got no such folder",
        ),
        ([*run, f"--output_dir={tmp_path / 'x'}", "--dataset.episodes=[9]"], "dataset.episodes"),
        ([*run, f"--output_dir={tmp_path / 'x'}", "--dataset.episodes=[]"], "at least one episode"),
        (
            [*run, f"--dataset.root={old}", f"--output_dir={tmp_path / 'x'}"],
            f"--root={old} --push-to-hub=false",
        ),
        (
            [*run, f"--dataset.root={old}", f"--output_dir={tmp_path / 'x'}", "--cache_latents=false"],
            f"--root={old} --push-to-hub=false",
        ),
        ([*run, f"--dataset.root={null}", f"--output_dir={tmp_path / 'x'}"], "meta/stats.json"),
        ([*run, f"--output_dir={tmp_path / 'x'}", "--latents_dtype=int8"], "float16"),
        ([*run, f"--output_dir={tmp_path / 'x'}", "--policy.encoder.name=dinov2-smal"], "dinov2-small"),
        ([*run, f"--output_dir={tmp_path / 'x'}", f"--policy.latents={data}"], "stored latents of a dataset"),
    ):
        assert cli.main(arguments) == 2, message
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_help_and_defaults_give_way(capsys):
    assert main("train", ["--help"]) == 0
    assert "--latents_dir" in capsys.readouterr().out
    assert with_defaults(["--steps=3"]) == ["--steps=3", *DEFAULTS]
    assert with_defaults(["--policy.type=act"]) == ["--policy.type=act", DEFAULTS[1]]
    assert with_defaults(["--policy.path=x"]) == ["--policy.path=x", DEFAULTS[1]]
    assert with_defaults(["--config_path=x"]) == ["--config_path=x"]
