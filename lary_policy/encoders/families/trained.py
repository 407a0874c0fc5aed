"""Latent action models that were trained here: what their folders say, and the frozen backbone in front.

A folder of `lary lam` holds the state dict as those who published the architecture write it (without the
frozen backbone) and beside it what shapes do not tell: which backbone at which size. Both are hashed
together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from lary_policy.encoders.base import DTYPES, EncoderOptions, find_encoder, load_encoder
from lary_policy.encoders.kinds import FrameEncoder
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import NO_WEIGHTS, WeightsSource, resolve_weights
from lary_policy.errors import ConfigError, WeightsMismatchError
from lary_policy.paths import foreign_file, read_json
from lary_policy.types import LatentSpec

TRAINED_CONFIG = "config.json"
TRAINED_FORMAT = 1
MOST = 1 << 20  # of any size: codebooks of a million codes, the widest tokens are a hundredth
OWN_PATCHES = "pixels"  # the backbone that is none: the model embeds patches of pixels itself
OWN_WIDTH, SMALL_WIDTH = 1024, 32  # of tokens of own patches: LAPA's, and a toy's
FIX = "Give the folder of a finished `lary lam`."


@dataclass(frozen=True)
class TrainedLam[S]:
    """What `config.json` says of a model that was trained here."""

    kind: str  # of architecture, `model=` of `lary lam`
    backbone: str  # encoder whose features it sees, or `pixels`
    backbone_weights: str  # as typed: `auto`, `random` or a path
    backbone_sha256: str  # of those weights
    preprocess: str  # the backbone's input pipeline
    layer: int | None  # block after which features were taken
    image_px: int  # side of the square input
    seed: int  # of drawn backbone weights
    sizes: S  # of the model, a frozen dataclass

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for `config.json`."""
        return {"format": TRAINED_FORMAT, **asdict(self)}

    @classmethod
    def read(cls, path: Path, kind: str, sizes: Callable[..., S]) -> TrainedLam[S]:
        """Read `config.json` of a kind of model whose sizes are a dataclass.

        Raises:
            WeightsMismatchError: It was changed, or is not of such a model, or of one that cannot be.
        """
        with foreign_file(f"the {TRAINED_CONFIG} of `lary lam`", path, FIX, error=WeightsMismatchError):
            raw = read_json(path, sealed=True, error=WeightsMismatchError, fix=FIX)
            if (raw.pop("format"), raw["kind"]) != (TRAINED_FORMAT, kind):
                raise ValueError(f"not format {TRAINED_FORMAT} of a model of kind {kind}")
            raw.pop("training", None)
            found = cls(**{**raw, "sizes": sizes(**raw["sizes"])})
            found._check()
        return found

    def _check(self) -> None:
        """Raise ValueError for what no training here writes."""
        texts = (self.backbone, self.backbone_weights, self.backbone_sha256, self.preprocess)
        if not all(isinstance(text, str) for text in texts) or self.preprocess != "native":
            raise ValueError("a name that is no text, or another pipeline than native")
        stated: Any = self.sizes
        absent = {one.name for one in fields(stated) if one.default is None}
        flags = {one.name for one in fields(stated) if isinstance(one.default, bool)}
        for name, value in {**asdict(stated), "image_px": self.image_px}.items():
            whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST
            known = isinstance(value, bool) if name in flags else whole
            if not known and not (value is None and name in absent):
                raise ValueError(f"{name} {value}, which is no size from 1 to {MOST}")
        if not isinstance(self.seed, int) or not isinstance(self.layer, int | None):
            raise ValueError("a seed or layer that is no whole number")


def describe[S](
    prefix: str, backbone: str, source: WeightsSource, weights: str, kind: str, sizes: Callable[..., S]
) -> TrainedLam[S]:
    """Read what lies beside local weights of `<prefix><backbone>`, and check that it is of this backbone.

    Raises:
        WeightsMissingError: The weights are nowhere.
        WeightsMismatchError: The file is not of such a model.
    """
    path, _ = resolve_weights(f"{prefix}{backbone}", source, weights)
    found = TrainedLam.read(path.parent / TRAINED_CONFIG, kind, sizes)
    if found.backbone != backbone:
        raise WeightsMismatchError(
            expected=f"a model trained on features of '{backbone}'",
            got=f"one of '{found.backbone}' at {path.parent}",
            fix=f"Name it {prefix}{found.backbone}.",
        )
    return found


def grid_of(backbone: str) -> tuple[EncoderSpec, int]:
    """Return the spec of an encoder that gives a square grid of tokens for a frame, and the grid's side.

    Raises:
        ConfigError: It gives none.
    """
    inner = find_encoder(backbone).spec
    grid = inner.latent.grid
    if inner.latent.kind != "frame" or grid is None or grid[1] != grid[2]:
        raise ConfigError(
            expected="a backbone with a square grid of tokens for each frame",
            got=f"'{backbone}' with {inner.latent}",
            fix="Choose dinov2-small, efficientnet-lite0 or another encoder of single frames.",
        )
    return inner, grid[1]


def trained_spec(
    name: str,
    inner: EncoderSpec,
    source: WeightsSource,
    latent: LatentSpec,
    outputs: tuple[str, ...],
    image_px: Callable[[str], int],
    **more: Any,
) -> EncoderSpec:
    """Return the spec of models trained on features of `inner`; `image_px` reads it beside local weights."""
    return EncoderSpec(
        name=name,
        family="general-lam",
        weights=source,
        image_px=inner.image_px,
        patch_px=None,
        size_multiple=inner.size_multiple,
        latent=latent,
        preprocess={"native": inner.preprocess_named("native")},
        licence="that of its backbone and frames",
        params_m=inner.params_m,
        gflops_per_frame=inner.gflops_per_frame,
        outputs=outputs,
        auto_dtype=inner.auto_dtype,
        trained_px=image_px,
        **more,
    )


def frozen_backbone(
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


def its_backbone(about: TrainedLam[Any], options: EncoderOptions) -> nn.Module | None:
    """Return the frozen network that a model was trained behind.

    Raises:
        ConfigError: Another input size is asked for.
        WeightsMismatchError: The network's weights are others than they were.
    """
    if about.image_px != options.image_px:
        raise ConfigError(
            expected=f"image_px={about.image_px}, at which it was trained",
            got=str(options.image_px),
            fix=f"Leave image_px out, or pass image_px={about.image_px}.",
        )
    module, _, sha256 = frozen_backbone(
        about.backbone, about.backbone_weights, options, about.layer, about.seed
    )
    if sha256 != about.backbone_sha256:
        raise WeightsMismatchError(
            expected=f"weights of '{about.backbone}' with sha256 {about.backbone_sha256[:16]}..., on whose "
            "features it was trained",
            got=f"{sha256[:16]}... ({about.backbone_weights})",
            fix="Restore the backbone's weights, or train anew with `lary lam`.",
        )
    return module


def require_stated(stated: dict[str, Any], found: dict[str, Any], path: Path) -> None:
    """Check sizes that `config.json` states against those of the tensors, before room is made for them.

    Raises:
        WeightsMismatchError: Some differ.
    """
    other = [name for name in found if stated[name] != found[name]]
    if other:
        raise WeightsMismatchError(
            expected=", ".join(f"{name} {stated[name]}" for name in other) + f", as {TRAINED_CONFIG} says",
            got=", ".join(f"{name} {found[name]}" for name in other) + f" in {path.name}",
            fix=FIX,
        )
