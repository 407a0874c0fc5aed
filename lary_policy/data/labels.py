"""Class names and their numbers: one map, made from the training split, for every split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lary_policy.errors import DatasetError
from lary_policy.types import Quarantined


@dataclass(frozen=True, eq=False)
class EncodedLabels:
    """Classes of the usable rows of a split.

    Attributes:
        ids: Class number of each usable row, int64 `[M]`.
        kept: Which of the N rows they are, int64 `[M]`.
        quarantined: Rows whose class the training split lacks.
    """

    ids: Tensor
    kept: Tensor
    quarantined: tuple[Quarantined, ...]


@dataclass(frozen=True)
class LabelMap:
    """Class names in the order of their numbers.

    Attributes:
        classes: Sorted, each once.
        counts: Rows of each in the training split.
    """

    classes: tuple[str, ...]
    counts: tuple[int, ...]

    @classmethod
    def fit(cls, labels: Sequence[str], *, expected: int | None = None) -> LabelMap:
        """Make the map from the labels of the training split; rows without a label ("") do not count.

        Args:
            labels: Label of each row.
            expected: How many classes the dataset is known to have, or None.

        Raises:
            DatasetError: There is no label, or another number of classes than expected.
        """
        counts = Counter(label for label in labels if label)
        if not counts or (expected is not None and len(counts) != expected):
            raise DatasetError(
                expected=f"{expected if expected is not None else 'some'} classes in the training split",
                got=f"{len(counts)}: {', '.join(sorted(counts)[:10])}",
                fix="Check that the whole CSV is there, or that it belongs to this dataset.",
            )
        classes = tuple(sorted(counts))
        return cls(classes, tuple(counts[name] for name in classes))

    def __len__(self) -> int:
        return len(self.classes)

    def encode(self, labels: Sequence[str], items: Sequence[str], *, strict: bool = False) -> EncodedLabels:
        """Return the class numbers of a split's N rows; rows without a label are left out without a word.

        Rows of classes that the training split lacks are quarantined under their `items`, or with `strict`
        are a DatasetError.
        """
        number = {name: i for i, name in enumerate(self.classes)}
        unknown = sorted({label for label in labels if label and label not in number})
        if unknown and strict:
            raise DatasetError(
                expected=f"only classes of the training split ({len(self)})",
                got=f"{len(unknown)} others: {', '.join(unknown[:10])}",
                fix="Pass strict=False to quarantine their rows, or correct the split.",
            )
        kept = [i for i, label in enumerate(labels) if label in number]
        aside = tuple(
            Quarantined(item, f"class '{label}' is not in the training split", "labels")
            for item, label in zip(items, labels, strict=True)
            if label and label not in number
        )
        ids = torch.tensor([number[labels[i]] for i in kept], dtype=torch.int64)
        return EncodedLabels(ids, torch.tensor(kept, dtype=torch.int64), aside)
