"""Frames, pairs or clips per second of every encoder, FLOP/s, and the share of what the device can do."""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from case import Figure
from lary_policy.encoders import LatentEncoder, compiled, list_encoders, load_encoder, prepare_frames
from timing import timed

WARM_UP = 2
UNITS = {"frame": "img/s", "pair": "pairs/s", "clip": "clips/s"}
# Frames of one item: pairs, and clips of two, which every video encoder takes.
FRAMES = {"frame": 1, "pair": 2, "clip": 2}

# How the module inside is called without this package, by the name of our wrapper; others are our own code.
BARE: dict[str, Callable[[Any], Callable[[Tensor], object]]] = {
    "PatchTokens": lambda m: lambda x: m.backbone(pixel_values=x, **m.call),
    "VJepa2Tokens": lambda m: lambda x: m.backbone(pixel_values_videos=x.unflatten(0, (-1, 2))),
    "WanLatents": lambda m: lambda x: m.vae.encode(_whole_clips(x)),
    "Flux2Latents": lambda m: m.vae.encode,
}


@dataclass(frozen=True)
class Setup:
    """One encoder with what it is measured on.

    Attributes:
        name: Registry name.
        encoder: Ours, with random weights.
        frames: uint8 frames [b t h w 3] in host memory.
        images: The same, ready for the model [b*t 3 h w] on its device.
    """

    name: str
    encoder: LatentEncoder
    frames: Tensor
    images: Tensor


def run(
    encoders: str, image_px: int, batch: int, repeats: int, dtype: str, compile: int, device: str
) -> Iterator[Figure]:
    """Yield the device's peak, then rate, FLOP/s and share of the peak of each encoder.

    Args:
        encoders: `all`, or names with commas between.
        image_px: Side of frames and input; 0 for each encoder's own.
        batch: Items at once.
        repeats: Timed rounds.
        dtype: Dtype of weights and latents.
        compile: 1 to measure the compiled twins as well.
        device: Where the models run.
    """
    peak = matmul_flops(device, getattr(torch, dtype))
    yield Figure("matmul_gflops_per_second", peak / 1e9, "GFLOP/s")
    for name in list_encoders() if encoders == "all" else encoders.split(","):
        yield from _measure(_setup(name, image_px, batch, dtype, device), repeats, bool(compile), peak)
        gc.collect()
        torch.cuda.empty_cache()


def matmul_flops(device: str, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large square matrix product, the most that a network can hope for."""
    side = 8192 if device != "cpu" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(timed(lambda: a @ b, device) for _ in range(7))


def _setup(name: str, image_px: int, batch: int, dtype: str, device: str) -> Setup:
    with torch.device(device):  # random weights cost the same as trained ones and are drawn where they stay
        encoder = load_encoder(name, image_px=image_px or None, dtype=dtype, device=device, weights="random")
    px = image_px or encoder.spec.image_px
    frames = torch.randint(0, 256, (batch, FRAMES[encoder.latent.kind], px, px, 3), dtype=torch.uint8)
    images = prepare_frames(
        frames,
        px,
        encoder.spec.preprocess_named("native"),
        device=torch.device(device),
        dtype=getattr(torch, dtype),
    )
    return Setup(name, encoder, frames, images)


def _linear_flop(given: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
    """Return the operations of a layer with weights in oneDNN's order, which the counter does not know."""
    return 2 * math.prod(given) * weight[0]


def _measure(setup: Setup, repeats: int, with_compiled: bool, peak: float) -> Iterator[Figure]:
    batch = len(setup.frames)
    packed = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # not on every kind of processor
    known = {} if packed is None else {packed: _linear_flop}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        latents = setup.encoder.encode(setup.frames)
    if not torch.isfinite(latents).all() or float(latents.float().std()) == 0.0:
        raise SystemExit(f"{setup.name}: latents are not finite or constant, no figure is printed")
    bare = _bare(setup.encoder)
    sides: dict[str, Callable[[], object]] = {
        "eager": lambda: setup.encoder.encode(setup.frames),
        "bare": lambda: bare(setup.images),
    }
    if with_compiled:
        twin = compiled(setup.encoder)
        sides["compiled"] = lambda: twin.encode(setup.frames)
    rates = {
        side: [batch / s for s in seconds] for side, seconds in _interleaved(sides, repeats, setup).items()
    }
    flops = counter.get_total_flops() / batch
    for side in [side for side in sides if side != "bare"]:
        rate = statistics.median(rates[side])
        yield Figure(
            f"{setup.name}.{side}.rate",
            rate,
            UNITS[setup.encoder.latent.kind],
            # Raw pixels have no model to compare with.
            baseline=statistics.median(rates["bare"]) if flops else None,
            low=min(rates[side]),
            high=max(rates[side]),
        )
        if flops:
            yield Figure(f"{setup.name}.{side}.gflops_per_second", rate * flops / 1e9, "GFLOP/s")
            yield Figure(f"{setup.name}.{side}.share_of_matmul", rate * flops / peak, "of peak")


@torch.inference_mode()
def _interleaved(
    sides: dict[str, Callable[[], object]], repeats: int, setup: Setup
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for repeat in range(repeats + WARM_UP):
        for side, call in sides.items():
            elapsed = timed(call, setup.images.device.type)
            if repeat >= WARM_UP:
                seconds[side].append(elapsed)
    return seconds


def _bare(encoder: Any) -> Callable[[Tensor], object]:
    """Return the model without our input pipeline, from ready images."""
    model = encoder.model
    if type(model).__name__ in BARE:
        return BARE[type(model).__name__](model)
    if encoder.latent.kind == "pair":
        return lambda x: model.action(*model.features(x).unflatten(0, (-1, 2)).unbind(1))
    return lambda x: model(x)


def _whole_clips(images: Tensor) -> Tensor:
    """Return clips [b 3 5 h w] of two frames, the second repeated as our encoder repeats it."""
    clips = images.unflatten(0, (-1, 2))
    return torch.cat([clips, clips[:, 1:].expand(-1, 3, -1, -1, -1)], dim=1).transpose(1, 2)
