"""What training leaves behind: weights under their published names, their description, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from lary_policy.encoders.families import TRAINED_CONFIG, TrainedLam
from lary_policy.lam.registry import LamKind, LamScore
from lary_policy.lam.trainer import LamRecord
from lary_policy.paths import atomic_write, write_json

CARD = "README.md"
SHEET_ROWS, SHEET_PX = 6, 112


def save_lam(
    folder: Path,
    kind: LamKind,
    network: nn.Module,
    about: TrainedLam[Any],
    training: Mapping[str, Any],
    history: Sequence[LamRecord],
) -> None:
    """Write weights, description and card, which `load_encoder` reads by the name of the kind's encoder.

    Weights have the names that whoever published the architecture gives them, without a frozen backbone.

    Raises:
        StoreError: The disk is full or not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind.write(folder, {n: value.detach().cpu().clone() for n, value in network.state_dict().items()}, about)
    write_json(folder / TRAINED_CONFIG, {**about.to_dict(), "training": dict(training)}, seal=True)
    with atomic_write(folder / CARD) as temporary:
        temporary.write_text(_card(kind, about, training, history), encoding="utf-8")


def _card(
    kind: LamKind, about: TrainedLam[Any], training: Mapping[str, Any], history: Sequence[LamRecord]
) -> str:
    last = history[-1]
    name = kind.encoder.format(about.backbone)
    settings = "\n".join(f"- {key}: {value}" for key, value in training.items())
    return f"""---
library_name: lary_policy
tags: [robotics, latent-action-model, {about.kind}, {about.backbone}]
---

# {name}

A latent action model ({about.kind}) on frames of {about.image_px} px, trained with `lary lam`.

```python
encoder = lary_policy.load_encoder("{name}", weights="<this folder>")
```

After {last.step} steps it predicts held-out later frames with a mean squared error of {last.error:.4g}, where
copying the earlier frame has {last.copied:.4g} ({last.compared}). It uses {last.used} of
{training["codebook"]} codes there, perplexity {last.perplexity:.1f}.

{settings}
"""


def write_sheet(path: Path, frames: Tensor, score: LamScore) -> None:
    """Draw held-out pairs, one a row.

    Columns are both frames and, of a model that predicts pixels, its prediction; then what changed and what
    it got wrong, brighter where it is more, on one scale for both.

    Args:
        path: PNG file.
        frames: uint8 frames [p 2 h w 3].
        score: What the model says of the same pairs.
    """
    rows = []
    for row in range(min(SHEET_ROWS, len(frames))):
        cells = [_sized(frames[row, time].movedim(-1, 0) / 255) for time in (0, 1)]
        if score.predicted.dim() == 4:
            cells.append(_sized(score.predicted[row].clamp(0, 1)))
        most = max(float(score.copied[row].max()), 1e-12)
        cells += [_map(one[row] / most) for one in (score.copied, score.error)]
        rows.append(torch.cat(cells, dim=2))
    picture = (torch.cat(rows, dim=1).movedim(0, -1) * 255).round().to(torch.uint8)
    with atomic_write(path) as temporary:
        Image.fromarray(np.asarray(picture)).save(temporary, format="PNG")


def _sized(image: Tensor) -> Tensor:
    size = (SHEET_PX, SHEET_PX)
    return F.interpolate(image[None].float().cpu(), size, mode="bilinear", antialias=True)[0].clamp(0, 1)


def _map(tokens: Tensor) -> Tensor:
    """Return numbers of a square grid [n] as a grey image."""
    side = round(len(tokens) ** 0.5)
    grid = tokens.float().cpu().view(1, 1, side, side).clamp(0, 1)
    return F.interpolate(grid, (SHEET_PX, SHEET_PX), mode="nearest")[0].expand(3, -1, -1)


def plain_history(history: Sequence[LamRecord]) -> list[dict[str, float]]:
    """Return a history as plain data, `gain` included."""
    return [{**asdict(one), "gain": one.gain} for one in history]
