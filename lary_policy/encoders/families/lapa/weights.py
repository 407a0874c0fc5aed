"""Checkpoints of latent action quantisers: what their shapes tell, and loading them strictly.

Containers seen: a bare state dict, one whose names begin with `module.`, and `{"model": ...}` as the trainer
writes it. Each may hold the frozen network that the quantiser looks through; then that copy is used,
otherwise the network's own published weights.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from math import isqrt
from pathlib import Path

from torch import Tensor, nn

from lary_policy.encoders.families import dino, siglip
from lary_policy.encoders.families.lapa.model import LaqConfig, LatentActionQuantiser
from lary_policy.encoders.families.lapa.quantiser import CODE_NETWORKS, code_tokens
from lary_policy.encoders.families.magvit2 import (
    OPEN_MAGVIT2,
    Magvit2Autoencoder,
    Magvit2Config,
    magvit2_tensors,
)
from lary_policy.encoders.families.transformers_vit import TINY, TransformersVit
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import (
    Weights,
    WeightsSource,
    load_strictly,
    read_tensors,
    resolve_weights,
    split_prefix,
    strip_prefixes,
)
from lary_policy.errors import ConfigError, WeightsMismatchError


@dataclass(frozen=True)
class FrontEnd:
    """A frozen network from images [m 3 h w] to tokens [m n d]."""

    name: str  # for messages
    weights: WeightsSource  # places that carry its own weights
    prefix: str  # what its tensors' names begin with inside a quantiser's checkpoint
    tiny_width: int  # width d of the toy model's tokens
    # Returns the network, or the toy model for True, with weights drawn from torch's generator
    module: Callable[[bool], nn.Module]
    # Returns the network with a checkpoint's tensors; WeightsMismatchError if they do not fit
    pretrained: Callable[[Mapping[str, Tensor], Weights], nn.Module]


class Magvit2Tokens(nn.Module):
    """Open-MAGVIT2's features in front of its quantiser, row by row: [m 3 h w] -> [m n 18]."""

    def __init__(self, config: Magvit2Config | None = None) -> None:
        super().__init__()
        # Whole, because checkpoints hold both halves and the paper's table counts both.
        self.autoencoder = Magvit2Autoencoder(config)

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens; only the encoder runs."""
        return self.autoencoder.encoder(images).flatten(2).mT


def load_magvit2(
    tensors: Mapping[str, Tensor], origin: Weights, config: Magvit2Config | None = None
) -> Magvit2Tokens:
    """Return Open-MAGVIT2, of the published sizes by default, with the tensors of an upstream checkpoint.

    The raw weights, not the averaged ones: the quantiser was trained on what the raw encoder makes.

    Raises:
        WeightsMismatchError: A tensor is missing, left over or of another shape.
    """
    model = Magvit2Tokens(config)
    for part, half in model.autoencoder.named_children():
        load_strictly(half, magvit2_tensors(dict(tensors), part, ema=False), origin)
    return model


def vit_front_end(spec: EncoderSpec, vit: TransformersVit, prefix: str) -> FrontEnd:
    """Return a vision transformer that is an encoder of its own as a front end; `prefix` as in `FrontEnd`."""
    return FrontEnd(
        spec.name,
        spec.weights,
        prefix,
        tiny_width=TINY["hidden_size"],
        module=vit.module,
        pretrained=vit.pretrained,
    )


DINOV2 = vit_front_end(dino.LARGE, dino.VITS["dinov2-large"], "dino_tokenizer.")
DINOV3 = vit_front_end(dino.DINOV3_SPECS[-1], dino.VITS["dinov3-large"], "dino_tokenizer.")
SIGLIP2 = vit_front_end(siglip.BASE, siglip.VITS["siglip2-base"], "encoder.vision_model.")
MAGVIT2 = FrontEnd(
    OPEN_MAGVIT2.name,
    OPEN_MAGVIT2.weights,
    "magvit2_tokenizer.",
    tiny_width=Magvit2Config().bits,
    module=lambda tiny: Magvit2Tokens(Magvit2Config(base_channels=32, blocks=1) if tiny else None),
    pretrained=load_magvit2,
)


CODEBOOK, PROJECTION, NETWORK = "vq.codebooks", "vq.project_in.weight", "vq.cnn_encoder.{}.weight"
HEADS = "spatial_rel_pos_bias.net.2.weight"
HEAD_WIDTH = "enc_spatial_transformer.layers.0.1.q_scale"
PATCHES_IN, PATCHES_OUT = "to_patch_emb_first_frame.2.weight", "to_pixels_first_frame.0.weight"


def infer_config(tensors: Mapping[str, Tensor], grid: int, origin: Weights) -> LaqConfig:
    """Read all sizes of a quantiser off the shapes of its tensors (published names without prefixes).

    The side `grid` of the patch grid it was trained on tells networks apart whose tensors have equal shapes.

    Raises:
        WeightsMismatchError: This is no such state dict.
    """
    needed = [CODEBOOK, PROJECTION, NETWORK.format(0), HEADS, HEAD_WIDTH]
    missing = [key for key in needed if key not in tensors]
    if missing:
        raise WeightsMismatchError(
            expected="a checkpoint of a latent action quantiser (LAPA, LAQ)",
            got=f"{origin.source} without {', '.join(missing)}; it has {', '.join(list(tensors)[:3])}, ...",
            fix="Give the weights of this model, or choose the encoder that they belong to.",
        )
    codes, code_width = tensors[CODEBOOK].shape
    return LaqConfig(
        dim=tensors[PROJECTION].shape[1],
        codes=codes,
        code_width=code_width,
        code_seq_len=_infer_network(tensors, grid, origin),
        spatial_depth=_depth(tensors, "enc_spatial_transformer"),
        temporal_depth=_depth(tensors, "enc_temporal_transformer"),
        heads=tensors[HEADS].shape[0],
        head_width=tensors[HEAD_WIDTH].shape[0],
        input_patch_px=isqrt(tensors[PATCHES_IN].shape[1] // 3) if PATCHES_IN in tensors else None,
        output_patch_px=isqrt(tensors[PATCHES_OUT].shape[0] // 3) if PATCHES_OUT in tensors else None,
    )


def load_laq(
    path: Path, origin: Weights, config: LaqConfig, grid: int, front_end: FrontEnd | None, *, exact: bool
) -> tuple[LatentActionQuantiser, nn.Module | None, Weights]:
    """Load a quantiser and the frozen network in front of it.

    Args:
        path: The checkpoint.
        origin: Where it comes from.
        config: Sizes of the quantiser. Unless `exact`, the checkpoint decides about codebook, sequence length
            and depth, and only width and patches must be these.
        grid: Side of the patch grid it was trained on.
        front_end: The frozen network, None for a quantiser that embeds patches itself.
        exact: Whether every size must be that of `config`.

    Returns:
        The quantiser, the network, and the record of what both were loaded from.

    Raises:
        WeightsMismatchError: Something does not fit; names, shapes and the sizes that the checkpoint seems to
            have are in the message.
        WeightsMissingError: The checkpoint does not hold the network, and its own weights are nowhere.
    """
    tensors = strip_prefixes(read_tensors(path), ("module.",))
    tensors, inside = split_prefix(tensors, [front_end.prefix] if front_end else [])
    inferred = infer_config(tensors, grid, origin)
    if not exact:
        fixed = {name: getattr(config, name) for name in ("dim", "input_patch_px", "output_patch_px")}
        config = replace(inferred, **fixed)
    quantiser = LatentActionQuantiser(config)
    load_strictly(quantiser, tensors, origin, infer=lambda _: _known(inferred))
    if front_end is None:
        return quantiser, None, origin
    if inside:
        return quantiser, front_end.pretrained(inside, origin), origin
    path, own = resolve_weights(front_end.name, front_end.weights, "auto")
    return quantiser, front_end.pretrained(read_tensors(path), own), _both(origin, own)


def _infer_network(tensors: Mapping[str, Tensor], grid: int, origin: Weights) -> int:
    """Return the code_seq_len whose kernels are the checkpoint's.

    4 and 16 differ only in a stride; on each grid of the family one of them gives the number it is named
    after.
    """
    present = [key for key in (NETWORK.format(i) for i in (0, 2)) if key in tensors]
    kernels = [tuple(tensors[key].shape[2:]) for key in present]
    fitting = [s for s, layers in CODE_NETWORKS.items() if [layer.kernel for layer in layers] == kernels]
    if not fitting:
        raise WeightsMismatchError(
            expected=f"kernels of one of the code networks {', '.join(map(str, CODE_NETWORKS))}",
            got=f"{origin.source} with {' and '.join(map(str, kernels))} in vq.cnn_encoder",
            fix="Give the weights of this model, or choose the encoder that they belong to.",
        )
    return min(fitting, key=lambda s: abs(_tokens_or_none(s, grid) - s))


def _tokens_or_none(code_seq_len: int, grid: int) -> int:
    """Return how many codes a grid becomes; 0 where it is too small for the network."""
    try:
        return code_tokens(code_seq_len, grid)
    except ConfigError:
        return 0


def _depth(tensors: Mapping[str, Tensor], transformer: str) -> int:
    found = (re.match(rf"{transformer}\.layers\.(\d+)\.", key) for key in tensors)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _known(config: LaqConfig) -> dict[str, int]:
    return {name: value for name, value in asdict(config).items() if value is not None}


def _both(quantiser: Weights, network: Weights) -> Weights:
    digest = hashlib.sha256(f"{quantiser.sha256} {network.sha256}".encode()).hexdigest()
    return Weights(digest, f"{quantiser.source} behind {network.source}")
