"""What all figures share: inline SVG, transparent, coloured by encoder, text in the colour of the page."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe-Ito (colour-blind safe), darkened or lightened to read on white and on near-black alike.
COLOURS = ("#0b7fc4", "#d9730d", "#1a9e77", "#b0569a", "#a8860b", "#5b6fd6", "#c4473a", "#4a8f9e")
INK = "#010203"  # stands for the text colour of the page; replaced by currentColor in the SVG
_PX_PER_POINT = 96 / 72  # CSS pixels and points of an inch

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lary",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.titlesize": 9.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Palette:
    """Colours of encoders by their place in the list, which may be longer than the colours.

    Attributes:
        encoders: In the order of the page.
    """

    encoders: tuple[str, ...]

    def __getitem__(self, encoder: str) -> str:
        return COLOURS[self.encoders.index(encoder) % len(COLOURS)]

    def __contains__(self, encoder: str) -> bool:
        return encoder in self.encoders

    def of(self, encoder: str) -> str:
        """Return the colour of an encoder, the first one for a name that is not in the list."""
        return self[encoder] if encoder in self.encoders else COLOURS[0]


def house_style() -> Any:
    """Return the context in which figures are drawn: fonts as text, thin lines, ink to be replaced."""
    return matplotlib.rc_context(_STYLE)


def sentences(*parts: str) -> str:
    """Join the sentences of a caption that are not empty."""
    return " ".join(filter(None, parts))


def faint_grid(axes: Axes) -> None:
    """Put a faint grid behind the data."""
    axes.grid(color=INK, alpha=0.12, lw=0.6)
    axes.set_axisbelow(True)


def svg(figure: Figure, name: str, *, crop: bool = True) -> Markup:
    """Serialise without XML header, addresses and fixed size, with ids that no other figure uses."""
    buffer = io.StringIO()
    box_inches = "tight" if crop else None
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches=box_inches, pad_inches=0.04)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, body = text.split(">", 1)
    box = head.split('viewBox="')[1].split('"')[0]
    width_px = float(box.split()[2]) * _PX_PER_POINT
    head = f'<svg viewBox="{box}" role="img" style="max-width:{width_px:.0f}px"'
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = body.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    return Markup(f"{head}>{body}".replace(INK, "currentColor"))
