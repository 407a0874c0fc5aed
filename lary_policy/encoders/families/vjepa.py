"""V-JEPA 2 ViT-L: two frames make one latent step of patch tokens; through transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions, register_encoder
from lary_policy.encoders.kinds import ClipEncoder
from lary_policy.encoders.modules import cut_after, drawn_or_loaded
from lary_policy.encoders.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import (
    CONTAINERS,
    HubRepo,
    Weights,
    WeightsSource,
    load_strictly,
    read_tensors,
    rename,
    strip_prefixes,
)
from lary_policy.errors import FrameFormatError
from lary_policy.types import LatentSpec

TUBELET = 2

LARGE = EncoderSpec(
    name="vjepa2-large",
    family="semantic",
    # The commit that independent public projects name as their snapshot of this repository.
    weights=WeightsSource(
        hub=HubRepo("facebook/vjepa2-vitl-fpc64-256", revision="b3c1679b7c34d3255ef3547f27c7b226aefab26f")
    ),
    image_px=256,
    patch_px=16,
    size_multiple=16,
    latent=LatentSpec("clip", tokens=256, width=1024, grid=(1, 16, 16)),
    preprocess={
        # The checkpoint's video processor: short side 292, centre 256, antialiased.
        "native": Preprocess(IMAGENET_MEAN, IMAGENET_STD, interpolation="bilinear", crop=(292, 256)),
        # The reference resizes with OpenCV's bilinear, which does not antialias.
        "lary": Preprocess(
            IMAGENET_MEAN, IMAGENET_STD, interpolation="bilinear", antialias=False, crop=(256, 224)
        ),
    },
    licence="MIT",
    paper="arXiv:2506.09985",
    params_m=303.89,
    # Half of what two frames cost, which are the least that the model takes.
    gflops_per_frame=80.93,
    reference_key="vjepa2",
    lary_image_px=224,
    depth=24,
)

# Sizes of the toy model for `weights=tiny-random`.
TINY = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}

# Names of the published `vitl.pt` -> transformers.
UPSTREAM_NAMES = (
    (r"^patch_embed\.", "embeddings.patch_embeddings."),
    (r"^blocks\.(\d+)\.attn\.", r"layer.\1.attention."),
    (r"^blocks\.", "layer."),
    (r"^norm\.", "layernorm."),
)


class VJepa2Tokens(nn.Module):
    """Patch tokens after the final layer norm: [b t 3 h w] -> [b t/2 n d], each step row by row."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, clips: Tensor) -> Tensor:
        """Return the tokens of clips whose t is even."""
        tokens = self.backbone(pixel_values_videos=clips).last_hidden_state
        return tokens.unflatten(1, (clips.shape[1] // TUBELET, -1))


@register_encoder(LARGE, tiny=True)
def build_vjepa2(spec: EncoderSpec, options: EncoderOptions) -> ClipEncoder:
    """Build V-JEPA 2 from random or pretrained weights, published by transformers or as `vitl.pt`.

    With `layer`, the tokens of an inner block pass the final layer norm, as those of the last do.
    """
    px, tiny = options.image_px, options.weights == "tiny-random"
    backbone, weights = drawn_or_loaded(
        spec,
        options,
        lambda toy: vjepa2_encoder(px, **(TINY if toy else {})),
        lambda path, origin: _load(vjepa2_encoder(px), path, origin),
    )
    latent = replace(spec.latent_at(px), width=TINY["hidden_size"]) if tiny else None
    model = VJepa2Tokens(cut_after(backbone, options.layer))
    frame_rule = {"native": refuse_odd, "lary": drop_odd}[options.preprocess]
    return ClipEncoder(spec, options, model, weights, frame_rule, latent)


def refuse_odd(frames: Tensor) -> Tensor:
    """Return the frames [b t h w 3] as they are.

    Raises:
        FrameFormatError: t is odd, so that the last frame has no partner.
    """
    t = frames.shape[1]
    if t % TUBELET:
        raise FrameFormatError(
            expected="an even number of frames, which V-JEPA 2 encodes two by two",
            got=f"{t}: frame {t - 1} (counted from 0) has no partner",
            fix="Leave that frame out or add one; preprocess=lary drops it as the reference benchmark does.",
        )
    return frames


def drop_odd(frames: Tensor) -> Tensor:
    """Return the frames [b t h w 3] without the last one where t is odd.

    Raises:
        FrameFormatError: There is only one frame.
    """
    t = frames.shape[1]
    return frames[:, : t - t % TUBELET] if t >= TUBELET else refuse_odd(frames)


def to_vjepa2_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder's tensors by transformers' names, from its own or the upstream checkpoint.

    The latter has any of the prefixes `module.` and `backbone.`.
    """
    tensors = strip_prefixes(tensors, ("module.", "backbone."))
    if "patch_embed.proj.weight" in tensors:
        return _split_qkv(rename(tensors, UPSTREAM_NAMES))
    return {k.removeprefix("encoder."): v for k, v in tensors.items() if not k.startswith("predictor.")}


def _split_qkv(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    split: dict[str, Tensor] = {}
    for name, value in tensors.items():
        parts = value.chunk(3) if ".qkv." in name else (value,)
        targets = ("query", "key", "value") if ".qkv." in name else ("qkv",)
        split |= {name.replace(".qkv.", f".{t}."): part for t, part in zip(targets, parts, strict=True)}
    return split


def _load(backbone: nn.Module, path: Path, origin: Weights) -> nn.Module:
    # Upstream files hold the averaged encoder, which the reference reads, beside the trained one.
    tensors = read_tensors(path, ("target_encoder", "encoder", *CONTAINERS))
    load_strictly(backbone, to_vjepa2_names(tensors), origin)
    return backbone


def vjepa2_encoder(image_px: int, **sizes: Any) -> nn.Module:
    """Return transformers' VJEPA2Encoder at the published sizes, or others, with random weights."""
    from transformers import VJEPA2Config, VJEPA2Model

    # Rotary positions follow from crop_size; left at 256, rows of other sizes would wrap in the wrong place.
    config = VJEPA2Config(crop_size=image_px, **sizes)
    return VJEPA2Model(config).encoder
