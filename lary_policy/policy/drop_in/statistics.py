"""Statistics are checked before LeRobot's normaliser, which passes numbers through where they are missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lerobot.configs import FeatureType, NormalizationMode

from lary_policy.errors import EmbodimentError
from lary_policy.policy.processor_lary import NEEDED


def require_statistics(config: Any, stats: Mapping[str, Mapping[str, Any]] | None) -> None:
    """Check the statistics of everything but images that a policy's processors normalise.

    Raises:
        EmbodimentError: They are missing, of another length or not finite.
    """
    for key, feature in {**config.input_features, **config.output_features}.items():
        mode = config.normalization_mapping.get(feature.type.value, NormalizationMode.IDENTITY)
        found = (stats or {}).get(key, {})
        bad = [name for name in NEEDED[mode] if not _usable(found.get(name), feature.shape)]
        if bad and feature.type is not FeatureType.VISUAL:
            raise EmbodimentError(
                expected=f"finite statistics {', '.join(NEEDED[mode])} of {list(feature.shape)} for '{key}'",
                got=f"{', '.join(found) or 'none'} ({', '.join(bad)} missing or of another length)",
                fix="Pass dataset_stats=dataset.meta.stats, or load the processors of a checkpoint.",
            )


def _usable(value: Any, shape: tuple[int, ...]) -> bool:
    if value is None:
        return False
    numbers = torch.as_tensor(value)
    return tuple(numbers.shape) == tuple(shape) and bool(torch.isfinite(numbers).all())
