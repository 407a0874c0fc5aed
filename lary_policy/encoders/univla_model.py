"""UniVLA's latent action model: what a frame pair's DINOv2 features say about the action between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lary_policy.encoders.pair_encoder import PairTokens
from lary_policy.encoders.univla_layers import Codebook, Decoder, Encoder


@dataclass(frozen=True)
class UniVlaConfig:
    """Architecture; the defaults are the published second stage.

    Attributes:
        feature_width: Width of the backbone's patch tokens.
        width: Width of encoder and decoder.
        heads: Attention heads of both.
        encoder_depth: Space-time blocks.
        decoder_depth: Blocks of the decoder.
        action_tokens: Tokens of the action, and as many of everything else that changes.
        codes: Entries of each of the two codebooks.
        code_width: Width of a code.
    """

    feature_width: int = 768
    width: int = 768
    heads: int = 12
    encoder_depth: int = 12
    decoder_depth: int = 12
    action_tokens: int = 4
    codes: int = 16
    code_width: int = 128


class UniVlaModel(nn.Module):
    """Encoder, two codebooks, decoder and frozen backbone under the names of the published checkpoint.

    `vq_action` quantises what the robot did, `vq` what else changed; the benchmark uses the first alone.

    Args:
        config: Architecture.
        backbone: Module from images [m 3 h w] to patch tokens [m n d] of `config.feature_width`.
    """

    def __init__(self, config: UniVlaConfig, backbone: nn.Module) -> None:
        super().__init__()
        c = config
        self.config = c
        self.action_latent = nn.Parameter(torch.empty(1, 1, c.action_tokens, c.feature_width).uniform_(-1, 1))
        self.encoder = Encoder(c.feature_width, c.width, c.encoder_depth, c.heads)
        self.to_codebook = nn.Linear(c.width, c.code_width)
        self.to_codebook_uncontrol = nn.Linear(c.width, c.code_width)
        self.vq = Codebook(c.codes, c.code_width)
        self.patch_up = nn.Linear(c.feature_width, c.width)
        self.action_up = nn.Linear(c.code_width, c.width)
        self.action_up_uncontrol = nn.Linear(c.code_width, c.width)
        self.decoder = Decoder(c.width, c.feature_width, c.decoder_depth, c.heads)
        self.vq_action = Codebook(c.codes, c.code_width)
        self.action_latent_controllable = nn.Parameter(
            torch.empty(1, 1, c.action_tokens, c.feature_width).uniform_(-1, 1)
        )
        self.dino_encoder = backbone

    def features(self, images: Tensor) -> Tensor:
        """Return the backbone's patch tokens [m n d] of images [m 3 h w]."""
        return self.dino_encoder(images)

    def action(self, first: Tensor, second: Tensor) -> PairTokens:
        """Return the action tokens between patch tokens [p n d] of two frames."""
        continuous = self.to_codebook(self._changes(first, second)[0])
        return PairTokens(continuous, *self.vq_action(continuous))

    def reconstruct(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the second frame's patch tokens [p n d] as decoded from the first and both codes."""
        action, rest = self._changes(first, second)
        action_codes, _ = self.vq_action(self.to_codebook(action))
        rest_codes, _ = self.vq(self.to_codebook_uncontrol(rest))
        parts = (self.action_up(action_codes), self.action_up_uncontrol(rest_codes), self.patch_up(first))
        return self.decoder(torch.cat(parts, dim=1))[:, -first.shape[1] :]

    def _changes(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the second frame's action tokens and its other change tokens, each [p m d]."""
        patches = torch.stack((first, second), dim=1)  # [p 2 n d]
        queries = (self.action_latent_controllable, self.action_latent)
        expanded = [query.expand(len(patches), 2, -1, -1) for query in queries]
        tokens = self.encoder(torch.cat((*expanded, patches), dim=2))[:, 1]
        count = self.config.action_tokens
        return tokens[:, :count], tokens[:, count : 2 * count]
