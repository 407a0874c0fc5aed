"""Quantisers that were trained here: `lapa-<backbone>` with `weights=<folder of lary lam>`."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from math import isqrt
from pathlib import Path

from lary_policy.encoders.base import EncoderOptions, RegisteredEncoder, find_encoder, register_prefix
from lary_policy.encoders.families.lapa.model import LaqConfig, LaqModel, LatentActionQuantiser
from lary_policy.encoders.families.lapa.quantiser import CODE_NETWORKS, code_tokens
from lary_policy.encoders.families.lapa.weights import infer_config
from lary_policy.encoders.families.trained import (
    FIX,
    OWN_PATCHES,
    TRAINED_CONFIG,
    TrainedLam,
    describe,
    frozen_backbone,
    grid_of,
    its_backbone,
    require_stated,
    trained_spec,
)
from lary_policy.encoders.kinds import PairEncoder
from lary_policy.encoders.modules import drawn_or_loaded
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import Weights, WeightsSource, load_strictly, read_tensors, strip_prefixes
from lary_policy.errors import WeightsMismatchError
from lary_policy.types import LatentSpec

LAQ_FILE = "laq.pt"
SMALL = LaqConfig(dim=0, spatial_depth=1, temporal_depth=1, heads=2, head_width=16)  # of random toy weights
_SOURCE = WeightsSource(page="`lary lam`", filename=LAQ_FILE, beside=(TRAINED_CONFIG,))
_PREFIX = "lapa-"


@register_prefix(_PREFIX)
def find_trained(backbone: str) -> RegisteredEncoder:
    """Return the encoder of quantisers trained on an encoder's features.

    Raises:
        ConfigError: The encoder has no square grid of tokens a frame.
    """
    inner, grid = grid_of(backbone)
    sizes = replace(LaqConfig(dim=inner.latent.width), **_patches(backbone, inner))
    spec = trained_spec(
        f"{_PREFIX}{backbone}",
        inner,
        _SOURCE,
        LatentSpec("pair", code_tokens(sizes.code_seq_len, grid), sizes.dim),
        ("continuous", "quantised", "lary"),
        lambda weights: _description(backbone, weights).image_px,
        paper="arXiv:2604.11689",
        lary_output="lary",
        noisy_outputs=("lary",),
        codebook=(sizes.codes, sizes.code_width),
    )
    return RegisteredEncoder(spec, partial(_build, backbone), tiny=True)


def _patches(backbone: str, inner: EncoderSpec) -> dict[str, int]:
    """Return the patches of a quantiser that embeds pixels itself."""
    if backbone != OWN_PATCHES:
        return {}
    side = inner.patch_px or 1
    return {"input_patch_px": side, "output_patch_px": side}


def _description(backbone: str, weights: str) -> TrainedLam[LaqConfig]:
    """Read what lies beside local weights, see `describe`."""
    found = describe(_PREFIX, backbone, _SOURCE, weights, "laq", LaqConfig)
    if found.sizes.code_seq_len not in CODE_NETWORKS:
        raise WeightsMismatchError(
            expected=f"a code_seq_len of {', '.join(map(str, CODE_NETWORKS))} in {TRAINED_CONFIG}",
            got=f"code_seq_len {found.sizes.code_seq_len}",
            fix=FIX,
        )
    return found


def _build(backbone: str, spec: EncoderSpec, options: EncoderOptions) -> PairEncoder:
    noise_seed = options.seed if options.output in spec.noisy_outputs else None

    def draw(tiny: bool) -> LaqModel:
        module, width, _ = frozen_backbone(
            backbone, "tiny-random" if tiny else "random", options, options.layer, options.seed
        )
        patches = _patches(backbone, find_encoder(backbone).spec)
        sizes = replace(SMALL if tiny else LaqConfig(0), dim=width, **patches)
        return LaqModel(LatentActionQuantiser(sizes), module, noise_seed)

    def load(path: Path, origin: Weights) -> LaqModel:
        about = _description(backbone, str(path))
        module = its_backbone(about, options)
        return LaqModel(_quantiser(path, origin, about), module, noise_seed)

    model, weights = drawn_or_loaded(spec, options, draw, load)
    sizes = model.quantiser.config
    spec = replace(spec, codebook=(sizes.codes, sizes.code_width))
    grid = _grid(backbone, options.image_px, sizes)
    latent = LatentSpec("pair", code_tokens(sizes.code_seq_len, grid), sizes.dim)
    return PairEncoder(spec, options, model, weights, latent)


def _quantiser(path: Path, origin: Weights, about: TrainedLam[LaqConfig]) -> LatentActionQuantiser:
    """Return the quantiser with the checkpoint's tensors; its shapes must be those that are described."""
    tensors = strip_prefixes(read_tensors(path), ("module.",))
    inferred = asdict(infer_config(tensors, _grid(about.backbone, about.image_px, about.sizes), origin))
    inferred.pop("code_seq_len")  # networks of one set of kernels cannot be told apart by shapes
    require_stated(asdict(about.sizes), inferred, path)
    quantiser = LatentActionQuantiser(about.sizes)
    load_strictly(quantiser, tensors, origin)
    return quantiser


def _grid(backbone: str, image_px: int, sizes: LaqConfig) -> int:
    """Return the side of the patch grid that a quantiser of these sizes sees."""
    if sizes.input_patch_px:
        return image_px // sizes.input_patch_px
    return isqrt(find_encoder(backbone).spec.latent_at(image_px).tokens)
