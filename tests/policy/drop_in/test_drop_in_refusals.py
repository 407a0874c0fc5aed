"""What does not fit is refused by name before a policy acts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from drop_in_policies import (
    ACTION_DIM,
    DROP_IN,
    STATS,
    build,
    drop_in_config,
    observation,
    tiny_encoder,
    training_batch,
)
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_policy, make_pre_post_processors
from safetensors.torch import load_file, save_file

from lary_envs.gym.lerobot import LarySimEnv
from lary_policy.actions.contract import ActionContract
from lary_policy.actions.embodiment import load_embodiment
from lary_policy.errors import (
    ConfigError,
    EmbodimentError,
    FrameFormatError,
    LaryPolicyError,
    UnknownNameError,
    WeightsMismatchError,
    WeightsMissingError,
)


@pytest.mark.parametrize(
    ("name", "field_name", "value"),
    [
        ("lary_act", "pretrained_backbone_weights", "ResNet18_Weights.IMAGENET1K_V1"),
        ("lary_act", "vision_backbone", "resnet50"),
        ("lary_diffusion", "crop_shape", (16, 16)),
        ("lary_diffusion", "use_group_norm", True),
        ("lary_vqbet", "crop_shape", (16, 16)),
        ("lary_multi_task_dit", "vision_encoder_name", "openai/clip-vit-large-patch14"),
        ("lary_gaussian_actor", "image_encoder_hidden_dim", 64),
    ],
)
def test_settings_of_the_replaced_tower_are_refused(
    name: str, field_name: str, value: Any, clip: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"{field_name}=.*encoder replaces.*encoder.name"):
        drop_in_config(name, clip, **{field_name: value})


@pytest.mark.parametrize("name", DROP_IN)
def test_images_are_normalised_by_the_encoder_alone(name: str, clip: Path) -> None:
    assert drop_in_config(name, clip).normalization_mapping["VISUAL"] is NormalizationMode.IDENTITY
    with pytest.raises(ConfigError, match=r"VISUAL IDENTITY.*got VISUAL MEAN_STD"):
        drop_in_config(name, clip, normalization_mapping={"VISUAL": NormalizationMode.MEAN_STD})


@pytest.mark.parametrize("name", DROP_IN)
def test_a_policy_without_cameras_is_refused(name: str, clip: Path) -> None:
    with pytest.raises(ConfigError, match="one or more cameras"):
        build(drop_in_config(name, clip, cameras=0))


@pytest.mark.parametrize("name", DROP_IN)
def test_only_the_actor_does_without_a_state(name: str, clip: Path) -> None:
    config = drop_in_config(name, clip)
    del config.input_features["observation.state"]
    if name == "lary_gaussian_actor":
        batch = {k: v for k, v in observation(config).items() if k in config.image_features}
        assert build(config).select_action(batch).shape == (2, ACTION_DIM)
        return
    with pytest.raises(ConfigError, match=rf"'observation.state', which {name} needs.*use_proprio=false"):
        build(config)


def test_images_in_the_wrong_range_are_refused() -> None:
    policy = build(drop_in_config("lary_act"))
    batch = {k: v for k, v in observation(policy.config).items() if k != "task"}
    camera = next(iter(policy.config.image_features))
    with pytest.raises(FrameFormatError, match="divide uint8 images by 255"):
        policy.select_action({**batch, camera: (batch[camera] * 255).to(torch.uint8)})
    with pytest.raises(FrameFormatError, match="VISUAL to IDENTITY"):
        policy.select_action({**batch, camera: batch[camera] * 2 - 1})


def test_keypoints_need_a_grid() -> None:
    with pytest.raises(ConfigError, match="tokens form a grid"):
        build(drop_in_config("lary_diffusion", encoder=tiny_encoder(name="lapa", image_px=None)))


def test_features_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"'keypoint'.*Did you mean 'keypoints'"):
        build(drop_in_config("lary_diffusion", encoder_features="keypoint"))


@dataclass
class Contracted(PolicyFeature):
    """The action of an environment that says what its numbers mean."""

    contract: dict[str, Any] = field(default_factory=dict)
    cameras: tuple[str, ...] = ()


def environment(
    embodiment: str = "arm7", hz: float | None = None, cameras: tuple[str, ...] = ()
) -> Contracted:
    """Return the action feature of an environment of an embodiment."""
    contract = asdict(ActionContract.of(load_embodiment(embodiment), "absolute"))
    if hz is not None:
        contract["control_hz"] = hz
    known = cameras or ("observation.images.cam0",)
    return Contracted(FeatureType.ACTION, (len(contract["labels"]),), contract, known)


@pytest.mark.parametrize("name", DROP_IN)
def test_an_environment_of_another_robot_is_refused(name: str, tmp_path: Path, clip: Path) -> None:
    policy = build(drop_in_config(name, clip, embodiment="arm7", control_hz=20.0))
    policy.save_pretrained(tmp_path)
    own = type(policy.config).from_pretrained(tmp_path)
    assert own.action_dim == 7

    def load(action: PolicyFeature) -> Any:
        own.output_features = {"action": action}  # as LeRobot's make_policy
        return get_policy_class(name).from_pretrained(tmp_path, config=own)

    with pytest.raises(EmbodimentError, match=r"actions of 7 numbers.*got 12"):
        load(environment("arm12"))
    with pytest.raises(EmbodimentError, match=r"control_hz 20.0 .of the policy.; got control_hz 50.0"):
        load(environment(hz=50.0))
    with pytest.raises(ConfigError, match=r"cameras observation.images.cam0.*got observation.images.wrist"):
        load(environment(hz=20.0, cameras=("observation.images.wrist",)))
    assert load(environment(hz=20.0)).config.embodiment == "arm7"


@pytest.mark.parametrize("name", DROP_IN)
def test_an_observation_without_a_camera_is_refused(name: str, clip: Path) -> None:
    """LeRobot lets an environment pass that has only some of a policy's cameras."""
    policy = build(drop_in_config(name, clip, cameras=1 if name == "lary_vqbet" else 2))
    batch = observation(policy.config)
    wanted = [*policy.config.image_features][-1]
    batch["observation.images.side"] = batch.pop(wanted)
    with pytest.raises(ConfigError, match=rf"cameras .*{wanted}, which the policy sees; got .*images\.side"):
        policy.select_action(batch)


def test_the_packages_own_environments_are_compared(tmp_path: Path) -> None:
    policy = build(drop_in_config("lary_act", embodiment="arm7", control_hz=20.0))
    policy.save_pretrained(tmp_path)
    config = type(policy.config).from_pretrained(tmp_path)
    config.pretrained_path = tmp_path
    with pytest.raises(EmbodimentError, match=r"actions of 7 numbers.*got 12"):
        make_policy(config, env_cfg=LarySimEnv(task="dual_reach"))


def test_a_dataset_of_another_rate_is_refused() -> None:
    config = drop_in_config("lary_act", control_hz=20.0)
    config.learn_dataset(
        SimpleNamespace(fps=20, features={"action": {"shape": (7,), "info": {"embodiment": "arm7"}}})
    )
    assert (config.embodiment, config.control_hz) == ("arm7", 20.0)
    with pytest.raises(EmbodimentError, match=r"control_hz 20.0.*got control_hz 30.0"):
        config.learn_dataset(SimpleNamespace(fps=30, features={}))


@pytest.mark.parametrize("name", DROP_IN)
def test_missing_statistics_are_refused_when_a_value_needs_them(
    name: str, clip: Path, tmp_path: Path
) -> None:
    config = drop_in_config(name, clip)
    before, after = make_pre_post_processors(config, None)  # built, as LeRobot's tests of policies do
    with pytest.raises(EmbodimentError, match=r"statistics of 'observation.state'.*got none"):
        before({"observation.state": torch.zeros(1, ACTION_DIM), "task": ["x"]})
    with pytest.raises(EmbodimentError, match=r"statistics of 'action'.*got none"):
        after(torch.zeros(1, ACTION_DIM))
    with pytest.raises(EmbodimentError, match="to be saved"):  # steps that would do nothing
        after.save_pretrained(tmp_path)
    short = {key: {n: v[:3] for n, v in values.items()} for key, values in STATS.items()}
    with pytest.raises(EmbodimentError, match=r"of \[7\] for 'observation.state'.*of another length"):
        make_pre_post_processors(config, dataset_stats=short)
    for null in (None, [None] * 7, "mean", [[0.0], [1.0, 2.0]], {}):  # as json.loads of a damaged stats.json
        damaged = {**STATS, "action": {"mean": null, "std": null, "min": null, "max": null}}
        with pytest.raises(EmbodimentError, match=r"finite statistics .* for 'action'"):
            make_pre_post_processors(config, dataset_stats=damaged)
    endless = {**STATS, "action": {n: v * float("inf") for n, v in STATS["action"].items()}}
    with pytest.raises(EmbodimentError, match=r"finite statistics .* for 'action'"):
        make_pre_post_processors(config, dataset_stats=endless)


def checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Save a policy and return its folder and config.json."""
    build(drop_in_config("lary_act")).save_pretrained(folder)
    return folder, json.loads((folder / "config.json").read_text())


def load_with(folder: Path, config: dict[str, Any]) -> Any:
    """Load a checkpoint with an edited config.json."""
    (folder / "config.json").write_text(json.dumps(config))
    return get_policy_class("lary_act").from_pretrained(folder)


def test_other_encoder_weights_are_refused(tmp_path: Path) -> None:
    folder, config = checkpoint(tmp_path)
    config["encoder"]["seed"] = 1
    with pytest.raises(WeightsMismatchError, match=config["encoder"]["sha256"][:8]):
        load_with(folder, config)


def test_absent_encoder_weights_say_what_to_do(tmp_path: Path) -> None:
    folder, config = checkpoint(tmp_path)
    config["encoder"]["weights"] = str(tmp_path / "nowhere.safetensors")
    with pytest.raises((WeightsMissingError, LaryPolicyError), match=r"nowhere\.safetensors"):
        load_with(folder, config)


@pytest.mark.parametrize("strict", [False, True])
def test_a_checkpoint_with_a_missing_tensor_is_refused(strict: bool, tmp_path: Path) -> None:
    folder, _ = checkpoint(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.action_head.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises((WeightsMismatchError, RuntimeError), match=r"model\.action_head\.weight"):
        get_policy_class("lary_act").from_pretrained(folder, strict=strict)


def test_training_batches_of_two_policies_do_not_share_state() -> None:
    one, two = (build(drop_in_config("lary_act")) for _ in range(2))
    batch = training_batch(one.config)
    one.eval(), two.eval()
    torch.testing.assert_close(
        one.predict_action_chunk(batch), two.predict_action_chunk(batch), rtol=0, atol=0
    )
