"""Any model of timm, with the input pipeline of its own data configuration."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lary_policy.encoders.auto.files import AutoModelSource
from lary_policy.encoders.auto.pixels import Hints, check_side, measured_preprocess, not_reproducible, three
from lary_policy.encoders.preprocess import Preprocess
from lary_policy.encoders.weights import HubRepo, Weights, load_strictly, raise_on_mismatch, require_module
from lary_policy.errors import ConfigError, LaryPolicyError, UnknownNameError, summary


class TimmFeatures(nn.Module):
    """A timm model up to its last features, before pooling and classifier."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the last features of images [b 3 h w]: a sequence or a feature map."""
        return self.model.forward_features(images)


def timm_source(architecture: str, config: Mapping[str, Any] | None = None) -> AutoModelSource:
    """Find a model of timm by its name, with or without the tag of a set of weights.

    The content of a config.json decides as in `timm.create_model`; without one, timm's own does.

    Raises:
        ConfigError: timm is not installed, the configuration has a key that is not known here, or the input
            pipeline is none that can be reproduced.
        UnknownNameError: timm has no such model.
    """
    require_module("timm", "for its models")
    import timm

    if not timm.is_model(architecture):
        raise UnknownNameError(
            "timm model (hub ids have the form owner/name)", architecture, _near(architecture)
        )
    model = TimmModel(architecture, *_parsed(architecture, config))
    hub_id = model.pretrained.get("hf_hub_id")
    image_px, preprocess = _pipeline(architecture, model.pretrained)
    return AutoModelSource(
        image_px=image_px,
        preprocess=preprocess,
        build=lambda image_px: TimmFeatures(model.create(image_px)),
        load=model.load,
        channels_last=model.channels_last(image_px),
        licence=model.pretrained.get("license") or "see its page",
        hub=HubRepo(hub_id, None) if hub_id and config is None else None,
    )


@dataclass(frozen=True)
class TimmModel:
    """A model as timm would create it."""

    architecture: str  # its name
    pretrained: Mapping[str, Any]  # timm's pretrained configuration
    arguments: Mapping[str, Any]  # further arguments of its constructor

    def create(self, image_px: int, num_classes: int = 0) -> Any:
        """Return the model with random weights, without a classifier unless `num_classes` is given."""
        import timm

        options = {**self.arguments, "num_classes": num_classes}
        # Models with stored positions are built for one size; timm resamples a checkpoint's positions to it.
        if self.pretrained.get("fixed_input_size"):
            options["img_size"] = image_px
        try:
            return timm.create_model(self.architecture, pretrained_cfg=dict(self.pretrained), **options)
        except Exception as error:  # of hundreds of models, on arguments of anyone
            raise ConfigError(
                expected=f"arguments (model_args, image_px) with which timm builds '{self.architecture}'",
                got=summary(error),
                fix="Correct them, or choose another model.",
            ) from error

    def load(self, image_px: int, tensors: Mapping[str, Tensor], origin: Weights) -> nn.Module:
        """Load a checkpoint; its classifier is left out, any other tensor must fit.

        Raises:
            WeightsMismatchError: A tensor is missing, left over or of another shape.
        """
        with torch.device("meta"):
            whole = self.create(image_px, num_classes=self.pretrained.get("num_classes") or 1000)
        model = self.create(image_px)
        tensors = _to_model(model, tensors, origin)
        wanted = model.state_dict()
        head = whole.state_dict().keys() - wanted.keys()
        load_strictly(model, {key: value for key, value in tensors.items() if key not in head}, origin)
        return TimmFeatures(model)

    def channels_last(self, image_px: int) -> bool:
        """Tell whether feature maps are [b h w d], as timm's hierarchical transformers declare it."""
        with torch.device("meta"):
            return getattr(self.create(image_px), "output_fmt", "NCHW") == "NHWC"


# What a config.json holds besides the pretrained configuration and the arguments, none of which decides.
ABOUT = {"architecture", "num_classes", "num_features", "global_pool"}
LABELS = {"labels", "label_names", "label_descriptions"}
# Arguments of `timm.create_model` itself, which a file has no business to set.
FORBIDDEN = {
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable",
    "exportable", "no_jit", "features_only", "pretrained_strict", "pretrained_model_args", "device", "dtype",
}  # fmt: skip


def _parsed(
    architecture: str, config: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return pretrained configuration and arguments of a config.json, as timm reads it.

    Raises:
        ConfigError: It has a key that would pass without effect, or one that a file may not set.
    """
    import timm
    from timm.models import PretrainedCfg

    if config is None:
        own = timm.get_pretrained_cfg(architecture)
        return (own or PretrainedCfg()).to_dict(), {}
    nested = "pretrained_cfg" in config
    for key in ("pretrained_cfg", "model_args") if nested else ():
        if not isinstance(config[key] if key == "pretrained_cfg" else config.get(key) or {}, Mapping):
            raise ConfigError(
                expected=f"a config.json of '{architecture}' with {key} as an object",
                got=repr(config[key])[:80],
                fix="Save the model again with timm.models.save_for_hf.",
            )
    given = dict(config["pretrained_cfg"] if nested else config)
    arguments = dict(config.get("model_args") or {}) if nested else {}
    known = {field.name for field in fields(PretrainedCfg)} | LABELS | ABOUT
    unknown = sorted(given.keys() - known)
    unknown += sorted(config.keys() - ABOUT - LABELS - {"pretrained_cfg", "model_args"}) if nested else []
    if unknown or FORBIDDEN & arguments.keys():
        raise ConfigError(
            expected=f"a config.json of '{architecture}' with keys that timm reads",
            got=", ".join([*unknown, *(f"model_args.{key}" for key in sorted(FORBIDDEN & arguments.keys()))]),
            fix="Remove them if the model is the same without, or write an own encoder, see the README.",
        )
    fitting = {key: value for key, value in given.items() if key not in LABELS | (ABOUT - {"num_classes"})}
    pretrained = {**PretrainedCfg().to_dict(), **fitting}
    pretrained["num_classes"] = config.get("num_classes", pretrained.get("num_classes"))
    size = arguments.get("img_size")
    if arguments.get("dynamic_img_size") or arguments.get("strict_img_size") is False:
        own = pretrained.get("input_size")
        if size is None and pretrained.get("fixed_input_size") and isinstance(own, list | tuple):
            arguments["img_size"] = list(own[-2:])  # of the stored positions; timm's default is another
        pretrained["fixed_input_size"] = False
    elif size is not None and pretrained.get("fixed_input_size"):
        pretrained["input_size"] = (3, *(size if isinstance(size, list) else (size, size)))
    return pretrained, arguments


def _near(architecture: str) -> list[str]:
    """Return the closest names of timm, or its families: all its 1,300 models would hide the message."""
    import timm

    return difflib.get_close_matches(architecture, timm.list_models(), n=12) or timm.list_modules()


def _to_model(model: Any, tensors: Mapping[str, Tensor], origin: Weights) -> Mapping[str, Tensor]:
    """Run what timm does itself between file and model: old names, positions resampled to the input size."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        return tensors if convert is None else convert(dict(tensors), model)
    except Exception as error:  # of hundreds of models, on tensors of anyone
        problem = summary(error)
        raise_on_mismatch([problem], origin)
        raise


def _pipeline(architecture: str, pretrained: Mapping[str, Any]) -> tuple[int, Preprocess]:
    """Return input side and pipeline of timm's own evaluation transform."""
    from timm.data import create_transform, resolve_data_config

    try:
        data = resolve_data_config({}, pretrained_cfg=dict(pretrained))
        transform: Any = create_transform(**data, is_training=False)
        image_px, crop_pct = int(data["input_size"][-1]), float(data["crop_pct"])
        sides = (math.floor(image_px / crop_pct), image_px)
        hints = Hints(three(data["mean"]), three(data["std"]), data["interpolation"], sides, floor=False)
        check_side(architecture, max(data["input_size"]))
    except LaryPolicyError:
        raise
    except Exception as error:  # configurations of anyone
        raise not_reproducible(architecture, f"{type(error).__name__}: {error}") from error
    return measured_preprocess(architecture, lambda image: transform(Image.fromarray(image)), hints)
