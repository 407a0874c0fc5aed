"""What a latent action model is and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lary_policy.errors import ConfigError
from lary_policy.lam.registry import list_lams
from lary_policy.machine import Precision
from lary_policy.settings import at_least, check_names, setting


@dataclass(frozen=True)
class LamConfig:
    """Settings of `lary lam`; sizes and recipe are those of the reference's general models where not said.

    Architecture: protocol section 2.4 (LAQ with NSVQ); recipe: the reference's `laq_trainer_feature.py`.
    """

    model: str = setting("laq", "what is trained", list_lams)
    target: str = setting(
        "auto", "what the decoder predicts of the later frame; auto = what the model sees",
        ("auto", "features", "pixels"),
    )  # fmt: skip
    codebook: int = setting(8, "codes in the codebook")
    code_seq_len: int = setting(
        16,
        "network that thins the patch grid out: 1, 2, 4, 16, 49, 64 or 256, named after the number of codes "
        "on the grid it was made for",
    )  # fmt: skip
    dim: int = setting(32, "width of a code")
    width: int = setting(1024, "width of tokens where the backbone is `pixels`; otherwise the backbone's own")
    patch_px: int = setting(14, "side of the patches where the backbone is `pixels`")
    spatial_depth: int = setting(4, "layers of the spatial encoder and of the decoder")
    temporal_depth: int = setting(4, "layers of the temporal encoder")
    attention_heads: int = setting(16, "attention heads")
    head_width: int = setting(64, "width of a head")
    offset: int | None = setting(
        None,
        "least steps between the two frames, the most are half as many more (the reference's recipe); null = "
        "the steps between the frames of a pair, or 10 frames of a video",
    )
    steps: int = setting(2000, "optimiser steps; the reference makes 100,000")
    batch_size: int = setting(64, "pairs of frames in a step, over all processes")
    lr: float = setting(3e-4, "learning rate of Adam (0.9, 0.99)")
    grad_clip: float = setting(0.5, "largest norm of the gradient")
    ema: bool = setting(True, "keep the moving average of the weights, which is what is saved")
    precision: str = setting(
        "auto", "of matrix products; auto = bfloat16 where the hardware has it",
        ("auto", "float32", "bfloat16"),
    )  # fmt: skip
    eval_every: int = setting(100, "steps between two looks at held-out pairs")
    val_fraction: float = setting(
        0.1, "part of the videos that is held out, at least one; sources have splits"
    )

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            UnknownNameError: A value is none of its names.
            ConfigError: A number is too small.
        """
        check_names(self)
        at_least(
            self, 1, "codebook", "dim", "width", "patch_px", "spatial_depth", "temporal_depth",
            "attention_heads", "head_width", "offset", "steps", "batch_size", "eval_every",
        )  # fmt: skip
        for name in ("lr", "grad_clip", "val_fraction"):
            if not 0 < getattr(self, name) < (1 if name == "val_fraction" else float("inf")):
                raise ConfigError(
                    expected=f"{name} above 0" + (" and below 1" if name == "val_fraction" else ""),
                    got=str(getattr(self, name)),
                    fix=f"Leave {name} out for the default.",
                )

    @property
    def compute(self) -> Precision:
        """What matrix products are computed in."""
        value: Any = self.precision
        return value


__all__ = ["LamConfig"]
