"""`lary encoders`: what each encoder puts out and where its weights come from."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lary_policy.cli.compose import NAMES_OF_ENCODERS
from lary_policy.encoders import encoder_spec, list_encoders, weights_status
from lary_policy.errors import ConfigError


def main(verb: str, arguments: Sequence[str]) -> int:
    """Print the table; exit code 0."""
    if arguments:
        raise ConfigError(expected="no arguments", got=" ".join(arguments), fix=f"Run `lary {verb}`.")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, justify in (
        ("name", "left"),
        ("family", "left"),
        ("latent", "left"),
        ("tokens x width", "right"),
        ("params", "right"),
        ("GFLOP a frame", "right"),
        ("licence", "left"),
        ("weights", "left"),
    ):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    missing = []
    for name in list_encoders():
        spec, status = encoder_spec(name), weights_status(name)
        mark = "[green]here[/]" if status.available else "[yellow]not here[/]"
        table.add_row(
            name,
            spec.family,
            spec.latent.kind,
            f"{spec.latent.tokens} x {spec.latent.width} @{spec.image_px}px",
            f"{spec.params_m:.1f} M" if spec.params_m else "-",
            f"{spec.gflops_per_frame:.1f}" if spec.gflops_per_frame else "-",
            spec.licence,
            f"{mark}: {status.source}",
        )
        if not status.available:
            missing.append(f"{name}: {status.fix}")
    console = Console(width=None if Console().is_terminal else 220)
    console.print(table)
    console.print(f"\nAlso: encoder={NAMES_OF_ENCODERS}", markup=False, soft_wrap=True)
    if missing:
        console.print("\nTo get the missing weights:")
        for line in missing:
            console.print(f"  {line}", soft_wrap=True)
    return 0
