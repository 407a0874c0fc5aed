"""Trained latent action models of an output folder, for the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lary_policy.errors import LaryPolicyError, StoreError
from lary_policy.lam import lam_kind
from lary_policy.paths import foreign_file, read_json
from lary_policy.report import LamPoint
from lary_policy.runs.cells import RUN_FILE, plain


def lam_points(output_dir: Path) -> tuple[tuple[LamPoint, ...], tuple[str, ...]]:
    """Return the models that `lary lam` left in an output folder, and what is said of those not readable."""
    points: list[LamPoint] = []
    notes: list[str] = []
    for path in sorted(output_dir.glob(f"*/{RUN_FILE}")):
        if path.parent.is_symlink():
            continue
        try:
            points += _points(path)
        except LaryPolicyError as error:
            notes.append(f"The latent action model {path.parent.name} is left out: {error}")
    return tuple(points), tuple(notes)


def _points(path: Path) -> Iterator[LamPoint]:
    with foreign_file("the result of `lary lam`", path, "Train it again.", error=StoreError):
        raw = read_json(path)
        if "lam" not in raw:
            return
        lam, result, (view,) = raw["lam"], raw["result"], raw["config"]["encoders"]
        last = result["history"][-1]
        apart = ("codebook", "code_seq_len", "dim", "offset", "stage_one")
        settings = {k: v for k, v in plain(lam).items() if k not in apart}
        settings |= {k: str(v) for k, v in view.items() if v is not None}
        yield LamPoint(
            run=path.parent.name,
            encoder=lam_kind(lam["model"]).encoder.format(view["name"]),
            settings={
                **{k: str(v) for k, v in settings.items()},
                "frames": raw["frames"]["of"],
                "content": raw["frames"]["content"],
                "seed": str(raw["config"]["seed"]),
                "codes": lam["codebook"],
                "tokens": result["tokens"],
                "width": lam["dim"],
            },
            error=last["error"],
            copied=last["copied"],
            used=last["used"],
            perplexity=last["perplexity"],
        )
