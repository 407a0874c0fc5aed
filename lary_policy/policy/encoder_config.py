"""The encoder of a policy as LeRobot's command line and config.json write it."""

from __future__ import annotations

from dataclasses import dataclass

from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.policy.trusted import require_consent

TRAINABLE = ("none", "last", "all", "lora")
# Weights that come from a seed and no file.
DRAWN = ("random", "tiny-random")


@dataclass
class EncoderConfig:
    """Which encoder sees the cameras, what of it trains and what of it a checkpoint holds.

    On the command line: `--policy.encoder.name=dinov2-small --policy.encoder.image_px=112`.

    Attributes:
        name: Registry name, `package.module:Attribute` or `auto:<hub id, folder or timm name>`. An own module
            must have been typed, imported or installed; a file alone does not have it imported.
        weights: `auto`, `random`, `tiny-random` or a path, as in `load_encoder`.
        image_px: Side of the square input; the encoder's own by default.
        preprocess: `native` or `lary`.
        dtype: Dtype of weights and arithmetic; `float32` where the encoder trains.
        output: One of the encoder's outputs; `auto` is its first.
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
