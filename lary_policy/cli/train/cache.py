"""Fill the latent cache for a training run, and point the run at it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType
from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.datasets.utils import INFO_PATH
from lerobot.transforms import ImageTransforms
from lerobot.utils.constants import HF_LEROBOT_HOME, IMAGENET_STATS
from lerobot.utils.feature_utils import dataset_to_policy_features
from safetensors import safe_open

from lary_policy.cli.train.config import LaryTrainConfig
from lary_policy.console import console, progress
from lary_policy.data.lerobot import LeRobotFiles, require_format
from lary_policy.errors import ConfigError, DatasetError, LaryPolicyError, summary
from lary_policy.machine import available_cores, intra_op_threads
from lary_policy.paths import exclusive, read_json
from lary_policy.policy import require_cameras
from lary_policy.policy.cache import CachePlan, Looks, build_cache
from lary_policy.policy.encoder import ObservationEncoder

BACKBONE = "encoder.backbone."


def use_cache(cfg: LaryTrainConfig) -> str | None:
    """Encode what is missing of the dataset's frames and train on the latents; return why not, if not.

    Raises:
        DatasetError: The dataset is nowhere, or damaged.
        ConfigError: Its features are not what the policy needs.
        StoreError: The disk is too small, or stored latents are damaged.
        WeightsMissingError: The encoder's weights are not on this machine.
    """
    policy: Any = cfg.policy  # `why_uncached` looked at it
    meta = local_dataset(cfg)
    cameras = _adopt_features(policy, meta.features, cfg.rename_map)
    encoder = ObservationEncoder(dataclasses.replace(policy.encoder), device=str(policy.device))
    if (reason := _other_weights(policy.pretrained_path, encoder)) is not None:
        return reason
    plan = CachePlan(
        cameras=cameras,
        deltas=tuple(policy.observation_delta_indices or (0,)),
        episodes=None if cfg.dataset.episodes is None else tuple(cfg.dataset.episodes),
        dtype=cfg.latents_dtype or policy.encoder.dtype,
        camera_stats=imagenet_stats() if cfg.dataset.use_imagenet_stats else None,
        looks=looks_of(cfg),
    )
    beside = (cfg.output_dir or Path("outputs/train/run")).parent / "cache"
    root, cores = Path(cfg.latents_dir or beside), available_cores()
    label = f"latents of {policy.encoder.name}"
    with exclusive(root / f"{encoder.fingerprint}.lock"), progress(label) as update, intra_op_threads(1):
        built = build_cache(
            meta, plan, encoder, root, device=str(policy.device), threads=cores, on_progress=update
        )
    size = (built.encoded + built.reused) * built.bytes / 1e6
    console.print(
        f"  {built.encoded} encoded, {built.reused} stored before, {size:.0f} MB as {plan.dtype} in {root}"
    )
    cfg.train_on(built.folder)
    return None


def looks_of(cfg: LaryTrainConfig) -> Looks | None:
    """Return the random looks of images that are stored; ConfigError where they contradict other settings."""
    transforms = cfg.dataset.image_transforms
    if cfg.latents_views < 0 or (cfg.latents_views and not transforms.enable):
        raise ConfigError(
            expected="latents_views from 1 with dataset.image_transforms.enable=true, or 0",
            got=f"latents_views={cfg.latents_views}, enable={str(transforms.enable).lower()}",
            fix="Add --dataset.image_transforms.enable=true, or leave --latents_views out.",
        )
    if not cfg.latents_views:
        return None
    return Looks(cfg.latents_views, ImageTransforms(transforms), dataclasses.asdict(transforms))


def require_readable(cfg: LaryTrainConfig) -> None:
    """Raise DatasetError where a dataset on this machine cannot be trained on.

    That is where its format is one that LeRobot no longer reads, or where a number is not finite.
    """
    home = Path(cfg.dataset.root) if cfg.dataset.root else HF_LEROBOT_HOME / cfg.dataset.repo_id
    if not (home / INFO_PATH).is_file():
        return
    require_format(home, read_json(home / INFO_PATH))
    if not cfg.dataset.streaming:
        files = LeRobotFiles.read(home)
        files.require_finite(files.numbers(), cfg.dataset.episodes)


def local_dataset(cfg: LaryTrainConfig) -> LeRobotDatasetMetadata:
    """Return the description of the dataset, whose files are downloaded where they are missing.

    DatasetError where it is neither on this machine nor on the hub.
    """
    dataset = cfg.dataset
    try:
        meta = LeRobotDatasetMetadata(dataset.repo_id, root=dataset.root, revision=dataset.revision)
        chosen = range(meta.total_episodes) if dataset.episodes is None else dataset.episodes
        needed = {meta.get_data_file_path(e) for e in chosen}
        needed |= {meta.get_video_file_path(e, key) for e in chosen for key in meta.video_keys}
        if all((meta.root / path).is_file() for path in needed):
            return meta
        return LeRobotDataset(
            dataset.repo_id, root=dataset.root, revision=dataset.revision, episodes=dataset.episodes,
            video_backend=dataset.video_backend,
        ).meta  # fmt: skip
    except LaryPolicyError:
        raise
    except Exception as error:  # whatever LeRobot, the hub and parquet raise at files of others
        raise DatasetError(
            expected=f"a LeRobot dataset in {dataset.root or HF_LEROBOT_HOME / dataset.repo_id}, or "
            f"'{dataset.repo_id}' on the hub",
            got=summary(error).rstrip("."),
            fix="Check --dataset.repo_id, --dataset.root and --dataset.episodes.",
        ) from error


def _adopt_features(
    policy: Any, features: dict[str, dict[str, Any]], renamed: Mapping[str, str]
) -> dict[str, str]:
    """Give the policy the features of the whole dataset; return its cameras with their names in the dataset.

    LeRobot would do so when it builds the policy, but from the view, which has no cameras.
    """
    found = dataset_to_policy_features(features)
    policy.output_features = {name: f for name, f in found.items() if f.type is FeatureType.ACTION}
    if not policy.input_features:
        policy.input_features = {name: f for name, f in found.items() if name not in policy.output_features}
    policy.validate_features()
    seen = {renamed.get(name, name): name for name, f in found.items() if f.type is FeatureType.VISUAL}
    require_cameras(policy.image_features, seen)
    return {name: seen[name] for name in policy.image_features}


def _other_weights(checkpoint: Path | None, encoder: ObservationEncoder) -> str | None:
    """Tell whether a checkpoint holds other weights of the encoder than those its name stands for."""
    if encoder.awaits is not None:
        return "policy.path: the encoder's weights are in the checkpoint alone"
    if checkpoint is None:
        return None
    file = Path(checkpoint) / "model.safetensors"
    if not file.is_file():
        return "policy.path: the checkpoint is on the hub, and may hold an encoder that was trained"
    own = encoder.backbone.state_dict()
    with safe_open(file, framework="pt") as tensors:
        for name in tuple(tensors.keys()):
            mine = own.get(name.rpartition(BACKBONE)[2]) if BACKBONE in name else None
            if mine is not None and not torch.equal(mine.cpu(), tensors.get_tensor(name)):
                return "policy.path: the encoder in the checkpoint was trained"
    return None


def imagenet_stats() -> dict[str, Any]:
    """Return the statistics that LeRobot gives to cameras by default, as it does: in float32."""
    return {name: torch.tensor(stats, dtype=torch.float32).tolist() for name, stats in IMAGENET_STATS.items()}
