"""Encoders of a run: what decides their latents, and each one loaded once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from lary_policy.encoders import LatentEncoder, encoder_spec, load_encoder, weights_status
from lary_policy.encoders.weights import DRAWN, resolve_weights
from lary_policy.machine import resolve_precision
from lary_policy.stages.config import EncoderChoice


@dataclass
class EncoderShelf:
    """Loads encoders when they are needed and keeps them.

    Attributes:
        device: Resolved torch device.
        seed: Of drawn weights and noisy outputs.
        frame_px: Size of the run's frames, so that encoders scale nothing up; None gives every encoder the
            size that its weights were published at.
    """

    device: str
    seed: int
    frame_px: int | None = None
    _loaded: dict[EncoderChoice, LatentEncoder] = field(default_factory=dict)

    def check(self, choice: EncoderChoice) -> None:
        """Check everything about a choice that needs no model, weights included.

        Raises:
            UnknownNameError: The encoder does not exist.
            ConfigError: It has no such size, preprocess or output.
            WeightsMissingError: Its weights are absent.
        """
        spec = encoder_spec(choice.name)
        spec.latent_at(self.image_px(choice))
        spec.preprocess_named(choice.preprocess)
        spec.output_named(choice.output, choice.preprocess)
        self.weights_key(choice)

    def image_px(self, choice: EncoderChoice) -> int:
        """Return the input size of an encoder: its own choice, or the size of the frames.

        Encoders whose tokens do not follow the input's size keep the one that they were trained at.
        """
        if choice.image_px is not None:
            return choice.image_px
        spec = encoder_spec(choice.name)
        if spec.patch_px is None or self.frame_px is None:
            return spec.default_image_px(choice.preprocess)
        return self.frame_px

    def dtype(self, choice: EncoderChoice) -> str:
        """Return the dtype of an encoder: `auto` is bfloat16 where the hardware multiplies it natively."""
        if choice.dtype != "auto":
            return choice.dtype
        return str(resolve_precision("auto", self.device)).removeprefix("torch.")

    def load(self, choice: EncoderChoice) -> LatentEncoder:
        """Load an encoder once."""
        if choice not in self._loaded:
            self._loaded[choice] = load_encoder(
                choice.name,
                weights=choice.weights,
                image_px=self.image_px(choice),
                preprocess=choice.preprocess,
                dtype=self.dtype(choice),
                device=self.device,
                seed=self.seed,
                output=choice.output,
            )
        return self._loaded[choice]

    def key(self, choice: EncoderChoice) -> dict[str, Any]:
        """Return what an encoder's latents depend on, without building it."""
        return {
            "choice": replace(choice, image_px=self.image_px(choice), dtype=self.dtype(choice)),
            "weights": self.weights_key(choice),
            "code": encoder_spec(choice.name).code_version,
        }

    def weights_key(self, choice: EncoderChoice) -> str:
        """Return the hash of the weights an encoder would load; `auto` may download them.

        Raises:
            WeightsMissingError: They are nowhere; the message names every way to get them.
            WeightsMismatchError: The file does not have the pinned hash.
        """
        if choice.weights in DRAWN:
            return DRAWN[choice.weights](self.seed).sha256
        if choice.weights == "auto":
            status = weights_status(choice.name)
            if status.available:
                return status.sha256 or status.source
        return resolve_weights(choice.name, encoder_spec(choice.name).weights, choice.weights)[1].sha256
