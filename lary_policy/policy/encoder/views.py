"""From the images of a batch to what a head sees: all cameras through one encoder, frames of a history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lary_policy.errors import ConfigError
from lary_policy.heads import LatentShape, TokenGrid
from lary_policy.policy.encoder.observation import ObservationEncoder


def camera_images(batch: Mapping[str, Tensor], cameras: Sequence[str]) -> list[Tensor]:
    """Return each camera's images `[b 3 h w]` or `[b t 3 h w]`, in order.

    Raises:
        ConfigError: A camera is missing; the message names all of both sides.
    """
    missing = [name for name in cameras if name not in batch]
    if missing:
        given = [name for name in batch if name.startswith("observation.image")]
        raise ConfigError(
            expected=f"images {', '.join(cameras)}, which the policy sees",
            got=", ".join(given) or "no images",
            fix="Render or record these cameras, or rename others with --rename_map.",
        )
    return [batch[name] for name in cameras]


def encode_views(encoder: ObservationEncoder, views: Sequence[Tensor]) -> Tensor:
    """Encode the images of c cameras to latents `[b t' c n d]`; views of one size go through together."""
    if len({view.shape for view in views}) > 1:
        return torch.stack([encoder(view) for view in views], 2)
    together = encoder(torch.stack(list(views), 1).flatten(0, 1))
    return together.unflatten(0, (-1, len(views))).transpose(1, 2)


def arrange(latents: Tensor, kind: str) -> Tensor:
    """Join the time steps of a clip, as a probe's head sees them: `[b t' c n d]` to `[b 1 c t'*n d]`.

    Latents of frames and pairs stay as they are.
    """
    if kind != "clip":
        return latents
    return latents.transpose(1, 2).flatten(2, 3).unsqueeze(1)


def seen_shape(
    encoder: ObservationEncoder, frames: int, cameras: int
) -> tuple[LatentShape, TokenGrid | None]:
    """Return (t, c, n, d) and the token layout of what a head sees of t frames and c cameras.

    How many time steps a clip encoder makes of t frames is found by encoding grey ones.
    """
    latent = encoder.latent
    if latent.kind != "clip":
        steps = frames if latent.kind == "frame" else frames - 1
        return (steps, cameras, latent.tokens, latent.width), latent.grid
    px = encoder.spec.image_px
    grey = torch.full((1, frames, 3, px, px), 0.5, device=encoder.device_mark.device)
    with torch.no_grad():
        steps = encoder(grey).shape[1]
    grid = None if latent.grid is None else (steps * latent.grid[0], *latent.grid[1:])
    return (1, cameras, steps * latent.tokens, latent.width), grid
