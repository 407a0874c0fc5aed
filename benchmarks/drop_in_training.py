"""Trains a LeRobot policy on simulated demonstrations and measures it on held-out ones."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.factory import make_policy, make_pre_post_processors
from torch import Tensor
from torch.utils.data import DataLoader

from lary_policy.data.lerobot import export_demonstrations
from lary_policy.data.simulated import collect_demonstrations
from lary_policy.policy import EncoderConfig
from lary_policy.policy.drop_in import LaryACTConfig, LaryDiffusionConfig
from lary_policy.policy.encoder import ObservationEncoder

REPO = "local/lary-reach"
ROLLOUT_SEED = 300_000  # where `lary rollout` starts
EVALUATION_BATCH = 32
STILL = 1e-4  # numbers that deviate less over the demonstrations carry nothing to learn

EXECUTED = 8  # actions of a plan
# Small enough for a core, with every part of the published architectures.
ACT = {
    "chunk_size": 10, "n_action_steps": EXECUTED, "dim_model": 128, "n_heads": 4, "dim_feedforward": 512,
    "n_encoder_layers": 2, "n_vae_encoder_layers": 2,
}  # fmt: skip
# Predicting the sample instead of the noise gives usable actions after a few hundred steps.
DIFFUSION = {
    "n_obs_steps": 1, "horizon": 16, "n_action_steps": EXECUTED, "down_dims": (64, 128),
    "drop_n_last_frames": 0, "noise_scheduler_type": "DDIM", "num_inference_steps": 10,
    "prediction_type": "sample",
}  # fmt: skip
# Diffusion Policy trains its ResNet from scratch with group instead of batch norm.
POLICIES: dict[str, tuple[type[Any], type[Any], dict[str, Any], dict[str, Any]]] = {
    "act": (LaryACTConfig, ACTConfig, ACT, {}),
    "diffusion": (LaryDiffusionConfig, DiffusionConfig, DIFFUSION, {"use_group_norm": True}),
}


@dataclass(frozen=True)
class Outcome:
    """A trained policy on held-out data.

    Attributes:
        l1: Mean absolute error of the executed actions, in standard deviations of the demonstrations.
        position_mm: Mean distance of the commanded from the expert's position.
        success: Share of closed-loop episodes that succeeded, or None.
        seconds: Of training.
    """

    l1: float
    position_mm: float
    success: float | None
    seconds: float


def demonstrations(folder: Path, *, train: int, val: int, image_px: int) -> dict[str, Path]:
    """Write expert episodes of `reach` as two LeRobot datasets of images and return their folders."""
    splits = {"train": range(train), "val": range(100_000, 100_000 + val)}
    collect_demonstrations(folder / "reach", "reach", splits=splits, image_px=image_px)
    return {
        split: export_demonstrations(folder / "reach", folder / split, repo_id=REPO, split=split, video=False)
        for split in splits
    }


def sides(name: str, encoder: str, encoder_px: int, *, steps: int, lr: float, device: str) -> tuple[Any, Any]:
    """Return the configurations of a policy on a frozen encoder and on a ResNet18 trained from scratch."""
    ours, stock, sizes, own = POLICIES[name]
    common = {"device": device, "push_to_hub": False, "optimizer_lr": lr, **sizes}
    if name == "act":
        common["optimizer_lr_backbone"] = lr
    else:
        common["scheduler_warmup_steps"] = steps // 10
    eyes = EncoderConfig(name=encoder, image_px=encoder_px)
    return ours(**common, encoder=eyes), stock(**common, **own, pretrained_backbone_weights=None)


def train(
    config: Any, root: Path, *, steps: int, batch: int, seed: int, memory: dict[bytes, Tensor]
) -> tuple[Any, tuple[Any, Any], float]:
    """Train as lerobot-train does, without its log and checkpoints.

    Args:
        config: The policy's configuration, left as it is.
        root: Folder of the demonstrations.
        steps: Optimiser steps.
        batch: Samples of a step; their order depends on `seed` alone.
        seed: Of initial weights, order and noise.
        memory: Tokens of frames that a frozen encoder has seen; see `remember`.

    Returns:
        The policy, its processors, and seconds of training.
    """
    meta = LeRobotDatasetMetadata(REPO, root=root)
    torch.manual_seed(seed)
    policy = make_policy(copy.deepcopy(config), ds_meta=meta)
    for module in policy.modules():
        if isinstance(module, ObservationEncoder):
            remember(module, memory)
    processors = make_pre_post_processors(policy.config, dataset_stats=meta.stats)
    optimizer = config.get_optimizer_preset().build(policy.get_optim_params())
    preset = config.get_scheduler_preset()
    scheduler = preset.build(optimizer, steps) if preset else None
    policy.train()
    started = time.perf_counter()
    for sample in _endless(_loader(config, root, batch, seed), steps):
        loss, _ = policy.forward(processors[0](sample))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)  # lerobot-train's default
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return policy, processors, time.perf_counter() - started


@torch.no_grad()
def held_out(policy: Any, processors: tuple[Any, Any], root: Path, scale: Tensor) -> tuple[float, float]:
    """Return the L1 error (in `scale`, one number for each of an action) and the position error in mm.

    Every frame of the held-out episodes is planned from; the actions that would be executed count.
    """
    policy.eval()
    policy.reset()
    torch.manual_seed(0)  # of sampling
    config, moving = policy.config, scale > STILL
    errors, distances = [], []
    for sample in DataLoader(_dataset(config, root), EVALUATION_BATCH):
        target, is_pad = sample["action"], sample["action_is_pad"]
        first = config.n_obs_steps - 1
        window = slice(first, first + config.n_action_steps)
        inputs = {k: v for k, v in sample.items() if not k.startswith("action")}
        chunk = processors[1](policy.predict_action_chunk(processors[0](inputs)))
        difference = (chunk[:, : config.n_action_steps] - target[:, window])[~is_pad[:, window]]
        errors.append((difference[:, moving].abs() / scale[moving]).mean(1))
        distances.append(difference[:, :3].norm(dim=1))
    return float(torch.cat(errors).mean()), float(torch.cat(distances).mean()) * 1000


def closed_loop(policy: Any, processors: tuple[Any, Any], *, episodes: int, image_px: int) -> float:
    """Return the share of episodes that succeed in `lerobot-eval`'s own loop over `lary_sim`."""
    from lerobot.envs.factory import make_env_pre_post_processors
    from lerobot.scripts.lerobot_eval import eval_policy

    from lary_envs.gym import LarySimEnv

    settings = LarySimEnv(task="reach", image_px=image_px, device="cpu")
    env = settings.create_envs(episodes)["lary_sim"][0]
    around = make_env_pre_post_processors(settings, policy.config)
    try:
        found = eval_policy(env, policy, *around, *processors, n_episodes=episodes, start_seed=ROLLOUT_SEED)
    finally:
        env.close()
    return float(found["aggregated"]["pc_success"]) / 100


def action_scale(root: Path) -> Tensor:
    """Return the standard deviation of each number of an action."""
    return torch.as_tensor(LeRobotDatasetMetadata(REPO, root=root).stats["action"]["std"]).float()


def mean_action_error(train_root: Path, val_root: Path) -> float:
    """Return the L1 error of the constant mean action, which needs no eyes."""
    means = LeRobotDatasetMetadata(REPO, root=train_root).stats["action"]["mean"]
    scale = action_scale(train_root)
    actions = torch.stack(
        [torch.as_tensor(a) for a in LeRobotDataset(REPO, root=val_root).hf_dataset["action"]]
    )
    moving = scale > STILL
    return float(((actions - torch.as_tensor(means).float())[:, moving].abs() / scale[moving]).mean())


def remember(encoder: ObservationEncoder, memory: dict[bytes, Tensor]) -> None:
    """Let a frozen encoder see every frame once: without augmentation its tokens never change."""
    encode = encoder.forward

    def forward(images: Tensor) -> Tensor:
        keys = [hashlib.blake2b(frame.numpy().tobytes()).digest() for frame in images]
        new = {key: i for i, key in enumerate(keys) if key not in memory}
        if new:
            memory.update(zip(new, encode(images[list(new.values())]).detach(), strict=True))
        return torch.stack([memory[key] for key in keys])

    encoder.forward = forward  # type: ignore[method-assign]


def _dataset(config: Any, root: Path) -> LeRobotDataset:
    meta = LeRobotDatasetMetadata(REPO, root=root)
    return LeRobotDataset(REPO, root=root, delta_timestamps=resolve_delta_timestamps(config, meta))


def _loader(config: Any, root: Path, batch: int, seed: int) -> DataLoader[Any]:
    order = torch.Generator().manual_seed(seed)
    return DataLoader(_dataset(config, root), batch, shuffle=True, drop_last=True, generator=order)


def _endless(loader: DataLoader[Any], steps: int) -> Iterator[Any]:
    done = 0
    while done < steps:
        for sample in loader:
            if done == steps:
                return
            yield sample
            done += 1
