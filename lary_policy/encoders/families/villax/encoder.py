"""villa-X's latent action model: two tokens for what changed between two frames of a window of eight."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lary_policy.encoders.base import EncoderOptions, register_encoder
from lary_policy.encoders.families.villax.model import VillaXConfig, VillaXModel
from lary_policy.encoders.modules import build_seeded, no_grad_if_frozen
from lary_policy.encoders.pair_encoder import PairEncoder, PairTokens
from lary_policy.encoders.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, check_frames
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import (
    DRAWN,
    HubRepo,
    Weights,
    WeightsSource,
    load_strictly,
    read_tensors,
    resolve_weights,
)
from lary_policy.errors import ConfigError, WeightsMismatchError
from lary_policy.types import LatentSpec

REPO = "microsoft/villa-x"  # no commit hash of it is known for certain
ARCHITECTURE, CONFIG_FILE = "IgorModel", "model_config.json"

VILLA_X = EncoderSpec(
    name="villa-x",
    family="embodied-lam",
    weights=WeightsSource(hub=HubRepo(REPO, revision=None, filename="lam/model.safetensors")),
    image_px=224,
    patch_px=None,
    size_multiple=14,
    latent=LatentSpec("pair", tokens=2, width=32),
    preprocess={
        # The model resizes its input itself, with torchvision's antialiased bilinear kernel.
        "native": Preprocess(IMAGENET_MEAN, IMAGENET_STD, interpolation="bilinear"),
        # The reference's pairs come out of Pillow's Lanczos resize (its videos out of the bilinear one).
        "lary": Preprocess(IMAGENET_MEAN, IMAGENET_STD, interpolation="lanczos"),
    },
    dtype="float32",
    licence="MIT",
    paper="arXiv:2507.23682",
    params_m=238.71,
    gflops_per_frame=61.12,
    reference_key="villa-x",
    outputs=("continuous", "quantised"),
    lary_output="quantised",
    codebook=(32, 32),
)
CONFIG = WeightsSource(hub=HubRepo(REPO, revision=None, filename=f"lam/{CONFIG_FILE}"))

TINY = VillaXConfig(
    encoder_depth=2,
    encoder_embed_dim=48,
    encoder_n_heads=3,
    action_latent_dim=8,
    map_heads=6,
    decoder_depth=1,
    decoder_embed_dim=32,
    decoder_n_heads=4,
)
# What the file of a checkpoint also holds: how it was trained, and what follows from other values.
IGNORED = {
    "augment_type",
    "augment_level",
    "random_crop_scale",
    "random_crop_ratio",
    "use_xformers",
    "grid_size",
    "embed_tokens",
}


class WindowEncoder(PairEncoder):
    """A `PairEncoder` whose model also knows the frames before a pair.

    Two frames make a pair as everywhere. Of longer clips each latent depends on up to `d_t - 2` earlier
    frames: windows of `d_t` frames slide over the clip, the first one gives `d_t - 1` latents and each
    further one its last, as in the reference. So a pair in a clip has not the latent of the pair alone.
    """

    def encode(self, frames: Tensor) -> Tensor:
        """Encode the t - 1 pairs of consecutive frames, each after what came before it; see `PairEncoder`."""
        check_frames(frames)
        return self._clip(frames).output(self.output) if frames.shape[1] > 2 else super().encode(frames)

    def encode_indices(self, frames: Tensor) -> Tensor:
        """Return the codes [b t-1 n] (int64) of the pairs of consecutive frames; raises as `encode`."""
        check_frames(frames)
        return self._clip(frames).indices if frames.shape[1] > 2 else super().encode_indices(frames)

    @no_grad_if_frozen
    def _clip(self, frames: Tensor) -> PairTokens:
        return self.model.clip(self.features(frames))  # type: ignore[operator]


def build_tiny(spec: EncoderSpec, options: EncoderOptions) -> WindowEncoder:
    """Build the same model at a toy width and depth from random weights."""
    return _drawn(spec, options, TINY)


@register_encoder(VILLA_X, tiny=build_tiny)
def build_villax(spec: EncoderSpec, options: EncoderOptions) -> WindowEncoder:
    """Build villa-X's latent action model from random weights or from its published folder.

    Raises:
        ConfigError: The input size is not the one that the checkpoint's positions are made for.
        WeightsMismatchError: The configuration is absent or of another model, or a tensor does not fit.
    """
    if options.weights in DRAWN:
        return _drawn(spec, options, VillaXConfig())
    path, weights = resolve_weights(spec.name, spec.weights, options.weights)
    config = read_config(_config_file(spec, options, path))
    if config.resolution != options.image_px:
        raise ConfigError(
            expected=f"image_px={config.resolution}, the size that the weights of '{spec.name}' are made for",
            got=str(options.image_px),
            fix=f"Use image_px={config.resolution}.",
        )
    model = VillaXModel(config)
    load_strictly(model, read_tensors(path), weights)
    return _encoder(spec, options, model, weights)


def read_config(path: Path) -> VillaXConfig:
    """Read the architecture out of a checkpoint's `model_config.json`.

    Raises:
        WeightsMismatchError: It cannot be read, is of another model, or has a value that is not known here.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        values = {key: value for key, value in found["config"].items() if key not in IGNORED}
        unknown = sorted(set(values) - {field.name for field in fields(VillaXConfig)})
        if found["architecture"] == ARCHITECTURE and not unknown:
            return VillaXConfig(**values)
        got = f"architecture {found['architecture']}" + (f" with {', '.join(unknown)}" if unknown else "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        got = f"{type(error).__name__}: {error}"
    raise WeightsMismatchError(
        expected=f"{path} as the configuration of an {ARCHITECTURE}",
        got=got,
        fix=f"Give the folder `lam` of {REPO} with model.safetensors and {CONFIG_FILE}.",
    )


def _config_file(spec: EncoderSpec, options: EncoderOptions, weights: Path) -> Path:
    """Return the configuration beside the weights; the hub's client stores each file on its own."""
    beside = weights.with_name(CONFIG_FILE)
    if options.weights == "auto" and not beside.is_file():
        return resolve_weights(spec.name, CONFIG, "auto")[0]
    return beside


def _drawn(spec: EncoderSpec, options: EncoderOptions, config: VillaXConfig) -> WindowEncoder:
    config = replace(config, resolution=options.image_px)
    model = build_seeded(lambda: VillaXModel(config), options.seed)
    return _encoder(spec, options, model, DRAWN[options.weights](options.seed))


def _encoder(spec: EncoderSpec, options: EncoderOptions, model: Any, weights: Weights) -> WindowEncoder:
    config = model.config
    spec = replace(spec, codebook=(config.n_codes, config.action_latent_dim))
    latent = replace(spec.latent, tokens=config.num_learned_tokens, width=config.action_latent_dim)
    return WindowEncoder(spec, options, model, weights, latent)
