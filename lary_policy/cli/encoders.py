"""`lary encoders`: what each encoder puts out and where its weights come from."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lary_policy.cli.compose import NAMES_OF_ENCODERS
from lary_policy.encoders import encoder_spec, list_encoders, weights_status
from lary_policy.errors import ConfigError

WIDTH = 100  # columns: of a terminal beside something else
_SHORT = {"LicenseRef-FLUX-2-Dev-Non-Commercial": "FLUX.2 dev*", "LicenseRef-DINOv3": "DINOv3*"}


def main(verb: str, arguments: Sequence[str]) -> int:
    """Print the table; exit code 0."""
    if arguments:
        raise ConfigError(expected="no arguments", got=" ".join(arguments), fix=f"Run `lary {verb}`.")
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("name", "latent", "tokens x width", "params", "GFLOP", "licence", "weights"):
        right = column in ("tokens x width", "params", "GFLOP")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    known = [(name, encoder_spec(name), weights_status(name)) for name in list_encoders()]
    known.sort(key=lambda one: not one[2].available)  # what is usable now first
    for name, spec, status in known:
        table.add_row(
            name,
            spec.latent.kind,
            f"{spec.latent.tokens} x {spec.latent.width} @{spec.image_px}px",
            f"{spec.params_m:.1f} M" if spec.params_m else "-",
            f"{spec.gflops_per_frame:.1f}" if spec.gflops_per_frame else "-",
            _SHORT.get(spec.licence, spec.licence),
            "[green]here[/]" if status.available else "[yellow]not here[/]",
        )
    missing = [f"{name}: {status.fix}" for name, _, status in known if not status.available]
    console = Console(width=WIDTH)
    console.print(table)
    console.print("\nGFLOP: of one frame. Licence of the weights, * = see their own page.")
    console.print(f"\nAlso: encoder={NAMES_OF_ENCODERS}", markup=False, soft_wrap=True)
    if missing:
        console.print("\nTo get the missing weights:")
        for line in missing:
            console.print(f"  {line}", soft_wrap=True)
    return 0
