"""villa-X's latent action model: two tokens for what changed between two frames of a window of eight."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import torch

from lary_policy.encoders.base import EncoderOptions, register_encoder
from lary_policy.encoders.families.villax.model import VillaXConfig, VillaXModel
from lary_policy.encoders.kinds import PairEncoder
from lary_policy.encoders.modules import drawn_or_loaded
from lary_policy.encoders.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import (
    HubRepo,
    Weights,
    WeightsSource,
    load_strictly,
    read_config,
    read_tensors,
    resolve_weights,
)
from lary_policy.errors import ConfigError, WeightsMismatchError
from lary_policy.types import LatentSpec

REPO = "microsoft/villa-x"  # no commit hash of it is known for certain
ARCHITECTURE, CONFIG_FILE = "IgorModel", "model_config.json"

# The model resizes its input itself, with torchvision's antialiased bilinear kernel.
NATIVE = Preprocess(IMAGENET_MEAN, IMAGENET_STD, interpolation="bilinear")

VILLA_X = EncoderSpec(
    name="villa-x",
    family="embodied-lam",
    weights=WeightsSource(hub=HubRepo(REPO, revision=None, filename="lam/model.safetensors")),
    image_px=224,
    patch_px=None,
    size_multiple=14,
    latent=LatentSpec("pair", tokens=2, width=32),
    preprocess={
        "native": NATIVE,
        # The reference's pairs come out of Pillow's Lanczos resize, its videos out of the model's own.
        "lary": Preprocess(IMAGENET_MEAN, IMAGENET_STD, interpolation="lanczos", video=NATIVE),
    },
    licence="MIT",
    paper="arXiv:2507.23682",
    params_m=238.71,
    gflops_per_frame=61.12,
    reference_key="villa-x",
    outputs=("continuous", "quantised"),
    lary_output="quantised",
    codebook=(32, 32),
    trained_px=lambda weights: _trained_px(weights),
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
    "augment_type", "augment_level", "random_crop_scale", "random_crop_ratio", "use_xformers", "grid_size",
    "embed_tokens",
}  # fmt: skip


@register_encoder(VILLA_X, tiny=True)
def build_villax(spec: EncoderSpec, options: EncoderOptions) -> PairEncoder:
    """Build villa-X's latent action model from random weights or from its published folder.

    Of clips of more than two frames each latent depends on up to `d_t - 2` earlier frames: windows of `d_t`
    frames slide over the clip, the first one gives `d_t - 1` latents and each further one its last, as in
    the reference.

    Raises:
        ConfigError: The input size is not the one that the checkpoint's positions are made for.
        WeightsMismatchError: The configuration is absent or of another model, or a tensor does not fit.
    """

    def draw(tiny: bool) -> VillaXModel:
        return VillaXModel(replace(TINY if tiny else VillaXConfig(), resolution=options.image_px))

    def load(path: Path, origin: Weights) -> VillaXModel:
        model = VillaXModel(_config_of(spec, options, path))
        load_strictly(model, read_tensors(path), origin)
        return model

    model, weights = drawn_or_loaded(spec, options, draw, load)
    sizes = model.config
    spec = replace(spec, codebook=(sizes.n_codes, sizes.action_latent_dim))
    latent = replace(spec.latent, tokens=sizes.num_learned_tokens, width=sizes.action_latent_dim)
    return PairEncoder(spec, options, model, weights, latent)


def read_villax_config(path: Path) -> VillaXConfig:
    """Read the architecture out of a checkpoint's `model_config.json`.

    Raises:
        WeightsMismatchError: It cannot be read, is of another model, or has a value with which none is built.
    """
    try:
        found = read_config(path, VILLA_X.name)
        values = {key: value for key, value in found["config"].items() if key not in IGNORED}
        unknown = sorted(set(values) - {field.name for field in fields(VillaXConfig)})
        if found["architecture"] == ARCHITECTURE and not unknown:
            config = VillaXConfig(**values)
            with torch.device("meta"):
                VillaXModel(config)
            return config
        got = f"architecture {found['architecture']}" + (f" with {', '.join(unknown)}" if unknown else "")
    except Exception as error:  # a file of anyone
        got = f"{type(error).__name__}: {error}"
    raise WeightsMismatchError(
        expected=f"{path} as the configuration of an {ARCHITECTURE}",
        got=got,
        fix=f"Give the folder `lam` of {REPO} with model.safetensors and {CONFIG_FILE}.",
    )


def _trained_px(weights: str) -> int:
    """Return the side of the images that local weights were trained on."""
    path, _ = resolve_weights(VILLA_X.name, VILLA_X.weights, weights)
    return read_villax_config(path.with_name(CONFIG_FILE)).resolution


def _config_of(spec: EncoderSpec, options: EncoderOptions, weights: Path) -> VillaXConfig:
    """Read the configuration beside the weights; the hub's client stores each file on its own."""
    beside = weights.with_name(CONFIG_FILE)
    if options.weights == "auto" and not beside.is_file():
        beside = resolve_weights(spec.name, CONFIG, "auto")[0]
    config = read_villax_config(beside)
    if config.resolution != options.image_px:
        raise ConfigError(
            expected=f"image_px={config.resolution}, the size that the weights of '{spec.name}' are made for",
            got=str(options.image_px),
            fix=f"Use image_px={config.resolution}.",
        )
    return config


__all__ = [
    "ARCHITECTURE",
    "CONFIG_FILE",
    "NATIVE",
    "VILLA_X",
    "VillaXConfig",
    "VillaXModel",
]
