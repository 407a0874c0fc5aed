"""Figures of the page: a file of this folder that registers a kind of figure is one of its sections."""

from __future__ import annotations

from lary_policy.report.figures.registry import Drawing, FigureKind, Section, draw_sections, figure_kind
from lary_policy.report.figures.style import Palette

__all__ = ["Drawing", "FigureKind", "Palette", "Section", "draw_sections", "figure_kind"]
