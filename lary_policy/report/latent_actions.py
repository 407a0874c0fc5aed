"""What trainings of latent action models said of held-out pairs, for curves over their settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lary_policy.errors import ShapeError


@dataclass(frozen=True)
class LamPoint:
    """One trained model.

    Attributes:
        run: Name of its folder, which is in the label of views of it.
        encoder: Name that it is loaded by.
        settings: What may be varied: `codes`, `tokens`, `width` and whatever else decides about it.
        error: Mean squared error of held-out later frames predicted from the codes.
        copied: The same of predicting that nothing changes.
        used: Codes used on the held-out pairs.
        perplexity: Of that use.
    """

    run: str
    encoder: str
    settings: Mapping[str, str | float]
    error: float
    copied: float
    used: int
    perplexity: float

    def __post_init__(self) -> None:
        numbers = (self.error, self.copied, self.perplexity)
        if not all(math.isfinite(x) and x >= 0 for x in numbers) or self.copied == 0:
            raise ShapeError(
                expected=f"finite errors and perplexity of the latent action model {self.run}",
                got=f"error {self.error}, copied {self.copied}, perplexity {self.perplexity}",
                fix="Train it again.",
            )

    @property
    def gain(self) -> float:
        """How much smaller the error is than that of copying the earlier frame, 1 at best."""
        return 1 - self.error / self.copied

    def is_view(self, label: str) -> bool:
        """Tell whether a view's label is of this model."""
        name, _, changes = label.partition("@")
        return name == self.encoder and self.run in changes.split(",")
