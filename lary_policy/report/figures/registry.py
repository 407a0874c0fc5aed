"""Kinds of figures: each registers its heading, what it needs and its drawing beside its drawing code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from markupsafe import Markup

from lary_policy.errors import ConfigError
from lary_policy.paths import import_modules
from lary_policy.report.bundle import ReportBundle
from lary_policy.report.figures.style import Palette


@dataclass(frozen=True)
class Drawing:
    """One figure of the page.

    Attributes:
        heading: What it shows.
        caption: How to read it.
        panels: SVG drawings, shown side by side as far as they fit.
        warning: What it does not allow to conclude, or empty.
    """

    heading: str
    caption: str
    panels: tuple[Markup, ...]
    warning: str = ""


Draw = Callable[[ReportBundle, Palette], Iterable[Drawing]]


@dataclass(frozen=True)
class FigureKind:
    """A registered kind of figure: one section of the page.

    Attributes:
        heading: Of the section.
        order: Its place among the sections.
        needs: Fields of the bundle that must not be empty.
        width: Of each figure: empty for a third of the page, `wide` for half of it, `full` for all.
        intro: How to read all of them, or empty.
        absent: What the page says where there is nothing to draw; empty to leave the section out.
        draw: Returns the figures.
    """

    heading: str
    order: int
    needs: tuple[str, ...]
    width: str
    intro: str
    absent: str
    draw: Draw


@dataclass(frozen=True)
class Section:
    """A kind of figure with what was drawn."""

    kind: FigureKind
    drawings: tuple[Drawing, ...]

    @property
    def anchor(self) -> str:
        """Id of its heading on the page."""
        return "-".join(self.kind.heading.lower().split())


_KINDS: dict[str, FigureKind] = {}


def figure_kind(
    heading: str,
    *,
    order: int,
    needs: tuple[str, ...] = ("scores",),
    width: str = "",
    intro: str = "",
    absent: str = "",
) -> Callable[[Draw], Draw]:
    """Register a drawing function as a section of the page, see `FigureKind`.

    Raises:
        ConfigError: Another kind has the same heading.
    """

    def register(draw: Draw) -> Draw:
        kind = FigureKind(heading, order, needs, width, intro, absent, draw)
        if _KINDS.setdefault(heading, kind) is not kind:
            raise ConfigError(
                expected="a heading of its own for each kind of figure",
                got=f"'{heading}' of {_KINDS[heading].draw.__module__} and {draw.__module__}",
                fix="Give one of them another heading.",
            )
        return draw

    return register


@cache
def figure_kinds() -> tuple[FigureKind, ...]:
    """Return all kinds of figures, found by importing every file of this folder, in their order."""
    import_modules("lary_policy.report.figures")
    return tuple(sorted(_KINDS.values(), key=lambda kind: kind.order))


def draw_sections(bundle: ReportBundle, palette: Palette) -> tuple[Section, ...]:
    """Draw all kinds of figures whose data the bundle holds; others only say that it does not."""
    sections = []
    for kind in figure_kinds():
        drawn = tuple(kind.draw(bundle, palette)) if all(getattr(bundle, n) for n in kind.needs) else ()
        if drawn or (kind.absent and (bundle.closed_loop or "closed_loop" not in kind.needs)):
            sections.append(Section(kind, drawn))
    return tuple(sections)
