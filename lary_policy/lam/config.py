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
    """Settings of `lary lam`.

    Defaults train about five million parameters on two cores within minutes; files of configs/lam are what
    was published: `lam=reference` (LAQ with NSVQ, protocol section 2.4 and the reference's
    `laq_trainer_feature.py`), `lam=univla` and `lam=villax`.
    """

    model: str = setting("laq", "what is trained", list_lams)
    target: str = setting(
        "auto", "what the decoder predicts of the later frame; auto = what the model sees",
        ("auto", "features", "pixels"),
    )  # fmt: skip
    codebook: int = setting(8, "codes in the codebook")
    code_seq_len: int | None = setting(
        None,
        "codes of a pair; of laq the network that thins the grid out: 1, 2, 4, 16, 49, 64 or 256, named "
        "after their number on the grid it was made for; null = 49 of laq, 4 of univla, 2 of villax",
    )  # fmt: skip
    dim: int = setting(32, "width of a code")
    width: int | None = setting(
        None,
        "width of tokens where the backbone is `pixels` or the model univla; null = 1024 of pixels, "
        "otherwise the backbone's own",
    )
    patch_px: int = setting(14, "side of the patches where the backbone is `pixels`")
    spatial_depth: int = setting(1, "layers of the spatial encoder and of the decoder")
    temporal_depth: int = setting(1, "layers of the temporal encoder of laq")
    attention_heads: int = setting(6, "attention heads")
    head_width: int = setting(64, "width of a head of laq")
    first_weights: str = setting(
        "copying",
        "copying = the model first predicts that nothing changes; drawn = as published, of laq its care for "
        "unused codes too",
        ("copying", "drawn"),
    )  # fmt: skip
    stage_one: str | None = setting(
        None, "univla: folder of a first stage; what it learned is the rest that the new codes need not tell"
    )
    offset: int | None = setting(
        None,
        "least steps between the two frames, the most are half as many more (the reference's recipe); null = "
        "the steps between the frames of a pair, or 10 frames of a video",
    )
    steps: int = setting(1000, "optimiser steps; the reference makes 100,000")
    batch_size: int = setting(16, "pairs of frames in a step, over all processes")
    lr: float = setting(1e-3, "highest learning rate of Adam")
    beta2: float = setting(0.99, "Adam's second beta; the first is 0.9")
    weight_decay: float = setting(0.0, "of weights, as AdamW does it")
    warmup_steps: int = setting(100, "steps in which the learning rate rises to `lr`")
    schedule: str = setting(
        "cosine", "of the learning rate after that: down to nothing at the last step, or constant",
        ("cosine", "constant"),
    )  # fmt: skip
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
            self, 1, "codebook", "code_seq_len", "dim", "width", "patch_px", "spatial_depth",
            "temporal_depth", "attention_heads", "head_width", "offset", "steps", "batch_size", "eval_every",
        )  # fmt: skip
        at_least(self, 0, "warmup_steps", "weight_decay")
        for name in ("lr", "grad_clip", "beta2", "val_fraction"):
            below = name in ("beta2", "val_fraction")
            if not 0 < getattr(self, name) < (1 if below else float("inf")):
                raise ConfigError(
                    expected=f"{name} above 0" + (" and below 1" if below else ""),
                    got=str(getattr(self, name)),
                    fix=f"Leave {name} out for the default.",
                )

    @property
    def compute(self) -> Precision:
        """What matrix products are computed in."""
        value: Any = self.precision
        return value


__all__ = ["LamConfig"]
