"""Images per second of `LatentEncoder.encode` from uint8 frames, against the bare transformers model."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch

from case import Figure
from lary_policy.encoders import encoder_spec, load_encoder
from timing import timed


def run(encoder: str, image_px: int, batch: int, repeats: int, dtype: str, device: str) -> Iterator[Figure]:
    """Yield images/s of ours, preprocessing included; the baseline is the bare model on ready input."""
    # Random weights on both sides: they cost the same as trained ones and are always there.
    ours = load_encoder(encoder, image_px=image_px, dtype=dtype, device=device, weights="random")
    frames = torch.randint(0, 256, (batch, 1, image_px, image_px, 3), dtype=torch.uint8)
    bare = _bare_model(encoder, image_px, dtype, device)
    pixels = torch.randn(batch, 3, image_px, image_px).to(device, getattr(torch, dtype))
    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.encode(frames),
        "bare": lambda: bare(pixels),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    with torch.inference_mode():
        for repeat in range(repeats + 2):
            for name, side in sides.items():
                elapsed = timed(side, device)
                if repeat >= 2:  # the first two rounds warm up allocator and kernels
                    seconds[name].append(elapsed)
    latents = ours.encode(frames)
    if not torch.isfinite(latents).all() or float(latents.float().std()) == 0.0:
        raise SystemExit("latents are not finite or constant: no figure is printed")
    rates = {name: [batch / s for s in values] for name, values in seconds.items()}
    yield Figure(
        "images_per_second",
        statistics.median(rates["ours"]),
        "img/s",
        baseline=statistics.median(rates["bare"]),
        low=min(rates["ours"]),
        high=max(rates["ours"]),
    )


def _bare_model(name: str, image_px: int, dtype: str, device: str) -> Callable[[torch.Tensor], object]:
    from transformers import Dinov2Config, Dinov2Model

    if not name.startswith("dinov2-"):
        raise SystemExit(f"{name}: expected a dinov2 encoder, the baseline is transformers' Dinov2Model")
    width = encoder_spec(name).latent.width
    layers, heads = {384: (12, 6), 768: (12, 12), 1024: (24, 16)}[width]
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, image_size=518, patch_size=14
    )
    model = Dinov2Model(config).eval().to(device, getattr(torch, dtype))
    return lambda pixels: model(pixels).last_hidden_state
