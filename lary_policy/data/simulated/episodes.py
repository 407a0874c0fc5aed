"""What is known of each recorded demonstration, and the files that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lary_policy.data import layout
from lary_policy.errors import DatasetError
from lary_policy.paths import read_json


@dataclass(frozen=True)
class EpisodeRecord:
    """One demonstration.

    Attributes:
        episode: Its number, the N of `ep_N`.
        seed: Seed of its initial state.
        split: Split it belongs to.
        steps: Control steps recorded, a multiple of the stride.
        success: Whether it succeeded (only these are kept in a dataset).
        success_step: Control steps until the first success, or None.
        labels: Atomic primitive of each chunk.
        noise_steps: Disturbed steps of each chunk.
        failure: Why it was left out, or "".
    """

    episode: int
    seed: int
    split: str
    steps: int
    success: bool
    success_step: int | None
    labels: tuple[str, ...] = ()
    noise_steps: tuple[int, ...] = ()
    failure: str = ""


def records_to_json(records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """Return the content of `episodes.json`: a mapping from episode number to the rest of its record."""
    rows = [asdict(r) for r in sorted(records, key=lambda r: r.episode)]
    return {str(row.pop("episode")): row for row in rows}


def records_from_json(value: dict[str, Any]) -> tuple[EpisodeRecord, ...]:
    """Invert `records_to_json`.

    Raises:
        DatasetError: A record has missing or unknown fields.
    """
    try:
        return tuple(
            EpisodeRecord(
                episode=int(number),
                **{**row, "labels": tuple(row["labels"]), "noise_steps": tuple(row["noise_steps"])},
            )
            for number, row in value.items()
        )
    except Exception as error:  # the file is anything that JSON holds
        raise DatasetError(
            expected=f"episode records with fields {', '.join(EpisodeRecord.__dataclass_fields__)}",
            got=f"{type(error).__name__}: {error}",
            fix="Write the dataset anew with `lary data`.",
        ) from error


def read_episodes(root: Path, split: str | None = None) -> tuple[EpisodeRecord, ...]:
    """Return the episodes of a simulated dataset in order of their number, of one split or of all.

    Raises:
        DatasetError: `episodes.json` is missing or damaged.
    """
    records = records_from_json(read_json(Path(root) / layout.EPISODES_FILE))
    return tuple(r for r in records if split is None or r.split == split)
