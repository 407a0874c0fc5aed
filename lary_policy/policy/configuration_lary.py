"""Configuration of the policy `lary`: any encoder of the registry, a probe's head, LeRobot's conventions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig
from lerobot.optim.schedulers import CosineAnnealingWithWarmupSchedulerConfig, LRSchedulerConfig

from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.policy.features import (
    dataset_action_names,
    dataset_embodiment,
    require_cameras_and_action,
    require_history,
    require_state,
    require_state_names,
)
from lary_policy.policy.trusted import require_consent

TRAINABLE = ("none", "last", "all", "lora")
# Weights that come from a seed and no file.
DRAWN = ("random", "tiny-random")


@dataclass
class EncoderConfig:
    """Which encoder sees the cameras, what of it trains and what of it a checkpoint holds.

    On the command line: `--policy.encoder.name=dinov2-small --policy.encoder.image_px=112`. Fields that are
    not named here are those of `load_encoder`; `dtype` is `float32` where the encoder trains.

    Attributes:
        name: Registry name, `package.module:Attribute` or `auto:<hub id, folder or timm name>`. An own module
            must have been typed, imported or installed; a file alone does not have it imported.
        seed: Seed of random weights, of new adapters and of noisy outputs.
        trainable: `none` (frozen), `last` (the last transformer blocks and the norm after them), `all`, or
            `lora` (adapters on the attention's query and value projections).
        trainable_blocks: Blocks that `last` trains.
        lora_rank: Rank of adapters; LoRA's r.
        lora_alpha: Adapters are scaled by lora_alpha / lora_rank.
        save: Whether checkpoints hold the encoder's own weights. None: when nothing else could restore them,
            which is when `last` or `all` train or weights are random; a loaded checkpoint whose encoder was
            trained sets it. Adapters are always stored.
        sha256: Hash of the weights, recorded when the encoder is built; another hash is then refused.
        revision: Where those weights were found, recorded beside it.
    """

    name: str = "dinov2-small"
    weights: str = "auto"
    image_px: int | None = None
    preprocess: str = "native"
    dtype: str = "float32"
    output: str = "auto"
    seed: int = 0
    trainable: str = "none"
    trainable_blocks: int = 2
    lora_rank: int = 8
    lora_alpha: int = 16
    save: bool | None = None
    sha256: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        require_consent(self.name)
        if self.trainable not in TRAINABLE:
            raise UnknownNameError("value of encoder.trainable", self.trainable, TRAINABLE)
        counts = (self.trainable_blocks, self.lora_rank, self.lora_alpha)
        if min(counts) < 1:
            raise ConfigError(
                expected="encoder.trainable_blocks, .lora_rank and .lora_alpha of at least 1",
                got=", ".join(map(str, counts)),
                fix="Freeze an encoder with trainable=none.",
            )
        if self.save is False and self.trainable in ("last", "all"):
            raise ConfigError(
                expected=f"encoder.save unset or true where encoder.trainable={self.trainable}",
                got="false, with which checkpoints lose what was trained",
                fix="Leave encoder.save out.",
            )
        if self.trainable != "none" and self.dtype != "float32":
            raise ConfigError(
                expected=f"encoder.dtype=float32 where encoder.trainable={self.trainable}",
                got=self.dtype,
                fix="Small updates vanish in 16 bits; use --policy.use_amp=true for speed instead.",
            )

    @property
    def stores_backbone(self) -> bool:
        """Whether checkpoints hold the encoder's own weights (adapters aside, which they always do)."""
        if self.save is not None:
            return self.save
        return self.trainable in ("last", "all") or self.weights in DRAWN


ACTION_MODES = ("absolute", "relative", "delta")
POOLS = (
    "flatten",
    "grid",
    "mean",
    "project",
    "attentive",
    "keypoints",
)  # as lary_policy.heads.pool, which imports torch
# Width and blocks of each kind of head: the sizes of configs/head/mlp-matched.yaml, and twice dit-small's.
HEAD_SIZES = {"mlp": (512, 2), "dit": (256, 4)}


@PreTrainedConfig.register_subclass("lary")
@dataclass
class LaryConfig(PreTrainedConfig):
    """A frozen or trained encoder, a pool and an action head behind LeRobot's policy interface.

    Cameras are seen in the order of the image features. In the modes `relative` and `delta` the policy itself
    normalises states and targets with statistics of its own, saved in its checkpoint, because a dataset's
    statistics are those of absolute actions; in `absolute` LeRobot's processors do.

    Attributes:
        encoder: Which encoder, and what of it is trained.
        n_obs_steps: Frames t of a camera that the encoder sees; encoders of pairs and clips need two or more.
        observation_stride: Control steps between these frames.
        chunk_size: Actions k predicted at once.
        n_action_steps: Actions executed before the next plan. None is a quarter of a chunk, which reached
            more targets than half a one in simulation; with `head_from` all, as the probe's rollouts do.
        head: `mlp` (regression) or `dit` (diffusion).
        head_width: Hidden width; None takes the default of the kind.
        head_blocks: Residual blocks or transformer blocks; None takes the default of the kind.
        dit_heads: Attention heads.
        dit_mlp_ratio: Hidden width of the MLPs over `head_width`.
        dit_dropout: Part of the training samples whose condition is dropped.
        dit_train_steps: Steps of the diffusion process.
        dit_sample_steps: Steps taken when sampling.
        dit_clip_sample: Range of predicted clean actions in deviations; null does not clip.
        pool: From tokens to one vector: `flatten`, `grid`, `mean`, `project`, `attentive` or
            `keypoints` (`lary_policy.heads.PoolConfig`).
        pool_width: Numbers kept of a token (`project`) or by a query (`attentive`); number of `keypoints`.
        pool_grid: Side of the averaged grid (`grid`).
        pool_queries: Learned queries (`attentive`).
        pool_heads: Attention heads of a query (`attentive`).
        use_proprio: Whether the head sees `observation.state`; vision-only policies set it to false.
        action_mode: `absolute`; `relative` to the state at the time of planning; or `delta`, each action
            relative to the one before it.
        use_relative_actions: Relative actions leave the policy, and LeRobot's own number-by-number steps in
            the processors make them absolute, for tools that look for these steps. Otherwise the policy does
            it itself and absolute actions leave it. Only where there is no embodiment and no history.
        relative_exclude_joints: Names of actions that stay absolute (LeRobot's matching).
        action_feature_names: Names of the actions; LeRobot fills them in from the dataset.
        embodiment: Action layout of `configs/embodiment`, or None; the dataset tells it. With one, rotations
            are composed instead of subtracted, and environments of another layout are refused.
        control_hz: Actions a second the policy was trained for; the dataset tells it.
        action_dim: Numbers of an action, recorded when the policy is first built.
        head_from: Folder of a finished probe whose head this policy starts with; it decides head, chunk,
            action mode, embodiment and proprioception.
        head_origin: Where the head came from, for the model card.
        scores: Rows of `lary_policy.scores.Score` for the model card.
        scores_from: A report.json or a result.json of `lary` to read `scores` from.
        latents: Folder of cached latents to train on, see `lary train`; None encodes frames.
        save_encoder: Store the encoder's weights in checkpoints.
        normalization_mapping: How LeRobot's processors normalise each type of feature.
        optimizer_lr: Peak learning rate of the head.
        optimizer_lr_encoder: The same of the encoder's trained part.
        optimizer_weight_decay: Of all trained parameters.
        optimizer_grad_clip_norm: Largest norm of a gradient.
        scheduler_warmup_steps: Steps of linear warm-up before the cosine; None keeps the rate constant.

    Raises:
        ConfigError: Values contradict each other.
        UnknownNameError: A head, pool or action mode does not exist.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    n_obs_steps: int = 1
    observation_stride: int = 1
    chunk_size: int = 16
    n_action_steps: int | None = None

    head: str = "mlp"
    head_width: int | None = None
    head_blocks: int | None = None
    dit_heads: int = 8
    dit_mlp_ratio: float = 4.0
    dit_dropout: float = 0.1
    dit_train_steps: int = 1000
    dit_sample_steps: int = 50
    dit_clip_sample: float | None = 5.0
    pool: str = "project"
    pool_width: int = 32
    pool_grid: int = 4
    pool_queries: int = 16
    pool_heads: int = 4

    use_proprio: bool = True
    action_mode: str = "absolute"
    use_relative_actions: bool = False
    relative_exclude_joints: list[str] = field(default_factory=lambda: ["gripper"])  # as pi0
    action_feature_names: list[str] | None = None
    embodiment: str | None = None
    control_hz: float | None = None
    action_dim: int | None = None

    head_from: str | None = None
    head_origin: str | None = None
    scores: list[dict[str, Any]] = field(default_factory=list)
    scores_from: str | None = None
    latents: str | None = None
    save_encoder: bool = False

    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,  # the encoder normalises
            "STATE": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MEAN_STD,
        }
    )

    optimizer_lr: float = 1e-3  # as configs/head/mlp-matched.yaml
    optimizer_lr_encoder: float = 1e-5
    optimizer_weight_decay: float = 1e-4
    optimizer_grad_clip_norm: float = 1.0
    scheduler_warmup_steps: int | None = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_from is not None:
            from lary_policy.policy.head import adopt_probe

            adopt_probe(self)
        self._check_names()
        width, blocks = HEAD_SIZES[self.head]
        self.head_width = width if self.head_width is None else self.head_width
        self.head_blocks = blocks if self.head_blocks is None else self.head_blocks
        if self.n_action_steps is None:
            self.n_action_steps = max(1, self.chunk_size // 4)
        self._check_numbers()
        if self.use_relative_actions and self.action_mode == "absolute":
            self.action_mode = "relative"
        self.encoder.save = True if self.save_encoder else self.encoder.save
        self.settle()

    @property
    def is_relative(self) -> bool:
        """Whether what the head predicts is relative to something."""
        return self.action_mode != "absolute"

    @property
    def observation_delta_indices(self) -> list[int] | None:
        """Frames before the present one, in control steps; None for the present one alone."""
        if self.n_obs_steps == 1:
            return None
        return [-i * self.observation_stride for i in reversed(range(self.n_obs_steps))]

    @property
    def action_delta_indices(self) -> list[int]:
        """The chunk's actions, from the present one on."""
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """No rewards are needed."""
        return None

    def settle(self) -> None:
        """Derive what follows from the action mode and the embodiment; called when either changes.

        ConfigError where relative actions are to be normalised by something else than mean and deviation.
        """
        plain = self.embodiment is None and self.n_obs_steps == 1
        self.use_relative_actions = self.use_relative_actions and self.is_relative and plain
        if self.is_relative:
            asked = {self.normalization_mapping.get(name) for name in ("STATE", "ACTION")}
            if asked - {NormalizationMode.MEAN_STD, NormalizationMode.IDENTITY, None}:
                raise ConfigError(
                    expected=f"STATE and ACTION normalised by MEAN_STD for action_mode={self.action_mode}",
                    got=", ".join(f"{k} {v.value}" for k, v in self.normalization_mapping.items()),
                    fix="Leave out normalization_mapping, or pass --policy.action_mode=absolute.",
                )
            own = {"STATE": NormalizationMode.IDENTITY, "ACTION": NormalizationMode.IDENTITY}
            self.normalization_mapping = {**self.normalization_mapping, **own}

    def get_optimizer_preset(self) -> AdamWConfig:
        """AdamW."""
        return AdamWConfig(
            lr=self.optimizer_lr,
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> LRSchedulerConfig | None:
        """Linear warm-up, then a cosine to zero over the rest of the run; None for a constant rate."""
        if self.scheduler_warmup_steps is None:
            return None
        return CosineAnnealingWithWarmupSchedulerConfig(num_warmup_steps=self.scheduler_warmup_steps)

    def set_dataset_feature_metadata(self, features: Mapping[str, Mapping[str, Any]]) -> None:
        """Learn the embodiment from a dataset's features; LeRobot calls this before it builds a policy."""
        self.embodiment = dataset_embodiment(self.embodiment, features)
        self.action_feature_names = dataset_action_names(self.action_feature_names, features)
        self.settle()
        if self.is_relative:
            require_state_names(features)

    def why_uncached(self) -> str | None:
        """Return why frames have to be encoded at every step: nothing of this policy's."""
        return None

    def _save_pretrained(self, save_directory: Path) -> None:
        """Save without the folder of stored latents: they belong to a run on one machine."""
        saved = copy.copy(self)
        saved.latents = None
        super(LaryConfig, saved)._save_pretrained(save_directory)

    def validate_features(self) -> None:
        """Check cameras, action, state and history; ConfigError says which of them does not fit."""
        require_cameras_and_action(self)
        if self.use_proprio or self.is_relative:
            why = "use_proprio=true" if self.use_proprio else f"action_mode={self.action_mode}"
            require_state(self, why)
        require_history(self.encoder.name, self.n_obs_steps)

    def _check_names(self) -> None:
        for name, valid in (("head", HEAD_SIZES), ("pool", POOLS), ("action_mode", ACTION_MODES)):
            if getattr(self, name) not in valid:
                raise UnknownNameError(name.replace("_", " "), getattr(self, name), valid)

    def _check_numbers(self) -> None:
        first = min(self.n_obs_steps, self.observation_stride)
        if first < 1 or not 1 <= (self.n_action_steps or 0) <= self.chunk_size:
            raise ConfigError(
                expected="n_obs_steps >= 1 and observation_stride >= 1; 1 <= n_action_steps <= chunk_size",
                got=f"n_obs_steps {self.n_obs_steps}, observation_stride {self.observation_stride}, "
                f"n_action_steps {self.n_action_steps}, chunk_size {self.chunk_size}",
                fix="Correct the policy's settings.",
            )
