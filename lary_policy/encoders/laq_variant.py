"""One member of the family of latent action models after LAPA, and how its encoder is built."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lary_policy.encoders.base import EncoderOptions
from lary_policy.encoders.laq import LaqConfig, LaqModel, LatentActionQuantiser
from lary_policy.encoders.laq_checkpoint import load_laq
from lary_policy.encoders.laq_front_ends import FrontEnd
from lary_policy.encoders.nsvq import code_tokens
from lary_policy.encoders.pair_encoder import PairEncoder
from lary_policy.encoders.random_init import build_seeded
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import DRAWN, resolve_weights
from lary_policy.types import LatentSpec


@dataclass(frozen=True)
class LaqVariant:
    """One member of the family.

    Attributes:
        config: Sizes of its quantiser; a checkpoint may differ in codebook, sequence length and depth.
        patch_px: Pixels between neighbouring tokens of its grid.
        front_end: The frozen network it looks through; None where it embeds patches itself.
        exact: Whether a checkpoint must have all sizes of `config`.
    """

    config: LaqConfig
    patch_px: int
    front_end: FrontEnd | None = None
    exact: bool = False

    def latent(self, config: LaqConfig, image_px: int) -> LatentSpec:
        """Return the output of a quantiser of these sizes; its tokens have no position, see `NSVQ.decode`."""
        return LatentSpec("pair", code_tokens(config.code_seq_len, self.grid(image_px)), config.dim)

    def build(self, spec: EncoderSpec, options: EncoderOptions) -> PairEncoder:
        """Build the encoder from random, toy or pretrained weights."""
        noise_seed = options.seed if options.output in spec.noisy_outputs else None
        if options.weights in DRAWN:
            tiny, weights = options.weights == "tiny-random", DRAWN[options.weights](options.seed)
            config = self._tiny_config() if tiny else self.config
            model = build_seeded(lambda: self._drawn(config, noise_seed, tiny=tiny), options.seed)
        else:
            path, weights = resolve_weights(spec.name, spec.weights, options.weights)
            quantiser, backbone, weights = load_laq(
                path, weights, self.config, self.grid(spec.image_px), self.front_end, exact=self.exact
            )
            config, model = quantiser.config, LaqModel(quantiser, backbone, noise_seed)
        spec = replace(spec, codebook=(config.codes, config.code_width))
        return PairEncoder(spec, options, model, weights, self.latent(config, options.image_px))

    def grid(self, image_px: int) -> int:
        """Return the side of the patch grid of a square image."""
        return image_px // self.patch_px

    def _drawn(self, config: LaqConfig, noise_seed: int | None, *, tiny: bool) -> LaqModel:
        backbone = self.front_end.module(tiny) if self.front_end else None
        return LaqModel(LatentActionQuantiser(config), backbone, noise_seed)

    def _tiny_config(self) -> LaqConfig:
        dim = self.front_end.tiny_width if self.front_end else 32
        sizes = {"code_width": 8, "spatial_depth": 1, "temporal_depth": 1, "heads": 2, "head_width": 8}
        return replace(self.config, dim=dim, **sizes)
