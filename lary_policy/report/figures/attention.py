"""Where a class head looks, drawn over the frames that its encoder saw."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.figures.registry import Drawing, figure_kind
from lary_policy.report.figures.style import INK, Palette, house_style, sentences, svg
from lary_policy.report.parts import Attention

HEAT = "inferno"
MAP_PX = 96  # side of the drawn frames; patches of 14 are still told apart
_INCHES = 1.05
_LEAST_TOP = 2.0  # times the even share: attention that is nearly even must not look like a peak


_FEW = 3  # frames that fit into a third of the width of the page


@figure_kind("Where class heads look", order=70, needs=("attention",), width="full")
def over_clips(bundle: ReportBundle, palette: Palette) -> Iterable[Drawing]:
    """Draw the samples of many frames."""
    return _drawings([a for a in bundle.attention if _frames(a) > _FEW], "ac")


@figure_kind("Where class heads look in pairs", order=71, needs=("attention",))
def over_pairs(bundle: ReportBundle, palette: Palette) -> Iterable[Drawing]:
    """Draw the samples of few frames."""
    return _drawings([a for a in bundle.attention if _frames(a) <= _FEW], "ap")


def _frames(sample: Attention) -> int:
    return len(sample.frames or sample.weights)


def _drawings(samples: Sequence[Attention], prefix: str) -> Iterable[Drawing]:
    for number, a in enumerate(samples):
        peak = max(x for one in a.weights for row in one for x in row)
        yield Drawing(
            f"{a.task}, {a.protocol}, {a.encoder}: '{a.true}', predicted '{a.predicted}'",
            sentences(
                f"Brightest: {peak:.1f} times the even share.",
                "" if a.frames else "The frames are not at hand.",
            ),
            (attention(a, f"{prefix}{number}"),),
        )


@lru_cache(maxsize=64)
def attention(sample: Attention, name: str) -> Markup:
    """Draw the frames of a sample one beside the other, each under the weights of its time step.

    Tokens without a place in the image are drawn as bars below. Without frames the maps stand alone.
    """
    maps = [np.array(one) for one in sample.weights]
    frames: Sequence[NDArray[Any] | None] = [_decode(frame) for frame in sample.frames] or [None] * len(maps)
    steps = covering_maps(len(frames), len(maps))
    placed, top = maps[0].shape[0] > 1, max(_LEAST_TOP, *(float(one.max()) for one in maps))
    with house_style():
        rows = 1 if placed else 2
        size = (_INCHES * len(frames), _INCHES * (1.25 if placed else 1.8))
        figure = Figure(figsize=size)
        axes = figure.subplots(rows, len(frames), squeeze=False, height_ratios=(1, 0.5)[:rows])
        for place, (frame, step) in enumerate(zip(frames, steps, strict=True)):
            weights = None if step is None else maps[step]
            _picture(axes[0][place], frame, weights if placed else None, top)
            axes[0][place].set_title("no map" if step is None else f"step {step}", size=7, pad=2)
            if not placed:
                _bars(axes[1][place], weights, top)
        figure.subplots_adjust(wspace=0.06, hspace=0.08, left=0.01, right=0.99, bottom=0.02, top=0.88)
        return svg(figure, name)


def covering_maps(frames: int, maps: int) -> list[int | None]:
    """Return which map each of the frames belongs to, or None for a frame that none covers.

    Maps of frames belong to one each, the only map of a pair to both of its frames. In clips the map of a
    pair is drawn over its first frame, so that the last one has none. Encoders that take frames two by two
    leave out an odd last one or repeat it; Wan's autoencoder takes the first alone and then four at a time
    (protocol section 2.3). Anything else is spread evenly.
    """
    if maps == frames:
        return list(range(frames))
    if maps == 1:
        return [0] * frames
    if maps == frames - 1:
        return [*range(maps), None]
    if 2 * maps in (frames - 1, frames + 1):
        return [i // 2 if i // 2 < maps else None for i in range(frames)]
    if frames > 1 and maps == 1 + (frames - 1) // 4:
        return [0, *(min(1 + (i - 1) // 4, maps - 1) for i in range(1, frames))]
    return [i * maps // frames for i in range(frames)]


def _decode(frame: str) -> NDArray[Any]:
    with Image.open(io.BytesIO(base64.b64decode(frame))) as image:
        return np.asarray(image.convert("RGB").resize((MAP_PX, MAP_PX)), dtype=np.float32) / 255


def _picture(axes: Axes, frame: NDArray[Any] | None, weights: NDArray[Any] | None, top: float) -> None:
    """Draw a frame under colours that hide the more of it the more the head looks."""
    base = np.full((MAP_PX, MAP_PX, 3), 0.5, np.float32) if frame is None else frame
    if weights is not None:
        heat = np.asarray(_enlarge(weights / top))[..., None]
        colour = matplotlib.colormaps[HEAT](heat[..., 0])[..., :3]
        share = 0.25 + 0.55 * heat if frame is not None else np.ones_like(heat)
        base = (1 - share) * base + share * colour
    axes.imshow(np.clip(base, 0, 1), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _enlarge(weights: NDArray[Any]) -> Image.Image:
    image = Image.fromarray(weights.astype(np.float32), mode="F")
    return image.resize((MAP_PX, MAP_PX), Image.Resampling.BILINEAR)


def _bars(axes: Axes, weights: NDArray[Any] | None, top: float) -> None:
    values = np.zeros(1) if weights is None else weights.flatten()
    axes.bar(range(len(values)), values, color=INK, alpha=0.6, width=0.85)
    axes.set(ylim=(0, top), xticks=[], yticks=[], xlim=(-0.6, len(values) - 0.4))
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set_visible(True)
