"""LAPA and the latent action models after it: `lapa`, `lapa-dinov2`, `lapa-dinov3`, `lapa-siglip2`, ...

Their checkpoints tell codebook, sequence length and depth by their shapes, so one name serves every training
run of a variant. `lapa-dinov3:cs64-sl49-dim256` names one run of the ablation study: the checkpoint then must
have exactly that codebook (cs), sequence length (sl) and code width (dim). The learning rate, which the
reference's files have in their names, may follow: `lapa-dinov3:cs64-sl49-dim256-lr1e-4`.

`native` is how the quantisers were trained: Pillow's bilinear resize, [-1, 1] in front of DINO, [0, 1]
otherwise. `lary` is what the reference does: OpenCV's cubic resize to 224 px, and the noisy training path as
output.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lary_policy.encoders.base import EncoderOptions, RegisteredEncoder, register_encoder, register_scheme
from lary_policy.encoders.families.lapa import weights as laq_front_ends
from lary_policy.encoders.families.lapa.model import LaqConfig, LaqModel, LatentActionQuantiser
from lary_policy.encoders.families.lapa.quantiser import NSVQ, code_tokens
from lary_policy.encoders.families.lapa.trained import LAQ_FILE
from lary_policy.encoders.families.lapa.weights import FrontEnd, load_laq
from lary_policy.encoders.kinds import PairEncoder
from lary_policy.encoders.modules import drawn_or_loaded
from lary_policy.encoders.preprocess import HALF, Preprocess
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import HubRepo, Weights, WeightsSource
from lary_policy.errors import ConfigError
from lary_policy.types import LatentSpec


@dataclass(frozen=True)
class LaqVariant:
    """One member of the family."""

    # Sizes of its quantiser; a checkpoint may differ in codebook, sequence length and depth
    config: LaqConfig
    patch_px: int  # pixels between neighbouring tokens of its grid
    # The frozen network it looks through; None where it embeds patches itself
    front_end: FrontEnd | None = None
    exact: bool = False  # whether a checkpoint must have all sizes of `config`

    def latent(self, config: LaqConfig, image_px: int) -> LatentSpec:
        """Return the output of a quantiser of these sizes; its tokens have no position, see `NSVQ.decode`."""
        return LatentSpec("pair", code_tokens(config.code_seq_len, self.grid(image_px)), config.dim)

    def build(self, spec: EncoderSpec, options: EncoderOptions) -> PairEncoder:
        """Build the encoder from random, toy or pretrained weights."""
        noise_seed = options.seed if options.output in spec.noisy_outputs else None
        recorded: list[Weights] = []  # of both files, where the frozen network comes out of one of its own

        def load(path: Path, origin: Weights) -> LaqModel:
            quantiser, backbone, both = load_laq(
                path, origin, self.config, self.grid(spec.image_px), self.front_end, exact=self.exact
            )
            recorded.append(both)
            return LaqModel(quantiser, backbone, noise_seed)

        model, weights = drawn_or_loaded(spec, options, lambda tiny: self._drawn(noise_seed, tiny), load)
        config = model.quantiser.config
        spec = replace(spec, codebook=(config.codes, config.code_width))
        latent = self.latent(config, options.image_px)
        return PairEncoder(spec, options, model, recorded[0] if recorded else weights, latent)

    def grid(self, image_px: int) -> int:
        """Return the side of the patch grid of a square image."""
        return image_px // self.patch_px

    def _drawn(self, noise_seed: int | None, tiny: bool) -> LaqModel:
        config = self._tiny_config() if tiny else self.config
        backbone = self.front_end.module(tiny) if self.front_end else None
        return LaqModel(LatentActionQuantiser(config), backbone, noise_seed)

    def _tiny_config(self) -> LaqConfig:
        dim = self.front_end.tiny_width if self.front_end else 32
        sizes = {"code_width": 8, "spatial_depth": 1, "temporal_depth": 1, "heads": 2, "head_width": 8}
        return replace(self.config, dim=dim, **sizes)


REFERENCE_PX = 224
ABLATION = re.compile(
    r"cs(?P<codes>[1-9]\d*)-sl(?P<length>[1-9]\d*)-dim(?P<width>[1-9]\d*)(-lr(?P<rate>\d+(\.\d+)?e-?\d+))?"
)


def _preprocess(
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0), std: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> dict[str, Preprocess]:
    trained = Preprocess(mean, std, interpolation="bilinear")
    return {"native": trained, "lary": Preprocess(mean, std, antialias=False)}


def _hub(repo: str, filename: str) -> WeightsSource:
    # No commit hash of these repositories is known for certain.
    return WeightsSource(HubRepo(repo, None, filename))


def _unpublished(filename: str) -> WeightsSource:
    """Return where to ask for a file that the reference reads but that is not on the hub."""
    return WeightsSource(page="https://github.com/meituan-longcat/LARYBench", filename=filename)


def _register(
    name: str, variant: LaqVariant, weights: WeightsSource, params_m: float, gflops: float, **extra: Any
) -> EncoderSpec:
    """Register a variant; `params_m` counts the whole checkpoint, as the paper does, with the decoder."""
    image_px = extra.pop("image_px", REFERENCE_PX)
    spec = EncoderSpec(
        name=name,
        weights=weights,
        image_px=image_px,
        patch_px=None,
        size_multiple=variant.patch_px,
        latent=variant.latent(variant.config, image_px),
        params_m=params_m,
        # Half of what a pair costs: two frames through the front end, then both through the quantiser.
        gflops_per_frame=gflops,
        outputs=("continuous", "quantised", "lary"),
        lary_output="lary",
        noisy_outputs=("lary",),
        codebook=(variant.config.codes, variant.config.code_width),
        lary_image_px=REFERENCE_PX,
        **{**GENERAL, **extra},
    )
    register_encoder(spec, tiny=True)(variant.build)
    return spec


GENERAL = {
    "family": "general-lam",
    "preprocess": _preprocess(),
    "licence": "not stated",
    "paper": "arXiv:2604.11689",
}

LAPA = _register(
    "lapa",
    LaqVariant(
        LaqConfig(
            dim=1024,
            code_seq_len=4,
            spatial_depth=8,
            temporal_depth=8,
            input_patch_px=32,
            output_patch_px=32,
        ),
        patch_px=32,
    ),
    _hub("latent-action-pretraining/LAPA-7B-openx", "laq_openx.pt"),
    params_m=343.80,
    gflops=26.61,
    # The authors' own inference script; the reference benchmark feeds 224.
    image_px=256,
    family="embodied-lam",
    licence="MIT",
    paper="arXiv:2410.11758",
    reference_key="lapa",
)
# Of the two DINO models the repositories are known; the files' names in them are those that the reference
# reads.
LAPA_DINOV2 = _register(
    "lapa-dinov2",
    LaqVariant(LaqConfig(dim=1024), 14, laq_front_ends.DINOV2),
    _hub("AGI-Eval/LAPA-DINOv2", "laq_dinov2.pt"),
    params_m=473.69,
    gflops=215.80,
    preprocess=_preprocess(HALF, HALF),
    reference_key="dinov2",
)
DINOV3_VARIANT = LaqVariant(LaqConfig(dim=1024), 16, laq_front_ends.DINOV3)
LAPA_DINOV3 = _register(
    "lapa-dinov3",
    DINOV3_VARIANT,
    _hub("AGI-Eval/LAPA-DINOv3", "laq_dinov3.pt"),
    params_m=472.45,
    gflops=166.65,
    preprocess=_preprocess(HALF, HALF),
    reference_key="dinov3",
)
LAPA_SIGLIP2 = _register(
    "lapa-siglip2",
    LaqVariant(LaqConfig(dim=768), 16, laq_front_ends.SIGLIP2),
    _unpublished("siglip2.pt"),
    params_m=200.83,
    gflops=60.76,
    reference_key="siglip2",
)
LAPA_MAGVIT2 = _register(
    "lapa-magvit2",
    LaqVariant(LaqConfig(dim=18, output_patch_px=16), 16, laq_front_ends.MAGVIT2),
    _unpublished("magvit2.pt"),
    params_m=116.40,
    gflops=204.72,
    reference_key="magvit2",
)


@register_scheme(LAPA_DINOV3.name)
def find_ablation(run: str) -> RegisteredEncoder:
    """Return the encoder of one run of the ablation study, named by its sizes.

    Args:
        run: `cs<codes>-sl<code_seq_len>-dim<code width>`, with `-lr<rate>` or without.

    Raises:
        ConfigError: The name is not of that form, or there is no network for that sequence length.
    """
    match = ABLATION.fullmatch(run)
    if match is None:
        raise ConfigError(
            expected=f"a run of the ablation study like {LAPA_DINOV3.name}:cs64-sl49-dim256",
            got=f"'{LAPA_DINOV3.name}:{run}'",
            fix="Name codebook (cs), sequence length (sl) and code width (dim), then -lr1e-4 if you like.",
        )
    codes, length, width = (int(match[part]) for part in ("codes", "length", "width"))
    config = replace(DINOV3_VARIANT.config, codes=codes, code_seq_len=length, code_width=width)
    rate = f"_lr{match['rate']}" if match["rate"] else ""
    variant = replace(DINOV3_VARIANT, config=config, exact=True)
    spec = replace(
        LAPA_DINOV3,
        name=f"{LAPA_DINOV3.name}:{run}",
        weights=_unpublished(f"dinov3_cs{codes}_sl{length}_dim{width}{rate}.pt"),
        latent=variant.latent(config, LAPA_DINOV3.image_px),
        params_m=round(LAPA_DINOV3.params_m + (_size(config) - _size(DINOV3_VARIANT.config)) / 1e6, 2),
        codebook=(config.codes, config.code_width),
        reference_key=f"dinov3-{run}",
    )
    return RegisteredEncoder(spec, variant.build, tiny=True)


def _size(config: LaqConfig) -> int:
    """Return the parameters of the only part that differs between runs."""
    with torch.device("meta"):
        vq = NSVQ(config.dim, config.codes, config.code_width, config.code_seq_len)
    return sum(p.numel() for p in vq.parameters())


__all__ = [
    "LAPA",
    "LAQ_FILE",
    "LaqConfig",
    "LatentActionQuantiser",
    "code_tokens",
]
