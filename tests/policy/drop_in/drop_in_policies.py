"""Small drop-in policies and batches in LeRobot's shapes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

from lary_policy.policy.configuration_lary import EncoderConfig

# Smallest sizes at which every stock architecture is whole.
SIZES: dict[str, dict[str, Any]] = {
    "lary_act": {
        "dim_model": 16, "n_heads": 2, "dim_feedforward": 16, "n_encoder_layers": 1, "latent_dim": 4,
        "n_vae_encoder_layers": 1, "chunk_size": 4, "n_action_steps": 2,
    },
    "lary_diffusion": {
        "horizon": 8, "n_action_steps": 2, "down_dims": (8, 16), "n_groups": 4, "diffusion_step_embed_dim": 8,
        "num_train_timesteps": 3, "spatial_softmax_num_keypoints": 4, "encoder_feature_dim": 8,
    },
    "lary_vqbet": {
        "n_obs_steps": 2, "n_action_pred_token": 2, "action_chunk_size": 2, "n_vqvae_training_steps": 1,
        "vqvae_n_embed": 4, "vqvae_embedding_dim": 8, "vqvae_enc_hidden_dim": 8, "gpt_block_size": 12,
        "gpt_input_dim": 16, "gpt_output_dim": 16, "gpt_hidden_dim": 16, "gpt_n_layer": 1, "gpt_n_head": 2,
        "encoder_feature_dim": 8,
    },
    "lary_multi_task_dit": {
        "horizon": 8, "n_action_steps": 2, "hidden_dim": 16, "num_layers": 1, "num_heads": 2,
        "timestep_embed_dim": 8, "num_train_timesteps": 3, "encoder_feature_dim": 8,
        "tokenizer_max_length": 8, "optimizer_lr": 1.0,
    },
    "lary_gaussian_actor": {"latent_dim": 8, "image_embedding_pooling_dim": 2, "state_encoder_hidden_dim": 8},
}  # fmt: skip
DROP_IN = tuple(SIZES)
ACTION_DIM, SIDE = 7, 32
STATS = {
    name: {"min": torch.full((ACTION_DIM,), -2.0), "max": torch.full((ACTION_DIM,), 2.0),
           "mean": torch.zeros(ACTION_DIM), "std": torch.full((ACTION_DIM,), 2.0)}
    for name in ("observation.state", "action")
}  # fmt: skip


def tiny_encoder(**changes: Any) -> EncoderConfig:
    """Return a toy DINOv2 whose weights a seed restores, so that a checkpoint need not hold them."""
    settings = {"name": "dinov2-small", "weights": "tiny-random", "image_px": 28, "save": False}
    return EncoderConfig(**{**settings, **changes})


def drop_in_config(name: str, clip: Path | None = None, cameras: int = 1, **changes: Any) -> Any:
    """Return a configuration of a drop-in type with its features set."""
    importlib.import_module("lary_policy.policy.drop_in.configuration_drop_in")
    from lerobot.configs import PreTrainedConfig

    settings = {"device": "cpu", "push_to_hub": False, "encoder": tiny_encoder(), **SIZES[name], **changes}
    if name == "lary_multi_task_dit":
        settings["text_encoder_name"] = str(clip)
    config = PreTrainedConfig.get_choice_class(name)(**settings)
    image = PolicyFeature(FeatureType.VISUAL, (3, SIDE, SIDE))
    config.input_features = {f"observation.images.cam{i}": image for i in range(cameras)}
    config.input_features["observation.state"] = PolicyFeature(FeatureType.STATE, (ACTION_DIM,))
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))}
    return config


def build(config: Any) -> Any:
    """Build the policy the way LeRobot's factory does."""
    torch.manual_seed(0)
    return get_policy_class(config.type)(config=config, dataset_stats=None)


def processors(config: Any, **from_checkpoint: Any) -> tuple[Any, Any]:
    """Return LeRobot's pre- and postprocessor of a policy."""
    return make_pre_post_processors(config, **({"dataset_stats": STATS} | from_checkpoint))


def observation(config: Any, batch: int = 2, seed: int = 0) -> dict[str, Any]:
    """Return one observation as `lerobot-eval` hands it to the preprocessor."""
    generator = torch.Generator().manual_seed(seed)
    images = {k: torch.rand(batch, 3, SIDE, SIDE, generator=generator) for k in config.image_features}
    state = torch.rand(batch, ACTION_DIM, generator=generator)
    return {**images, "observation.state": state, "task": ["push the cube"] * batch}


def training_batch(config: Any, batch: int = 2, seed: int = 0) -> dict[str, Any]:
    """Return a batch as LeRobot's data loader makes it: windows where the policy asks for them."""
    values = observation(config, batch, seed)
    steps = len(config.observation_delta_indices or [])
    if steps:
        frames = [observation(config, batch, seed + i) for i in range(steps)]
        values |= {k: torch.stack([f[k] for f in frames], 1) for k in values if k != "task"}
    chunk = len(config.action_delta_indices or [0])
    values["action"] = torch.rand(batch, chunk, ACTION_DIM, generator=torch.Generator().manual_seed(seed))
    values["action_is_pad"] = torch.zeros(batch, chunk, dtype=torch.bool)
    return values


def step(policy: Any, batch: dict[str, Any]) -> None:
    """Take two steps on the policy's parameter groups: VQ-BeT first finds codes, DiT starts from zeros."""
    policy.train()
    optimizer = torch.optim.SGD(policy.get_optim_params(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        loss, _ = policy.forward(dict(batch))
        loss.backward()
        optimizer.step()


def tiny_clip(folder: Path) -> Path:
    """Write a CLIP text tower and tokenizer of a few kB to a folder whose name contains clip."""
    from transformers import CLIPTextConfig, CLIPTextModel

    root = folder / "tiny-clip"
    root.mkdir()
    letters = [chr(c) for c in range(97, 123)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    (root / "vocab.json").write_text(json.dumps(vocabulary))
    (root / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": words[-2], "eos_token": words[-1], "unk_token": words[-1], "pad_token": words[-1]}
    (root / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **special}))
    ends = {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    widths = {"hidden_size": 8, "intermediate_size": 8, "projection_dim": 8, "max_position_embeddings": 8}
    depth = {"num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPTextModel(CLIPTextConfig(vocab_size=len(words), **widths, **depth, **ends)).save_pretrained(root)
    return root
