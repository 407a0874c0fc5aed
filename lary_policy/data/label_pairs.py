"""Pairs of images with a class instead of actions (LIBERO, protocol section 1.6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import torch

from lary_policy.data.pair_csv import PairFile, check_fields, nothing_usable
from lary_policy.data.pairs import PairRow, PairTable
from lary_policy.errors import DatasetError, LaryPolicyError
from lary_policy.types import Quarantined

CAMERA = "main"


def demonstration_of(image: str) -> str:
    """Return the demonstration of an image `<suite>/<task>/demo_<k>/action_<n>/action_<start|end>.png`.

    A segment used forward and the same one with its images swapped belong to one demonstration.
    """
    return str(PurePosixPath(image).parent.parent)


def read_label_pairs(files: Sequence[PairFile]) -> PairTable:
    """Read rows whose `action` is a class; the table's actions are empty, `[N, 0, 0]`.

    Raises:
        DatasetError: No row is usable.
    """
    rows: list[PairRow] = []
    quarantined: list[Quarantined] = []
    for file in files:
        for line, cells in file.rows:
            try:
                check_fields(cells)
                rows.append(_row(file, line, cells["src_img"], cells["tgt_img"], cells["action"].strip()))
            except LaryPolicyError as error:
                quarantined.append(Quarantined(f"{file.path.name}:{line}", str(error), "load_pairs"))
    if not rows:
        raise nothing_usable(files[0].path, quarantined)
    nothing = torch.zeros(len(rows), 0, 0)
    return PairTable(
        rows=tuple(rows),
        cameras=(CAMERA,),
        quarantined=tuple(quarantined),
        source=files[0].path,
        has_states=False,
        has_labels=True,
        action_values=nothing,
        executed_values=nothing,
        anchor_values=torch.zeros(len(rows), 0),
    )


def _row(file: PairFile, line: int, src: str, tgt: str, label: str) -> PairRow:
    if not label:
        raise DatasetError(expected="a class in column action", got="an empty cell", fix="Complete the row.")
    source, target = file.resolver(src, ""), file.resolver(tgt, "")
    return PairRow(
        line=line,
        episode=demonstration_of(src),
        src_step=None,
        tgt_step=None,
        src_frames=(source,),
        tgt_frames=(target,),
        action=file.path,
        label=label,
        noise_steps=0,
        csv=file.path.name,
    )
