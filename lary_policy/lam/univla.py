"""UniVLA's model in training: two stages, the second of which tells what the robot did from the rest.

The first stage learns codes for everything that changes. The second starts anew but for the queries and the
codebook of the first, which it keeps as they are for what is *not* the robot's doing, beside new ones for
what is; only those are used afterwards (arXiv:2505.06111, section 3.1; OpenDriveLab/UniVLA,
`latent_action_model/genie/model.py` and `modules/lam.py`). The published first stage sees an embedding of the
instruction (T5), so that its codes need not tell what the task is; here there is none, so that the second
stage's codes are those that the first one's do not make unnecessary.

Losses are the reference's: mean squared error of the features, codes to vectors, and a quarter of vectors to
codes, the latter two for both codebooks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lary_policy.encoders.families import TRAINED_CONFIG, TrainedLam
from lary_policy.encoders.families.univla import (
    UNIVLA_FILE,
    UniVlaConfig,
    UniVlaModel,
    univla_tensors,
)
from lary_policy.errors import ConfigError
from lary_policy.lam.codebook import CodeUpkeep, straight_through
from lary_policy.lam.config import LamConfig
from lary_policy.lam.first_weights import fit_last, silence, take_codes
from lary_policy.lam.registry import FramePair, LamScore, register_lam, save_state

ACTION_TOKENS = 4  # the reference's
# What the branches of a layer end in: attention, feed-forward.
_LAST_OF_BRANCHES = ("spatial_attn.to_out.", "ffn.3.")
_KEPT = ("vq.", "action_latent")  # what the second stage takes of the first


class UniVlaTraining(nn.Module):
    """UniVLA's model with its loss."""

    def __init__(self, network: UniVlaModel) -> None:
        super().__init__()
        self.network = network
        self.codes, self.tokens = network.config.codes, network.config.action_tokens
        self.draws: tuple[int, ...] = ()
        self.upkeep = CodeUpkeep(self.codes)

    def forward(self, pairs: FramePair, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return `loss`: what processes average gradients of is a forward pass."""
        return self.loss(pairs, draws)

    def loss(self, pairs: FramePair, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, and the codes [p s] of the action."""
        vectors = self.network.changes(pairs.first, pairs.second)
        parts = [straight_through(book, one) for book, one in zip(self.network.books, vectors, strict=True)]
        predicted = self.network.predict(pairs.first, tuple(codes for codes, _, _ in parts))
        error = F.mse_loss(predicted.float(), pairs.second)
        return error + torch.stack([loss for _, _, loss in parts]).sum(), parts[0][1]

    def score(self, pairs: FramePair) -> LamScore:
        """Return how well pairs are predicted from the codes of all books."""
        vectors = self.network.changes(pairs.first, pairs.second)
        found = [book(one) for book, one in zip(self.network.books, vectors, strict=True)]
        predicted = self.network.predict(pairs.first, tuple(codes for codes, _ in found)).float()
        error, copied = ((x - pairs.second).square().mean(dim=-1) for x in (predicted, pairs.first))
        return LamScore(error, copied, found[0][1], predicted)

    def tend(self, step: int, used: Tensor, batch_size: int, seed: int) -> int:
        """Replace unused codes of the action; the other codebook of a second stage stays as it is."""
        return self.upkeep.tend(self.network.books[0].codes.data, step, used, seed)


def write_univla(folder: Path, state: Mapping[str, Tensor], about: Any) -> None:
    """Write the state dict as UniVLA's trainer names it, without the frozen backbone."""
    save_state(folder / UNIVLA_FILE, {"state_dict": {f"lam.{name}": value for name, value in state.items()}})


@register_lam("univla", write_univla, (UNIVLA_FILE,), "univla-{}", stages=UniVlaConfig)
def build_univla_training(config: LamConfig, sample: FramePair, pixels: bool) -> UniVlaTraining:
    """Return an untrained model of the first stage, or of the second where `stage_one` is given.

    Raises:
        ConfigError: There are no features, sizes do not fit each other, or the first stage has others.
        WeightsMismatchError: `stage_one` is no such folder.
    """
    if pixels or sample.first.dim() != 3:
        raise ConfigError(
            expected="features for model=univla",
            got="pixels",
            fix="Leave target out, and pass backbone=dinov2-small, for example.",
        )
    feature_width = sample.first.shape[2]
    width = config.width or feature_width
    heads = config.attention_heads
    if width % (2 * heads):
        raise ConfigError(
            expected=f"a width that is a multiple of 2 x {heads} attention heads",
            got=str(width),
            fix=f"Pass width={max(1, round(width / 2 / heads)) * 2 * heads}, or another attention_heads.",
        )
    sizes = UniVlaConfig(
        feature_width=feature_width,
        width=width,
        heads=config.attention_heads,
        encoder_depth=config.spatial_depth,
        decoder_depth=config.spatial_depth,
        action_tokens=config.code_seq_len or ACTION_TOKENS,
        codes=config.codebook,
        code_width=config.dim,
        controllable=config.stage_one is not None,
    )
    network = UniVlaModel(sizes, nn.Identity())
    if config.stage_one is not None:
        _take_first_stage(network, Path(config.stage_one))
    module = UniVlaTraining(network)
    if config.first_weights == "copying":
        silence(network.decoder.transformer_blocks, _LAST_OF_BRANCHES)
        fit_last(network.decoder.out, lambda: module.score(sample), sample.second)
        with torch.no_grad():
            take_codes(network.books[0].codes, network.changes(sample.first, sample.second)[0])
    return module


def _take_first_stage(network: UniVlaModel, folder: Path) -> None:
    """Give a model of the second stage the queries and the codebook of a first one; the latter is frozen."""
    about = TrainedLam.read(folder / TRAINED_CONFIG, "univla", UniVlaConfig)
    ours, theirs = network.config, about.sizes
    names = ("feature_width", "action_tokens", "codes", "code_width")
    other = [name for name in names if getattr(ours, name) != getattr(theirs, name)]
    if theirs.controllable or other:
        raise ConfigError(
            expected="a first stage" + "".join(f", {name} {getattr(ours, name)}" for name in other),
            got=", ".join(f"{name} {getattr(theirs, name)}" for name in other) or "a second stage",
            fix="Pass stage_one=<folder of `lary lam model=univla` without stage_one>, with the same sizes.",
        )
    tensors = {k: v for k, v in univla_tensors(folder, about).items() if k.startswith(_KEPT)}
    network.load_state_dict({**network.state_dict(), **tensors})
    network.vq.requires_grad_(False)
