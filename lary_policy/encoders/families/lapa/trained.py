"""Quantisers that were trained here: `lapa-<backbone>` with `weights=<folder of lary lam>`.

A folder holds the state dict as the reference writes it (without the frozen backbone) and beside it what the
shapes do not tell: which backbone at which size. Both are hashed together.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any

from torch import nn

from lary_policy.encoders.base import (
    DTYPES,
    EncoderOptions,
    RegisteredEncoder,
    find_encoder,
    load_encoder,
    register_prefix,
)
from lary_policy.encoders.families.lapa.model import LaqConfig, LaqModel, LatentActionQuantiser
from lary_policy.encoders.families.lapa.quantiser import CODE_NETWORKS, code_tokens
from lary_policy.encoders.families.lapa.weights import infer_config
from lary_policy.encoders.kinds import FrameEncoder, PairEncoder
from lary_policy.encoders.modules import drawn_or_loaded
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import (
    NO_WEIGHTS,
    Weights,
    WeightsSource,
    load_strictly,
    read_tensors,
    resolve_weights,
    strip_prefixes,
)
from lary_policy.errors import ConfigError, WeightsMismatchError
from lary_policy.paths import foreign_file, read_json
from lary_policy.types import LatentSpec

TRAINED_FILE, TRAINED_CONFIG = "laq.pt", "config.json"
TRAINED_FORMAT = 1
MOST = 1 << 20  # of any size: codebooks of a million codes, the widest tokens are a hundredth
OWN_PATCHES = "pixels"  # the backbone that is none: the quantiser embeds patches of pixels itself
OWN_WIDTH, SMALL_WIDTH = 1024, 32  # of tokens of own patches: LAPA's, and a toy's
SMALL = LaqConfig(dim=0, spatial_depth=1, temporal_depth=1, heads=2, head_width=16)  # of random toy weights
_SOURCE = WeightsSource(page="`lary lam`", filename=TRAINED_FILE, beside=(TRAINED_CONFIG,))


@dataclass(frozen=True)
class TrainedLaq:
    """What `config.json` says of a quantiser that was trained here."""

    backbone: str  # encoder whose features it sees, or `pixels`
    backbone_weights: str  # as typed: `auto`, `random` or a path
    backbone_sha256: str  # of those weights
    preprocess: str  # the backbone's input pipeline
    layer: int | None  # block after which features were taken
    image_px: int  # side of the square input
    seed: int  # of drawn backbone weights
    sizes: LaqConfig  # of the quantiser

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for `config.json`."""
        return {"format": TRAINED_FORMAT, "kind": "laq", **asdict(self)}

    @classmethod
    def read(cls, path: Path) -> TrainedLaq:
        """Read `config.json`.

        Raises:
            WeightsMismatchError: It was changed, or is not of such a quantiser, or of one that cannot be.
        """
        fix = "Give the folder of a finished `lary lam`."
        with foreign_file(f"the {TRAINED_CONFIG} of `lary lam`", path, fix, error=WeightsMismatchError):
            raw = read_json(path, sealed=True, error=WeightsMismatchError, fix=fix)
            if (raw.pop("format"), raw.pop("kind")) != (TRAINED_FORMAT, "laq"):
                raise ValueError(f"not format {TRAINED_FORMAT} of a quantiser")
            raw.pop("training", None)
            found = cls(**{**raw, "sizes": LaqConfig(**raw["sizes"])})
            found._check()
        return found

    def _check(self) -> None:
        """Raise ValueError for what no training here writes."""
        texts = (self.backbone, self.backbone_weights, self.backbone_sha256, self.preprocess)
        if not all(isinstance(text, str) for text in texts) or self.preprocess != "native":
            raise ValueError("a name that is no text, or another pipeline than native")
        sizes = {**asdict(self.sizes), "image_px": self.image_px}
        absent = ("input_patch_px", "output_patch_px")
        for name, value in sizes.items():
            whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST
            if not whole and not (value is None and name in absent):
                raise ValueError(f"{name} {value}, which is no size from 1 to {MOST}")
        if self.sizes.code_seq_len not in CODE_NETWORKS:
            raise ValueError(f"code_seq_len {self.sizes.code_seq_len}")
        if not isinstance(self.seed, int) or not isinstance(self.layer, int | None):
            raise ValueError("a seed or layer that is no whole number")


@register_prefix("lapa-")
def find_trained(backbone: str) -> RegisteredEncoder:
    """Return the encoder of quantisers trained on an encoder's features.

    Raises:
        ConfigError: The encoder has no square grid of tokens a frame.
    """
    inner = find_encoder(backbone).spec
    grid = inner.latent.grid
    if inner.latent.kind != "frame" or grid is None or grid[1] != grid[2]:
        raise ConfigError(
            expected="a backbone with a square grid of tokens for each frame",
            got=f"'{backbone}' with {inner.latent}",
            fix="Choose dinov2-small, efficientnet-lite0 or another encoder of single frames.",
        )
    sizes = replace(LaqConfig(dim=inner.latent.width), **_patches(backbone, inner))
    spec = EncoderSpec(
        name=f"lapa-{backbone}",
        family="general-lam",
        weights=_SOURCE,
        image_px=inner.image_px,
        patch_px=None,
        size_multiple=inner.size_multiple,
        latent=LatentSpec("pair", code_tokens(sizes.code_seq_len, grid[1]), sizes.dim),
        preprocess={"native": inner.preprocess_named("native")},
        licence="that of its backbone and frames",
        paper="arXiv:2604.11689",
        params_m=inner.params_m,
        gflops_per_frame=inner.gflops_per_frame,
        outputs=("continuous", "quantised", "lary"),
        lary_output="lary",
        noisy_outputs=("lary",),
        codebook=(sizes.codes, sizes.code_width),
        auto_dtype=inner.auto_dtype,
        trained_px=lambda weights: _description(backbone, weights).image_px,
    )
    return RegisteredEncoder(spec, partial(_build, backbone), tiny=True)


def _patches(backbone: str, inner: EncoderSpec) -> dict[str, int]:
    """Return the patches of a quantiser that embeds pixels itself."""
    if backbone != OWN_PATCHES:
        return {}
    side = inner.patch_px or 1
    return {"input_patch_px": side, "output_patch_px": side}


def _description(backbone: str, weights: str) -> TrainedLaq:
    """Read what lies beside local weights, and check that it is of this backbone."""
    path, _ = resolve_weights(f"lapa-{backbone}", _SOURCE, weights)
    found = TrainedLaq.read(path.parent / TRAINED_CONFIG)
    if found.backbone != backbone:
        raise WeightsMismatchError(
            expected=f"a quantiser trained on features of '{backbone}'",
            got=f"one of '{found.backbone}' at {path.parent}",
            fix=f"Name it lapa-{found.backbone}.",
        )
    return found


def _build(backbone: str, spec: EncoderSpec, options: EncoderOptions) -> PairEncoder:
    noise_seed = options.seed if options.output in spec.noisy_outputs else None

    def draw(tiny: bool) -> LaqModel:
        module, width, _ = _frozen(
            backbone, "tiny-random" if tiny else "random", options, options.layer, options.seed
        )
        patches = _patches(backbone, find_encoder(backbone).spec)
        sizes = replace(SMALL if tiny else LaqConfig(0), dim=width, **patches)
        return LaqModel(LatentActionQuantiser(sizes), module, noise_seed)

    def load(path: Path, origin: Weights) -> LaqModel:
        about = _description(backbone, str(path))
        if about.image_px != options.image_px:
            raise ConfigError(
                expected=f"image_px={about.image_px}, at which it was trained",
                got=str(options.image_px),
                fix=f"Leave image_px out, or pass image_px={about.image_px}.",
            )
        module, _, sha256 = _frozen(backbone, about.backbone_weights, options, about.layer, about.seed)
        if sha256 != about.backbone_sha256:
            raise WeightsMismatchError(
                expected=f"weights of '{backbone}' with sha256 {about.backbone_sha256[:16]}..., on whose "
                "features it was trained",
                got=f"{sha256[:16]}... ({about.backbone_weights})",
                fix="Restore the backbone's weights, or train anew with `lary lam`.",
            )
        return LaqModel(_quantiser(path, origin, about), module, noise_seed)

    model, weights = drawn_or_loaded(spec, options, draw, load)
    sizes = model.quantiser.config
    spec = replace(spec, codebook=(sizes.codes, sizes.code_width))
    grid = _grid(backbone, options.image_px, sizes)
    latent = LatentSpec("pair", code_tokens(sizes.code_seq_len, grid), sizes.dim)
    return PairEncoder(spec, options, model, weights, latent)


def _quantiser(path: Path, origin: Weights, about: TrainedLaq) -> LatentActionQuantiser:
    """Return the quantiser with the checkpoint's tensors; its shapes must be those that are described."""
    tensors = strip_prefixes(read_tensors(path), ("module.",))
    inferred = infer_config(tensors, _grid(about.backbone, about.image_px, about.sizes), origin)
    stated, found = asdict(about.sizes), asdict(inferred)
    # Networks of one set of kernels cannot be told apart by shapes.
    other = [n for n in stated if n != "code_seq_len" and stated[n] != found[n]]
    if other:  # before room is made for what is stated
        raise WeightsMismatchError(
            expected=", ".join(f"{name} {stated[name]}" for name in other) + f", as {TRAINED_CONFIG} says",
            got=", ".join(f"{name} {found[name]}" for name in other) + f" in {path.name}",
            fix="Give the folder of a finished `lary lam`.",
        )
    quantiser = LatentActionQuantiser(about.sizes)
    load_strictly(quantiser, tensors, origin)
    return quantiser


def _grid(backbone: str, image_px: int, sizes: LaqConfig) -> int:
    """Return the side of the patch grid that a quantiser of these sizes sees."""
    if sizes.input_patch_px:
        return image_px // sizes.input_patch_px
    return isqrt(find_encoder(backbone).spec.latent_at(image_px).tokens)


def _frozen(
    backbone: str, weights: str, options: EncoderOptions, layer: int | None, seed: int
) -> tuple[nn.Module | None, int, str]:
    """Return the frozen network, the width of its tokens and the hash of its weights."""
    if backbone == OWN_PATCHES:
        return None, SMALL_WIDTH if weights == "tiny-random" else OWN_WIDTH, NO_WEIGHTS.sha256
    dtype = next(name for name, value in DTYPES.items() if value == options.dtype)
    encoder = load_encoder(
        backbone,
        weights=weights,
        image_px=options.image_px,
        dtype=dtype,
        device=str(options.device),
        seed=seed,
        layer=layer,
    )
    if not isinstance(encoder, FrameEncoder):
        raise ConfigError(
            expected="a backbone that is one module of single frames",
            got=f"'{backbone}', a {type(encoder).__name__}",
            fix="Choose an encoder of the registry, see `lary encoders`.",
        )
    return encoder.model, encoder.latent.width, encoder.weights.sha256
