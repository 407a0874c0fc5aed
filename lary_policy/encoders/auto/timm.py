"""Any model of timm, with the input pipeline of its own data configuration."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lary_policy.encoders.auto.files import AutoModelSource, three
from lary_policy.encoders.preprocess import Preprocess
from lary_policy.encoders.weights import HubRepo, Weights, raise_on_mismatch, require_module
from lary_policy.errors import ConfigError, UnknownNameError


class TimmFeatures(nn.Module):
    """A timm model up to its last features, before pooling and classifier."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the last features of images [b 3 h w]: a sequence or a feature map."""
        return self.model.forward_features(images)


def timm_source(architecture: str, config: Mapping[str, Any] | None = None) -> AutoModelSource:
    """Find a model of timm.

    Args:
        architecture: Its name, with or without the tag of a set of weights.
        config: Pretrained configuration out of a config.json; timm's own without one.

    Raises:
        ConfigError: timm is not installed, or crops in a way that is not known here.
        UnknownNameError: timm has no such model.
    """
    require_module("timm", "for its models")
    import timm

    known = timm.is_model(architecture)
    if not known:
        raise UnknownNameError(
            "timm model (hub ids have the form owner/name)", architecture, _near(architecture)
        )
    pretrained = {**_own_config(architecture), **(config or {})}
    hub_id = pretrained.get("hf_hub_id")
    return AutoModelSource(
        image_px=int(pretrained["input_size"][-1]),
        preprocess=_preprocess(architecture, pretrained),
        build=lambda image_px: TimmFeatures(_create(architecture, pretrained, image_px)),
        load=lambda image_px, tensors, origin: _load(architecture, pretrained, image_px, tensors, origin),
        channels_last=_channels_last(architecture),
        licence=pretrained.get("license") or "see its page",
        hub=HubRepo(hub_id, None) if hub_id else None,
    )


def _near(architecture: str) -> list[str]:
    """Return the closest names of timm, or its families: all its 1,300 models would hide the message."""
    import timm

    return difflib.get_close_matches(architecture, timm.list_models(), n=12) or timm.list_modules()


def _own_config(architecture: str) -> dict[str, Any]:
    import timm

    config = timm.get_pretrained_cfg(architecture)
    return config.to_dict() if config is not None else {}


def _create(architecture: str, config: Mapping[str, Any], image_px: int, **options: Any) -> Any:
    import timm

    # Models with stored positions are built for one size; timm resamples a checkpoint's positions to it.
    if config.get("fixed_input_size"):
        options["img_size"] = image_px
    return timm.create_model(architecture, num_classes=0, **options)


def _load(
    architecture: str,
    config: Mapping[str, Any],
    image_px: int,
    tensors: Mapping[str, Tensor],
    origin: Weights,
) -> nn.Module:
    """Load a checkpoint; its classifier is left out, any other missing or different tensor is an error."""
    model = _create(architecture, config, image_px)
    tensors = _to_model(model, tensors)
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    problems = [f"{key} missing" for key in wanted if key not in tensors]
    problems += [
        f"{key} is {tuple(value.shape)}, model {tuple(wanted[key])}"
        for key, value in tensors.items()
        if key in wanted and value.shape != wanted[key]
    ]
    raise_on_mismatch(problems, origin)
    model.load_state_dict({key: tensors[key] for key in wanted})
    return TimmFeatures(model)


def _to_model(model: Any, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Run what timm does itself between file and model: old names, positions resampled to the input size."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return tensors if convert is None else convert(dict(tensors), model)


def _channels_last(architecture: str) -> bool:
    """Tell whether feature maps come out as [b h w d], as timm's hierarchical transformers declare it."""
    import torch

    with torch.device("meta"):
        model = _create(architecture, {}, 0)
    return getattr(model, "output_fmt", "NCHW") == "NHWC"


def _preprocess(architecture: str, config: Mapping[str, Any]) -> Preprocess:
    crop_pct, mode = config.get("crop_pct") or 1.0, config.get("crop_mode") or "center"
    image_px = int(config["input_size"][-1])
    if mode not in ("center", "squash") or config.get("interpolation") not in (
        "bicubic",
        "bilinear",
        "lanczos",
    ):
        raise ConfigError(
            expected=f"a centred crop or a squash, bicubic, bilinear or lanczos, for '{architecture}'",
            got=f"crop_mode {mode}, interpolation {config.get('interpolation')}",
            fix="Write an own encoder for this model, see the README.",
        )
    crop = (math.floor(image_px / crop_pct), image_px) if mode == "center" else None
    return Preprocess(
        mean=three(config["mean"]), std=three(config["std"]), interpolation=config["interpolation"], crop=crop
    )
