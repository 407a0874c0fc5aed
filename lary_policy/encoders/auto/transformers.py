"""Any vision model of transformers, with the input pipeline of its own image processor."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lary_policy.encoders.auto.files import AutoModelSource, AutoName, three
from lary_policy.encoders.families import loading_problems, quiet_transformers
from lary_policy.encoders.preprocess import Preprocess
from lary_policy.encoders.weights import Weights, raise_on_mismatch
from lary_policy.errors import ConfigError

# Pillow's numbers of the resampling filters, as image processors write them.
FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


class LastFeatures(nn.Module):
    """A model of transformers up to its last hidden state or, of a backbone, its last feature map."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        accepted = inspect.signature(model.forward).parameters
        # Models with stored positions otherwise take their own size only.
        self.call = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepted else {}

    def forward(self, images: Tensor) -> Tensor:
        """Return the last features of images [b 3 h w]: a sequence or a feature map."""
        output = self.model(pixel_values=images, **self.call)
        if getattr(output, "feature_maps", None):
            return output.feature_maps[-1]
        return output.last_hidden_state


def transformers_source(files: AutoName) -> AutoModelSource:
    """Find a model of transformers; code that a repository carries is never run.

    Raises:
        ConfigError: transformers does not know the model without code of its own, or its image processor is
            absent or unusual.
    """
    config = _config(files)
    image_px, preprocess = _pipeline(files)
    return AutoModelSource(
        image_px=image_px,
        preprocess=preprocess,
        build=lambda image_px: LastFeatures(_from_config(config)),
        load=lambda image_px, tensors, origin: LastFeatures(_pretrained(config, tensors, origin)),
    )


def _config(files: AutoName) -> Any:
    """Return the configuration; of a model of images and text, that of its vision tower."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(files.config().parent, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise _unusable(files, "a model that transformers knows without code of its own", error) from error
    return getattr(config, "vision_config", None) or config


def _from_config(config: Any) -> nn.Module:
    from transformers import MODEL_MAPPING, AutoBackbone, AutoModel

    known: Any = MODEL_MAPPING  # its type does not declare lookups by class
    model_class = known.get(type(config), ())
    # Where it is optional, a pooling layer would only cost time: nothing here reads what it returns.
    accepted = inspect.signature(model_class).parameters if isinstance(model_class, type) else {}
    options = {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}
    try:
        return (AutoModel if model_class else AutoBackbone).from_config(
            config, trust_remote_code=False, **options
        )
    except ValueError as error:
        raise ConfigError(
            expected="a model with an AutoModel or AutoBackbone in transformers",
            got=f"model_type '{config.model_type}'",
            fix="Choose a vision model, or write an own encoder for it, see the README.",
        ) from error


def _pretrained(config: Any, tensors: Mapping[str, Tensor], origin: Weights) -> nn.Module:
    """Load a checkpoint; heads and other towers are left out, a missing tensor is an error.

    A pooling layer may be missing too.
    """
    import torch

    with torch.device("meta"):
        model_class: Any = type(_from_config(config))
        names = list(model_class(config).state_dict())
    with quiet_transformers():
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=_subtree(tensors, names),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    missing = {key for key in info["missing_keys"] if not key.startswith("pooler.")}
    raise_on_mismatch(loading_problems({**info, "missing_keys": missing, "unexpected_keys": ()}), origin)
    return model


def _subtree(tensors: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Return the tensors below the prefix under which a larger checkpoint holds most of `names`."""
    prefixes = {key.removesuffix(names[0]) for key in tensors if key.endswith(names[0])}
    best = max(prefixes, key=lambda p: sum(p + name in tensors for name in names), default="")
    return {key.removeprefix(best): value for key, value in tensors.items() if key.startswith(best)}


def _pipeline(files: AutoName) -> tuple[int, Preprocess]:
    """Return input side and pipeline of the model's own image processor."""
    from transformers import AutoImageProcessor

    folder = files.file("preprocessor_config.json").parent
    try:
        with quiet_transformers():
            processor: Any = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError, ImportError) as error:
        raise _unusable(files, "an image processor (preprocessor_config.json)", error) from error
    crop_px = _side(processor.crop_size) if getattr(processor, "do_center_crop", False) else None
    size_px = _side(processor.size)
    if size_px is None and crop_px is None:
        raise _unusable(files, "one input size", f"size {processor.size}")
    crop = (size_px, crop_px) if size_px and crop_px else None
    unit = 1.0 if processor.do_rescale else 255.0  # models that want 0..255 are not rescaled
    normalised = processor.do_normalize
    mean, std = (processor.image_mean, processor.image_std) if normalised else ((0.0,) * 3, (1.0,) * 3)
    return crop_px or size_px or 0, Preprocess(
        mean=three(m / unit for m in mean),
        std=three(s / unit for s in std),
        interpolation=FILTERS[int(processor.resample)],
        crop=crop,
    )


def _side(size: Any) -> int | None:
    """Return the side that a processor's size means: of a square, or of the short edge."""
    values = dict(size or {})
    if values.get("height") is not None and values.get("height") == values.get("width"):
        return int(values["height"])
    return int(values["shortest_edge"]) if values.get("shortest_edge") is not None else None


def _unusable(files: AutoName, expected: str, got: object) -> ConfigError:
    return ConfigError(
        expected=f"{expected} for 'auto:{files.name}'",
        got=" ".join(str(got).split())[:300],
        fix="Choose another model, or write an own encoder for it, see the README.",
    )
