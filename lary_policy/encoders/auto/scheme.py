"""`auto:<name>`: any vision model of transformers or timm as an encoder, without a line of code.

What it puts out is found by running it on the meta device, not read from its configuration.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lary_policy.encoders.auto.files import AutoModelSource, AutoName
from lary_policy.encoders.auto.timm import timm_source
from lary_policy.encoders.auto.transformers import transformers_source
from lary_policy.encoders.base import EncoderOptions, RegisteredEncoder, register_scheme
from lary_policy.encoders.kinds import FrameEncoder
from lary_policy.encoders.modules import cut_after, drawn_or_loaded, find_blocks
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import read_config, read_tensors
from lary_policy.errors import ConfigError, LaryPolicyError, summary
from lary_policy.types import LatentSpec

MOST_PARAMS = 30 * 10**9  # the largest vision encoders have 22


class TokenGrid(nn.Module):
    """Brings any output to tokens: [b d], [b n d], or a feature map [b d h w] or [b h w d] -> [b n d].

    Of a sequence that is no square, the tokens in front of the largest square (CLS, registers) are dropped.

    Args:
        model: From images [b 3 h w] to one of these.
        channels_last: Whether its feature maps are [b h w d].
    """

    def __init__(self, model: nn.Module, channels_last: bool) -> None:
        super().__init__()
        self.model = model
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> Tensor:
        """Return patch tokens row by row."""
        output = self.model(images)
        if output.ndim == 2:
            return output[:, None]
        if output.ndim == 4:
            return output.flatten(1, 2) if self.channels_last else output.flatten(2).mT
        return output[:, output.shape[1] - math.isqrt(output.shape[1]) ** 2 :]


@register_scheme("auto")
def find_auto(name: str) -> RegisteredEncoder:
    """Return the encoder of a hub id (`owner/name[@revision]`), a local folder or a timm model name.

    Raises:
        ConfigError: It is no vision model, needs code of its own, or its configuration cannot be had.
        UnknownNameError: No timm model has that name.
    """
    files = AutoName.parse(name)
    described = sorted(files.folder.glob("*.json")) if files.folder else []
    return _find(
        files, tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in described)
    )


@functools.lru_cache(maxsize=16)
def _find(files: AutoName, stamp: tuple[tuple[str, int, int], ...]) -> RegisteredEncoder:
    """Look a model up once; `stamp` forgets a local one whose configuration was edited."""
    source = _source(files)
    spec = _spec(files, source)
    return RegisteredEncoder(spec, functools.partial(_build, source))


def _source(files: AutoName) -> AutoModelSource:
    if files.timm_name is not None:
        return timm_source(files.timm_name)
    config = read_config(files.config(), f"auto:{files.name}")
    if "architecture" in config:
        return timm_source(str(config["architecture"]), config)
    return transformers_source(files, config)


def _spec(files: AutoName, source: AutoModelSource) -> EncoderSpec:
    """Run the model once at its own size and write down what came out."""
    module = _meta_module(source, source.image_px)
    with FlopCounterMode(display=False) as counter:
        latent = _latent(files.name, source, module, source.image_px)
    params = sum(p.numel() for p in module.parameters())
    if params > MOST_PARAMS:
        raise ConfigError(
            expected=f"'auto:{files.name}' as a model of at most {MOST_PARAMS:,} parameters",
            got=f"{params:,}",
            fix="Correct the sizes in its configuration.",
        )
    side = latent.grid[1] if latent.grid else 1
    patch_px = source.image_px // side if latent.grid and source.image_px % side == 0 else None
    return EncoderSpec(
        name=f"auto:{files.name}",
        family="semantic",
        weights=files.weights(source.hub),
        image_px=source.image_px,
        patch_px=patch_px,
        size_multiple=patch_px or 1,
        latent=latent,
        preprocess={"native": source.preprocess},
        licence=source.licence,
        paper="see its page",
        params_m=params / 1e6,
        gflops_per_frame=counter.get_total_flops() / 1e9,
        depth=_depth(module, latent, source.image_px),
    )


def _depth(module: nn.Module, latent: LatentSpec, image_px: int) -> int | None:
    """Return the number of transformer blocks; None unless all of them put out tokens [b n d] alike."""
    found = find_blocks(module)
    if found is None:
        return None
    shapes: list[tuple[int, ...]] = []

    def note(block: nn.Module, given: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) else output
        shapes.append(tuple(first.shape) if isinstance(first, Tensor) else ())

    blocks: list[nn.Module] = list(getattr(*found))
    hooks = [block.register_forward_hook(note) for block in blocks]
    try:
        with torch.no_grad():
            module(torch.empty(1, 3, image_px, image_px, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    alike = len(set(shapes)) == 1 and len(shapes) == len(blocks)
    return len(blocks) if alike and len(shapes[0]) == 3 and shapes[0][2] == latent.width else None


def _build(source: AutoModelSource, spec: EncoderSpec, options: EncoderOptions) -> FrameEncoder:
    latent = spec.latent
    if options.image_px != spec.image_px:
        latent = _latent(spec.name, source, _meta_module(source, options.image_px), options.image_px)
    model, weights = drawn_or_loaded(
        spec,
        options,
        lambda _: source.build(options.image_px),
        lambda path, origin: source.load(options.image_px, read_tensors(path), origin),
    )
    model = TokenGrid(cut_after(model, options.layer), source.channels_last)
    encoder = FrameEncoder(spec, options, model, weights, latent)
    _refuse_noise(encoder, options.image_px)
    return encoder


def _meta_module(source: AutoModelSource, image_px: int) -> nn.Module:
    try:
        with torch.device("meta"):
            return TokenGrid(source.build(image_px), source.channels_last).eval()
    except LaryPolicyError:
        raise
    except Exception as error:  # of hundreds of models, on configurations of anyone
        raise ConfigError(
            expected="a configuration that its library can build a model of",
            got=summary(error),
            fix="Correct the configuration, or choose another model.",
        ) from error


def _latent(name: str, source: AutoModelSource, module: nn.Module, image_px: int) -> LatentSpec:
    """Return what comes out for one image; nothing is computed on the meta device."""
    try:
        with torch.no_grad():
            tokens = module(torch.empty(1, 3, image_px, image_px, device="meta"))
    except Exception as error:  # of hundreds of models
        raise ConfigError(
            expected=f"'{name}' as a vision model that takes images of {image_px} px",
            got=f"{type(error).__name__}: {str(error).strip().partition('\n')[0]}",
            fix=f"Use image_px={source.image_px}, the model's own size, or another model.",
        ) from error
    side = math.isqrt(tokens.shape[1])
    grid = (1, side, side) if side * side == tokens.shape[1] else None
    return LatentSpec("frame", tokens.shape[1], tokens.shape[2], grid)


def _refuse_noise(encoder: FrameEncoder, image_px: int) -> None:
    """Refuse a model that masks or draws even when it is not trained, such as a masked autoencoder."""
    # A prime period, so that no two patches look alike.
    frames = (torch.arange(3 * image_px**2) % 251).to(torch.uint8).view(1, 1, image_px, image_px, 3)
    first, second = encoder.encode(frames), encoder.encode(frames)
    if first.is_meta:
        return
    # Some CUDA kernels add in another order each time; a random mask changes far more than that.
    if not torch.allclose(first.float(), second.float(), rtol=1e-2, atol=1e-2):
        raise ConfigError(
            expected=f"'{encoder.spec.name}' to encode an image the same way twice",
            got="two different results",
            fix="Models with random masks or sampling are no encoders; choose another one.",
        )
