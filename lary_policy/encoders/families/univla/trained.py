"""UniVLA's model on any backbone, trained here: `univla-<backbone>` with `weights=<folder of lary lam>`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions, RegisteredEncoder, register_prefix
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
from lary_policy.encoders.families.univla.model import UniVlaConfig, UniVlaModel
from lary_policy.encoders.kinds import PairEncoder
from lary_policy.encoders.modules import drawn_or_loaded
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import Weights, WeightsSource, load_strictly, read_tensors, strip_prefixes
from lary_policy.errors import ConfigError, WeightsMismatchError
from lary_policy.types import LatentSpec

UNIVLA_FILE = "univla.ckpt"
SMALL = UniVlaConfig(width=24, heads=2, encoder_depth=1, decoder_depth=1, code_width=8)  # a toy's
_SOURCE = WeightsSource(page="`lary lam model=univla`", filename=UNIVLA_FILE, beside=(TRAINED_CONFIG,))
_PREFIX = "univla-"


@register_prefix(_PREFIX)
def find_trained_univla(backbone: str) -> RegisteredEncoder:
    """Return the encoder of UniVLA's models trained on an encoder's features.

    Raises:
        ConfigError: The encoder has no square grid of tokens a frame, or is `pixels`, which has no features.
    """
    inner, _ = grid_of(backbone)
    if backbone == OWN_PATCHES:
        raise ConfigError(
            expected="a backbone with features for UniVLA's model",
            got=f"'{backbone}'",
            fix="Choose dinov2-small or another encoder of single frames.",
        )
    usual = UniVlaConfig()
    spec = trained_spec(
        f"{_PREFIX}{backbone}",
        inner,
        _SOURCE,
        LatentSpec("pair", usual.action_tokens, usual.code_width),
        ("continuous", "quantised"),
        lambda weights: _description(backbone, weights).image_px,
        paper="arXiv:2505.06111",
        codebook=(usual.codes, usual.code_width),
    )
    return RegisteredEncoder(spec, partial(_build, backbone), tiny=True)


def _description(backbone: str, weights: str) -> TrainedLam[UniVlaConfig]:
    """Read what lies beside local weights, see `describe`."""
    return describe(_PREFIX, backbone, _SOURCE, weights, "univla", UniVlaConfig)


def univla_tensors(folder: Path, about: TrainedLam[UniVlaConfig]) -> dict[str, Tensor]:
    """Return the tensors of a folder, whose shapes must be those that are described.

    Raises:
        WeightsMismatchError: They are not.
    """
    path = folder if folder.is_file() else folder / UNIVLA_FILE
    tensors = strip_prefixes(read_tensors(path), ("module.", "lam."))
    require_stated(asdict(about.sizes), _inferred(tensors, path), path)
    return tensors


def _inferred(tensors: Mapping[str, Tensor], path: Path) -> dict[str, int | bool]:
    """Return the sizes that shapes tell: all but the number of heads."""
    needed = ("action_latent", "patch_up.weight", "vq.codebook.weight")
    missing = [name for name in needed if name not in tensors]
    if missing or tensors["action_latent"].dim() != 4:
        raise WeightsMismatchError(
            expected=f"a model of UniVLA's architecture in {path.name}",
            got=f"a file without {', '.join(missing) or 'queries of four dimensions'}",
            fix=FIX,
        )
    codes, code_width = tensors["vq.codebook.weight"].shape
    return {
        "feature_width": tensors["action_latent"].shape[3],
        "width": tensors["patch_up.weight"].shape[0],
        "encoder_depth": _depth_of(tensors, "encoder"),
        "decoder_depth": _depth_of(tensors, "decoder"),
        "action_tokens": tensors["action_latent"].shape[2],
        "codes": codes,
        "code_width": code_width,
        "controllable": "vq_action.codebook.weight" in tensors,
    }


def _depth_of(tensors: Mapping[str, Tensor], part: str) -> int:
    found = (re.match(rf"{part}\.transformer_blocks\.(\d+)\.", name) for name in tensors)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _build(backbone: str, spec: EncoderSpec, options: EncoderOptions) -> PairEncoder:
    def draw(tiny: bool) -> UniVlaModel:
        weights = "tiny-random" if tiny else "random"
        module, width, _ = frozen_backbone(backbone, weights, options, options.layer, options.seed)
        sizes = replace(SMALL if tiny else UniVlaConfig(), feature_width=width)
        return UniVlaModel(sizes, module or nn.Identity())

    def load(path: Path, origin: Weights) -> UniVlaModel:
        about = _description(backbone, str(path))
        module = its_backbone(about, options)
        tensors = univla_tensors(path, about)
        model = UniVlaModel(about.sizes, nn.Identity())
        load_strictly(model, tensors, origin)
        model.dino_encoder = module or nn.Identity()
        return model

    model, weights = drawn_or_loaded(spec, options, draw, load)
    sizes = model.config
    spec = replace(spec, codebook=(sizes.codes, sizes.code_width))
    latent = LatentSpec("pair", sizes.action_tokens, sizes.code_width)
    return PairEncoder(spec, options, model, weights, latent)
