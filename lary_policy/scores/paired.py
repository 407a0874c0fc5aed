"""Differences between two heads on the same samples, which are known better than either of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from lary_policy.errors import DatasetError, ShapeError
from lary_policy.scores.intervals import Estimate, bootstrap_mean_ci, finite_vector


class Evaluation(Protocol):
    """What was measured sample by sample."""

    @property
    def by_sample(self) -> tuple[str, Tensor]:
        """Name of a metric and its value for each sample `[N]`."""
        ...


@dataclass(frozen=True)
class SampleScores:
    """One number a sample, whose mean is a score.

    Attributes:
        metric: Name of the score, e.g. `mse` or `top1`.
        items: Where each sample stands, each once.
        clusters: Recording of each sample.
        values: One number a sample.
    """

    metric: str
    items: tuple[str, ...]
    clusters: tuple[str, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        finite_vector(f"{self.metric} of samples", self.values)
        if not len(self.items) == len(self.clusters) == len(self.values) == len(set(self.items)):
            raise ShapeError(
                expected="one item, each once, one recording and one value a sample",
                got=f"{len(set(self.items))} items of {len(self.items)}, {len(self.clusters)} recordings, "
                f"{len(self.values)} values",
                fix="Pass the rows that were evaluated.",
            )

    @classmethod
    def of(cls, evaluation: Evaluation, items: Sequence[str], clusters: Iterable[object]) -> SampleScores:
        """Take the samples of an evaluation.

        Args:
            evaluation: `ActionEvaluation` or `ClassEvaluation` of N samples.
            items: Where each stands.
            clusters: Recording of each.

        Raises:
            ShapeError: There is not one of each a sample, or an item stands twice.
        """
        metric, values = evaluation.by_sample
        return cls(metric, tuple(items), tuple(map(str, clusters)), tuple(values.double().tolist()))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> SampleScores:
        """Rebuild `to_dict`.

        Raises:
            DatasetError: A field is missing, unknown or of another type.
        """
        try:
            names, values = ("items", "clusters"), tuple(float(v) for v in raw["values"])
            return cls(**{**raw, "values": values, **{n: tuple(map(str, raw[n])) for n in names}})
        except Exception as error:
            raise DatasetError(
                expected="the values of samples as `SampleScores.to_dict` writes them",
                got=f"{type(error).__name__}: {error}",
                fix="Measure them again: the file is damaged or of another version.",
            ) from error


def paired_difference(
    first: SampleScores, second: SampleScores, *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> Estimate:
    """Return mean(first - second) over the same samples and its interval over their recordings.

    Args:
        first: Of one head.
        second: Of another one, in any order of the samples.
        seed: Of the resampling.
        resamples: Bootstrap samples.
        level: Coverage.

    Raises:
        ShapeError: They are of other metrics or samples; the message names some.
    """
    places = {item: place for place, item in enumerate(second.items)}
    lonely = sorted(set(first.items) ^ set(second.items))
    if first.metric != second.metric or lonely:
        raise ShapeError(
            expected=f"{first.metric} of the same {len(first.items)} samples",
            got=f"{second.metric} of {len(second.items)} samples; {len(lonely)} are on one side only"
            + (f", for example {', '.join(lonely[:3])}" if lonely else ""),
            fix="Compare heads that were evaluated on the same split of the same data.",
        )
    order = [places[item] for item in first.items]
    differences = np.asarray(first.values) - np.asarray(second.values)[order]
    return bootstrap_mean_ci(differences, first.clusters, seed=seed, resamples=resamples, level=level)
