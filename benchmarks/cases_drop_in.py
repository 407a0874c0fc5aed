"""ACT and Diffusion Policy on a frozen encoder against the same policies on a ResNet18 trained from scratch.

Both sides get the same demonstrations, samples in the same order, optimiser steps, learning rate and sizes;
only what sees the camera differs.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drop_in_training import (
    Outcome,
    action_scale,
    closed_loop,
    demonstrations,
    held_out,
    mean_action_error,
    train,
)
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from torch import Tensor

from case import Figure
from lary_policy.policy.drop_in.configuration_lary_act import LaryACTConfig
from lary_policy.policy.drop_in.configuration_lary_diffusion import LaryDiffusionConfig
from lary_policy.policy.encoder_config import EncoderConfig

EXECUTED = 8  # actions of a plan
# Small enough for a core, with every part of the published architectures.
ACT = {
    "chunk_size": 10, "n_action_steps": EXECUTED, "dim_model": 128, "n_heads": 4, "dim_feedforward": 512,
    "n_encoder_layers": 2, "n_vae_encoder_layers": 2,
}  # fmt: skip
DIFFUSION = {
    "n_obs_steps": 2, "horizon": 16, "n_action_steps": EXECUTED, "down_dims": (64, 128),
    "drop_n_last_frames": 0, "noise_scheduler_type": "DDIM", "num_inference_steps": 10,
}  # fmt: skip
# Diffusion Policy trains its ResNet from scratch with group instead of batch norm.
POLICIES: dict[str, tuple[type[Any], type[Any], dict[str, Any], dict[str, Any]]] = {
    "act": (LaryACTConfig, ACTConfig, ACT, {}),
    "diffusion": (LaryDiffusionConfig, DiffusionConfig, DIFFUSION, {"use_group_norm": True}),
}


def run(
    policies: str, encoder: str, image_px: int, encoder_px: int, train_episodes: int, val_episodes: int,
    steps: int, batch: int, seeds: int, lr: float, episodes: int, output_dir: str, device: str,
) -> Iterator[Figure]:  # fmt: skip
    """Train both sides with each seed and yield held-out errors and closed-loop success.

    Args:
        policies: Comma-separated names of `POLICIES`.
        encoder: Registry name of our side's frozen encoder.
        image_px: Side of the rendered frames, as the ResNet sees them.
        encoder_px: Side to which the encoder resizes them.
        train_episodes: Expert episodes to learn from.
        val_episodes: Expert episodes held out.
        steps: Optimiser steps.
        batch: Samples of a step.
        seeds: Of initial weights, order and noise; both sides share each.
        lr: Learning rate of both sides.
        episodes: Closed-loop episodes after training; 0 for none.
        output_dir: Where the demonstrations are put for the run.
        device: cpu; the figures depend on it little.
    """
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="drop-in-", dir=output_dir) as folder:
        data = demonstrations(Path(folder), train=train_episodes, val=val_episodes, image_px=image_px)
        yield Figure("mean_action_l1", mean_action_error(data["train"], data["val"]), "std")
        memory: dict[bytes, Tensor] = {}
        for name in policies.split(","):
            ours, stock, sizes, own = POLICIES[name]
            common = {"device": device, "push_to_hub": False, "optimizer_lr": lr, **sizes}
            if name == "act":
                common["optimizer_lr_backbone"] = lr
            else:
                common["scheduler_warmup_steps"] = steps // 10
            eyes = EncoderConfig(name=encoder, image_px=encoder_px)
            sides = (
                ours(**common, encoder=eyes),
                stock(**common, **own, pretrained_backbone_weights=None),
            )
            pairs = []
            for seed in range(seeds):
                pair = [
                    _outcome(side, data, steps, batch, seed, memory, episodes, image_px) for side in sides
                ]
                pairs.append((pair[0], pair[1]))
                print(f"{name} seed {seed}: {pair[0]} against {pair[1]}", file=sys.stderr, flush=True)
            yield from _figures(name, pairs)
            print(_sentence(name, encoder, steps, pairs), file=sys.stderr, flush=True)


def _outcome(
    config: Any, data: dict[str, Path], steps: int, batch: int, seed: int, memory: dict[bytes, Tensor],
    episodes: int, image_px: int,
) -> Outcome:  # fmt: skip
    policy, processors, seconds = train(
        config, data["train"], steps=steps, batch=batch, seed=seed, memory=memory
    )
    l1, position_mm = held_out(policy, processors, data["val"], action_scale(data["train"]))
    success = closed_loop(policy, processors, episodes=episodes, image_px=image_px) if episodes else None
    return Outcome(l1, position_mm, success, seconds)


def _figures(name: str, pairs: list[tuple[Outcome, Outcome]]) -> Iterator[Figure]:
    for metric, unit in (("l1", "std"), ("position_mm", "mm"), ("success", "share")):
        values = [[getattr(side, metric) for side in pair] for pair in pairs]
        if None in values[0]:
            continue
        own, other = zip(*values, strict=True)
        yield Figure(
            f"{name}_{metric}", statistics.mean(own), unit, statistics.mean(other), min(own), max(own)
        )
    gaps = [a.l1 - b.l1 for a, b in pairs]
    yield Figure(f"{name}_l1_difference", statistics.mean(gaps), "std", None, min(gaps), max(gaps))


def _sentence(name: str, encoder: str, steps: int, pairs: list[tuple[Outcome, Outcome]]) -> str:
    own, other = (statistics.mean(side.l1 for side in sides) for sides in zip(*pairs, strict=True))
    wins = sum(a.l1 < b.l1 for a, b in pairs)
    verdict = "beats" if wins == len(pairs) else "does not beat with every seed"
    return (
        f"{name} on frozen {encoder} {verdict} the same policy on a random-initialised ResNet18 after "
        f"{steps} equal steps: held-out L1 {own:.3f} against {other:.3f} deviations ({own / other:.2f} of "
        f"it), better with {wins} of {len(pairs)} seeds."
    )
