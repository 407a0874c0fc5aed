"""What a run compares: an encoder with its weights, input and output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch

from lary_policy.encoders.base import DTYPES, LatentEncoder, encoder_spec, load_encoder
from lary_policy.encoders.check import require_encoder_like_cpu
from lary_policy.encoders.controls import NoisyEncoder
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import DRAWN, find_weights, resolve_weights
from lary_policy.errors import ConfigError
from lary_policy.machine import resolve_precision


@dataclass(frozen=True)
class EncoderView:
    """An encoder as a run sees it: two views of one encoder are two rows of its tables."""

    name: str  # registry name, `package.module:Attribute` of an own encoder, or `auto:<model>`
    # `auto`, `random`, or the path of a local file or folder
    weights: str = field(default="auto", metadata={"label": "{}"})
    preprocess: str = field(default="native", metadata={"label": "{}"})  # `native` or `lary`
    # `auto` (see `EncoderSpec.auto_dtype`), `float32`, `bfloat16` or `float16`
    dtype: str = field(default="auto", metadata={"label": "{}"})
    # Side of the square input. None means the size of the run's frames, so that nothing is scaled up;
    # encoders whose tokens do not follow the input's size, and files of all sizes, get the size that the
    # weights were published at.
    image_px: int | None = field(default=None, metadata={"label": "{}px"})
    # One of the encoder's outputs; `auto` is its first one or, under preprocess=lary, what the reference
    # extracts
    output: str = field(default="auto", metadata={"label": "{}"})
    # Transformer block after which the tokens are taken, counted from 1; None is the last
    layer: int | None = field(default=None, metadata={"label": "layer{}"})
    # Controls, which no encoder is: principal components of the training latents that are kept, and noise in
    # deviations of a latent's numbers
    components: int | None = field(default=None, metadata={"label": "components{}"})
    noise: float | None = field(default=None, metadata={"label": "noise{}"})

    @property
    def label(self) -> str:
        """What tables call the view: its name, then what differs from the default, e.g. `x@random,56px`."""
        changes = [
            one.metadata["label"].format(str(value).rstrip("/").rpartition("/")[2])
            for one in fields(self)
            if one.name != "name" and (value := getattr(self, one.name)) != one.default
        ]
        return self.name + ("@" + ",".join(changes) if changes else "")

    @property
    def spec(self) -> EncoderSpec:
        """Everything known about the encoder before it is built."""
        return encoder_spec(self.name)

    @classmethod
    def of(cls, value: str | Mapping[str, Any]) -> EncoderView:
        """Return the view that a name, or a mapping of these fields, describes.

        Raises:
            ConfigError: A field does not exist, the name is missing or a value has the wrong type.
        """
        given = {"name": value} if isinstance(value, str) else dict(value)
        known = [one.name for one in fields(cls)]
        wrong = [name for name in given if name not in known]
        types: dict[str, tuple[type, ...]] = dict.fromkeys(
            ("image_px", "layer", "components"), (int, type(None))
        )
        types["noise"] = (int, float, type(None))
        wrong += [n for n, v in given.items() if n in known and not _fits(v, types.get(n, (str,)))]
        if wrong or not given.get("name"):
            raise ConfigError(
                expected=f"an encoder as its name, or with any of {', '.join(known)}",
                got=str(value),
                fix="Write encoders=[pixels,{name: dinov2-small, weights: random}], for example.",
            )
        for control in ("components", "noise"):
            size: Any = given.get(control)
            if size is not None and not 0 < size < float("inf"):
                raise ConfigError(
                    expected=f"{control} > 0", got=str(size), fix=f"Leave {control} out for none."
                )
        return cls(**given)


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


@dataclass
class EncoderShelf:
    """Loads the encoders of views when they are needed and keeps them."""

    device: str  # resolved torch device
    seed: int = 0  # of drawn weights and noisy outputs
    # Size of the run's frames; None gives every encoder the size that its weights were published at
    frame_px: int | None = None
    _loaded: dict[EncoderView, LatentEncoder] = field(default_factory=dict)

    def check(self, view: EncoderView) -> None:
        """Check everything about a view that needs no model, weights included.

        Raises:
            UnknownNameError: The encoder does not exist.
            ConfigError: It has no such size, preprocess, output or layer.
            WeightsMissingError: Its weights are absent.
        """
        spec = view.spec
        spec.latent_of(self.image_px(view), view.weights)
        spec.preprocess_named(view.preprocess)
        spec.output_named(view.output, view.preprocess)
        spec.check_layer(view.layer)
        self.weights_key(view)

    def image_px(self, view: EncoderView) -> int:
        """Return the side of a view's input, see `EncoderView.image_px`."""
        if view.image_px is not None:
            return view.image_px
        if view.spec.patch_px is None or self.frame_px is None:
            return view.spec.default_image_px(view.preprocess, view.weights)
        return self.frame_px

    def dtype(self, view: EncoderView) -> str:
        """Return what a view computes in."""
        chosen = view.spec.auto_dtype if view.dtype == "auto" else view.dtype
        if chosen != "auto":
            return chosen
        return str(resolve_precision("auto", self.device)).removeprefix("torch.")

    def load(self, view: EncoderView) -> LatentEncoder:
        """Load an encoder once; `components`, which depend on data, are left to `ComponentEncoder`.

        Raises:
            DeviceError: On a GPU its latents are not those of the CPU.
        """
        view = replace(view, components=None)
        if view not in self._loaded and view.noise is not None:
            self._loaded[view] = NoisyEncoder(self.load(replace(view, noise=None)), view.noise, self.seed)
        if view not in self._loaded:
            self._loaded[view] = self._load(view, self.device, self.dtype(view))
            noisy = view.spec.output_named(view.output, view.preprocess) in view.spec.noisy_outputs
            if torch.device(self.device).type == "cuda" and not noisy:
                require_encoder_like_cpu(
                    self._loaded[view],
                    partial(self._load, view, "cpu", "float32"),
                    image_px=self.image_px(view),
                    dtype=DTYPES[self.dtype(view)],
                )
        return self._loaded[view]

    def _load(self, view: EncoderView, device: str, dtype: str) -> LatentEncoder:
        return load_encoder(
            view.name,
            weights=view.weights,
            image_px=self.image_px(view),
            preprocess=view.preprocess,
            dtype=dtype,
            device=device,
            seed=self.seed,
            output=view.output,
            layer=view.layer,
        )

    def key(self, view: EncoderView) -> dict[str, Any]:
        """Return what a view's latents depend on, without building the encoder."""
        return {
            "name": view.name,
            "weights": self.weights_key(view),
            "preprocess": view.preprocess,
            "dtype": self.dtype(view),
            "image_px": self.image_px(view),
            "output": view.spec.output_named(view.output, view.preprocess),
            "seed": self.seed,
            "code": view.spec.code_version,
            **{n: v for n in ("layer", "components", "noise") if (v := getattr(view, n)) is not None},
        }

    def weights_key(self, view: EncoderView) -> str:
        """Return the hash of the weights that a view loads; `auto` may download them.

        Raises:
            WeightsMissingError: They are nowhere; the message names every way to get them.
            WeightsMismatchError: The file does not have the pinned hash.
        """
        if view.weights in DRAWN:
            return DRAWN[view.weights](self.seed).sha256
        if view.weights == "auto":
            status = find_weights(view.spec.weights)
            if status.available:
                return status.sha256 or status.source
        return resolve_weights(view.name, view.spec.weights, view.weights)[1].sha256
