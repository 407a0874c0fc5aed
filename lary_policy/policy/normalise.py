"""LeRobot's normalising steps, checked: where statistics are missing, its own pass numbers on as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from lerobot.configs import FeatureType, NormalizationMode
from lerobot.processor import (
    NormalizerProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    ProcessorStep,
    UnnormalizerProcessorStep,
)
from torch import Tensor

from lary_policy.errors import EmbodimentError

Stats = dict[str, dict[str, Tensor]]
Pipelines = tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]],
    PolicyProcessorPipeline[PolicyAction, PolicyAction],
]
# Statistics that each of LeRobot's modes needs.
NEEDED: Mapping[NormalizationMode, tuple[str, ...]] = {
    NormalizationMode.IDENTITY: (),
    NormalizationMode.MEAN_STD: ("mean", "std"),
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}


class _Checked:
    """Stands before a normalising step of LeRobot in the bases; refuses values without statistics.

    It is stored under the name of LeRobot's step, which loads it: so it is not stored without statistics.
    """

    required: frozenset[str]
    _tensor_stats: dict[str, dict[str, Tensor]]

    def _apply_transform(
        self, tensor: Tensor, key: str, feature_type: FeatureType, *, inverse: bool = False
    ) -> Tensor:
        if key in self.required and key not in self._tensor_stats:
            raise _missing(key, "to be normalised")
        moved: Tensor = super()._apply_transform(tensor, key, feature_type, inverse=inverse)  # type: ignore[misc]
        return moved

    def state_dict(self) -> dict[str, Tensor]:
        """Return the statistics; EmbodimentError if some are missing."""
        for key in sorted(self.required - self._tensor_stats.keys()):
            raise _missing(key, "to be saved with the processors")
        state: dict[str, Tensor] = super().state_dict()  # type: ignore[misc]
        return state


@dataclass
class CheckedNormalizerStep(_Checked, NormalizerProcessorStep):
    """LeRobot's normaliser; a value of a `required` feature is refused where it has no statistics."""

    required: frozenset[str] = frozenset()


@dataclass
class CheckedUnnormalizerStep(_Checked, UnnormalizerProcessorStep):
    """LeRobot's inverse of the normaliser, checked likewise."""

    required: frozenset[str] = frozenset()


_CHECKED: Mapping[type[ProcessorStep], Any] = {
    NormalizerProcessorStep: CheckedNormalizerStep,
    UnnormalizerProcessorStep: CheckedUnnormalizerStep,
}


def checked(pipelines: Pipelines, required: Iterable[str]) -> Pipelines:
    """Give pipelines checked steps in place of LeRobot's; they may be built before statistics exist."""
    keys = frozenset(required)
    for pipeline in pipelines:
        for i, step in enumerate(pipeline.steps):
            if (kind := _CHECKED.get(type(step))) is not None:
                values = {f.name: getattr(step, f.name) for f in fields(step) if f.init}
                pipeline.steps[i] = kind(**values, required=keys)
    return pipelines


def normalised_features(config: Any) -> dict[str, tuple[tuple[int, ...], tuple[str, ...]]]:
    """Return shape and needed statistics of everything but images that a configuration normalises."""
    found = {}
    for key, feature in {**(config.input_features or {}), **(config.output_features or {})}.items():
        mode = config.normalization_mapping.get(feature.type.value, NormalizationMode.IDENTITY)
        if NEEDED[mode] and feature.type is not FeatureType.VISUAL:
            found[key] = (tuple(feature.shape), NEEDED[mode])
    return found


def given_statistics(config: Any, stats: Mapping[str, Mapping[str, Any]] | None) -> Stats:
    """Return the statistics that were given of what a configuration normalises, as tensors.

    Raises:
        EmbodimentError: Those of a feature are incomplete, of another length, not numbers or not finite.
    """
    given = {}
    for key, (shape, needed) in normalised_features(config).items():
        if not (stats or {}).get(key):
            continue
        found = {name: _numbers(value) for name, value in stats[key].items()}  # type: ignore[index]
        bad = [name for name in needed if not _usable(found.get(name), shape)]
        if bad:
            raise EmbodimentError(
                expected=f"finite statistics {', '.join(needed)} of {list(shape)} for '{key}'",
                got=f"{', '.join(found)} ({', '.join(bad)} missing, of another length or no numbers)",
                fix="Correct meta/stats.json of the dataset, or pass dataset_stats=dataset.meta.stats.",
            )
        given[key] = {name: value for name, value in found.items() if value is not None}
    return given


def _numbers(value: Any) -> Tensor | None:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):  # null, text or rows of several lengths
        return None


def _usable(numbers: Tensor | None, shape: tuple[int, ...]) -> bool:
    return numbers is not None and tuple(numbers.shape) == shape and bool(torch.isfinite(numbers).all())


def _missing(key: str, what: str) -> EmbodimentError:
    return EmbodimentError(
        expected=f"statistics of '{key}', {what}",
        got="none: the processors were built without them",
        fix="Pass dataset_stats=dataset.meta.stats to make_pre_post_processors, load the processors of a "
        "checkpoint, or pass --policy.head_from=<folder of a probe>.",
    )
