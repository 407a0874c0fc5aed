"""villa-X's latent action model (`IgorModel`): a window of frames to the actions between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lary_policy.encoders.codebook import NearestCode
from lary_policy.encoders.families.villax.layers import (
    DecoderBlock,
    MapBlock,
    PatchEmbed,
    RmsNorm,
    SpaceTimeBlock,
    grid_positions,
    sinusoid,
)
from lary_policy.encoders.kinds import PairTokens


@dataclass(frozen=True)
class VillaXConfig:
    """Architecture, with the names of the checkpoint's `model_config.json`.

    The defaults are those of the published weights, as far as they can be told from their 238.71 M
    parameters; a checkpoint's own file decides.
    """

    resolution: int = 224  # side of the input in pixels
    patch_size: int = 14  # side of a patch in pixels
    in_channels: int = 3  # colours
    d_t: int = 8  # frames of a window
    mlp_ratio: float = 4.0  # hidden width of feed-forwards, in widths
    encoder_depth: int = 12  # space-time blocks
    encoder_embed_dim: int = 768  # width of the encoder
    encoder_n_heads: int = 8  # its attention heads
    action_latent_dim: int = 32  # width of an action token
    st_use_qk_norm: bool = True  # whether its queries and keys are normed
    num_learned_tokens: int = 2  # tokens of one action
    map_heads: int = 24  # heads of the pooling attention
    decoder_depth: int = 12  # blocks of the decoder
    decoder_embed_dim: int = 768  # width of the decoder
    decoder_n_heads: int = 16  # its attention heads
    use_qk_norm: bool = True  # whether its queries and keys are normed
    n_codes: int = 32  # entries of the codebook

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.resolution // self.patch_size


class VillaXModel(nn.Module):
    """Encoder, codebook and decoder under the names of the published checkpoint."""

    def __init__(self, config: VillaXConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ActionEncoder(config)
        self.vq = NearestCode(config.n_codes, config.action_latent_dim, "embedding")
        self.decoder = FrameDecoder(config)

    def features(self, images: Tensor) -> Tensor:
        """Return what each image [m 3 h w] gives before any other frame counts, [m n d]."""
        return self.encoder.features(images)

    def action(self, first: Tensor, second: Tensor) -> PairTokens:
        """Return the action tokens [p n d] between two frames that make a window of their own."""
        tokens = self.window(torch.stack((first, second), dim=1))
        return PairTokens(tokens.continuous[:, 0], tokens.quantised[:, 0], tokens.indices[:, 0])

    def window(self, features: Tensor) -> PairTokens:
        """Return the action tokens [b t-1 n d] of windows of features [b t n d], t <= d_t."""
        continuous = self.encoder(features)
        return PairTokens(continuous, *self.vq(continuous))

    def clip(self, features: Tensor) -> PairTokens:
        """Return the action tokens [b t-1 n d] of features [b t n d] of clips of any length.

        A window of d_t frames slides over the clip: the first one gives all its actions, each further one
        its last, so that every action knows the d_t - 2 frames before it, where there are as many.
        """
        size = self.config.d_t
        if features.shape[1] <= size:
            return self.window(features)
        windows = features.unfold(1, size, 1).movedim(-1, 2)  # [b t-size+1 size n d]
        batch, count = windows.shape[:2]
        tokens = self.window(windows.flatten(0, 1))
        parts = (tokens.continuous, tokens.quantised, tokens.indices)
        slid = [part.unflatten(0, (batch, count)) for part in parts]
        return PairTokens(*(torch.cat((part[:, 0], part[:, 1:, -1]), dim=1) for part in slid))


class ActionEncoder(nn.Module):
    """Patches of up to d_t frames to the actions between them."""

    def __init__(self, config: VillaXConfig) -> None:
        super().__init__()
        c, width = config, config.encoder_embed_dim
        self.embed = PatchEmbed(c.patch_size, c.in_channels, width)
        self.pe_spatial = _frozen(grid_positions(width, c.grid))
        self.pe_temporal = _frozen(sinusoid(width, torch.arange(c.d_t)))
        hidden = int(width * c.mlp_ratio)
        self.layers = nn.ModuleList(
            SpaceTimeBlock(width, c.encoder_n_heads, hidden, qk_norm=c.st_use_qk_norm)
            for _ in range(c.encoder_depth)
        )
        self.norm = RmsNorm(width)
        self.map_block = MapBlock(c.num_learned_tokens, width, c.map_heads, hidden, c.action_latent_dim)

    def features(self, images: Tensor) -> Tensor:
        """Return patches [m n d] after the first attention within frames, the last step without time."""
        return self._blocks()[0].within_frames(self.embed(images) + self.pe_spatial)

    def forward(self, features: Tensor) -> Tensor:
        """Map features [b t n d] to actions [b t-1 m d_out]."""
        first, *others = self._blocks()
        tokens = first.over_time(features, self.pe_temporal[0, : features.shape[1]])
        for block in others:
            tokens = block.over_time(block.within_frames(tokens))
        tokens = self.norm(tokens)
        between = (tokens[:, 1:] + tokens[:, :-1]) / 2
        return self.map_block(between.flatten(0, 1)).unflatten(0, between.shape[:2])

    def _blocks(self) -> list[SpaceTimeBlock]:
        return list(self.layers)  # type: ignore[arg-type]


class FrameDecoder(nn.Module):
    """One frame and the action after it to the pixels of the next frame."""

    def __init__(self, config: VillaXConfig) -> None:
        super().__init__()
        c, width = config, config.decoder_embed_dim
        self.embed = PatchEmbed(c.patch_size, c.in_channels, width)
        self.pe = _frozen(grid_positions(width, c.grid))
        self.action_embed = nn.Linear(c.action_latent_dim * c.num_learned_tokens, width)
        self.layers = nn.ModuleList(
            DecoderBlock(width, c.decoder_n_heads, int(width * c.mlp_ratio), qk_norm=c.use_qk_norm)
            for _ in range(c.decoder_depth)
        )
        self.norm = RmsNorm(width)
        self.pred_head = nn.Linear(width, c.patch_size**2 * c.in_channels)

    def forward(self, images: Tensor, action: Tensor) -> Tensor:
        """Map images [p 3 h w] and action tokens [p m d] to patches of pixels [p n 3*patch^2]."""
        tokens = torch.cat((self.action_embed(action.flatten(1))[:, None], self.embed(images) + self.pe), 1)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.pred_head(self.norm(tokens)[:, 1:])


def _frozen(table: Tensor) -> nn.Parameter:
    return nn.Parameter(table[None], requires_grad=False)
