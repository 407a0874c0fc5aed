"""What all figures share: inline SVG, transparent, coloured by encoder, text in the colour of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

# Okabe-Ito (colour-blind safe), darkened or lightened to read on white and on near-black alike.
COLOURS = ("#0b7fc4", "#d9730d", "#1a9e77", "#b0569a", "#a8860b", "#5b6fd6", "#c4473a", "#4a8f9e")
INK = "#010203"  # stands for the text colour of the page; replaced by currentColor in the SVG
_POINTS = 72
_PX_PER_POINT = 96 / _POINTS  # CSS has 96 pixels an inch

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


def numbers_table(
    first: str, columns: Sequence[str], rows: Sequence[tuple[str, str, Sequence[str | Markup]]]
) -> Markup:
    """Return a table of numbers that scrolls and, where there is no room, folds into a list a row.

    Args:
        first: Head of the first column.
        columns: Heads of the others.
        rows: What a row is called, what stands below that in small letters, and its numbers.
    """
    cell = Markup('<td class="num value" data-name="{}">{}</td>')
    small = Markup('<br><span class="small soft">{}</span>')
    lines = [
        Markup("<tr><td>{}{}</td>{}</tr>").format(
            name,
            small.format(below) if below else "",
            Markup().join(cell.format(*one) for one in zip(columns, numbers, strict=True)),
        )
        for name, below, numbers in rows
    ]
    head = Markup('<th class="num" style="overflow-wrap:normal;min-width:0">{}</th>')
    return Markup(
        '<div class="scroll"><table class="numbers many"><thead><tr><th>{}</th>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(first, Markup().join(map(head.format, columns)), Markup().join(lines))


class _Renderer(RendererSVG):
    """Draws SVG; texts that stand in many figures, such as ticks, are measured once."""

    _measured: ClassVar[dict[tuple[str, FontProperties, Any], tuple[float, float, float]]] = {}

    def get_text_width_height_descent(
        self, s: str, prop: FontProperties, ismath: Any
    ) -> tuple[float, float, float]:
        """Return the size of a text in points."""
        key = (s, prop, ismath)
        if key not in self._measured:
            measured = super().get_text_width_height_descent(s, prop, ismath)
            self._measured[s, prop.copy(), ismath] = measured
            return measured
        return self._measured[key]


def svg(figure: Figure, name: str, *, crop: bool = True) -> Markup:
    """Serialise without XML header, addresses and fixed size, with ids that no other figure uses."""
    image_dpi, figure.dpi = figure.dpi, _POINTS
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_visible(False)
    whole, buffer = figure.bbox_inches, io.StringIO()
    renderer = _Renderer(whole.width * _POINTS, whole.height * _POINTS, buffer, image_dpi=image_dpi)
    figure.draw(renderer)
    renderer.finalize()
    # To crop like this instead of by `savefig(bbox_inches="tight")` spares drawing everything twice.
    shown = figure.get_tightbbox(renderer).padded(0.04) if crop else whole
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    _, body = text.split(">", 1)
    sides = (shown.x0, whole.height - shown.y1, shown.width, shown.height)
    box = " ".join(f"{side * _POINTS:.6g}" for side in sides)
    width_px = shown.width * _POINTS * _PX_PER_POINT
    head = f'<svg viewBox="{box}" role="img" style="max-width:{width_px:.0f}px"'
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = body.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    return Markup(f"{head}>{body}".replace(INK, "currentColor"))
