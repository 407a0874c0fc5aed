"""Any vision model of transformers, with the input pipeline of its own image processor."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lary_policy.encoders.auto.files import AutoModelSource, AutoName
from lary_policy.encoders.auto.pixels import Hints, check_side, measured_preprocess, three
from lary_policy.encoders.families import loading_problems, quiet_transformers
from lary_policy.encoders.preprocess import Preprocess
from lary_policy.encoders.weights import Weights, other_kinds, raise_on_mismatch, read_config
from lary_policy.errors import ConfigError, LaryPolicyError

# Pillow's numbers of the resampling filters, as image processors write them.
LEVIT_CROP = 224 / 256  # LeViT's processor enlarges its size by this and does not say so
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


def transformers_source(files: AutoName, written: Mapping[str, Any]) -> AutoModelSource:
    """Find a model of transformers by its config.json; code that a repository carries is never run.

    Raises:
        ConfigError: transformers does not know the model without code of its own, its configuration has a
            key without effect, or its image processor is absent or none that can be reproduced.
    """
    config = _config(files, written)
    image_px, preprocess = _pipeline(files)
    return AutoModelSource(
        image_px=image_px,
        preprocess=preprocess,
        build=lambda image_px: LastFeatures(_from_config(config)),
        load=lambda image_px, tensors, origin: LastFeatures(_pretrained(config, tensors, origin)),
    )


# Keys of configurations that older releases wrote for every model, and that decide nothing about this one:
# about training, text generation, the file itself.
BOOK_KEEPING = {
    "_commit_hash", "_name_or_path", "add_cross_attention", "cross_attention_hidden_size", "finetuning_task",
    "gradient_checkpointing", "image_processor_type", "is_decoder", "model_type", "num_labels",
    "output_attentions", "path_norm", "prefix", "pruned_heads", "task_specific_params", "tf_legacy_loss",
    "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "torch_dtype", "torchscript",
    "use_bfloat16",
}  # fmt: skip


def _config(files: AutoName, written: Mapping[str, Any]) -> Any:
    """Return the configuration; of a model of images and text, that of its vision tower."""
    from transformers import AutoConfig

    # Found before anything reads it: the name of an attention kernel may be that of code on the hub.
    if found := [
        key for key in _keys(written) if "attn_implementation" in key or key == "quantization_config"
    ]:
        raise _unusable(files, "a model of plain weights and transformers' own attention", ", ".join(found))
    try:
        config = AutoConfig.from_pretrained(files.config().parent, trust_remote_code=False)
    except Exception as error:  # configurations of anyone
        raise _unusable(files, "a model that transformers knows without code of its own", error) from error
    vision = getattr(config, "vision_config", None)
    unknown = _unknown_keys(config, written)
    if vision is not None:
        unknown += _unknown_keys(vision, written.get("vision_config") or {})
    if unknown:
        raise _unusable(files, "a config.json with keys that transformers reads", ", ".join(unknown))
    return vision or config


def _keys(value: Any) -> Iterator[str]:
    """Yield every key of nested dicts."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _keys(inner)


def _unknown_keys(config: Any, written: Mapping[str, Any]) -> list[str]:
    """Return the keys that a configuration's class does not know, which would pass without effect."""
    from transformers import GenerationConfig

    kind = type(config)
    known = {*inspect.signature(kind).parameters, *BOOK_KEEPING, *kind.attribute_map}
    known |= GenerationConfig().to_dict().keys() | kind.sub_configs.keys()
    known |= {f"{name}_dict" for name in kind.sub_configs}
    with contextlib.suppress(Exception):  # some need arguments; their signature tells all keys then
        known |= kind().to_dict().keys()
    return sorted(written.keys() - known)


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
    """Load a checkpoint; heads and other towers are left out, a missing or unknown tensor is an error.

    A pooling layer may be missing or left over.
    """
    with torch.device("meta"):
        model_class: Any = type(_from_config(config))
        own = model_class(config).state_dict()
    state = _subtree(tensors, list(own))
    raise_on_mismatch(other_kinds(state, own), origin)
    with quiet_transformers():
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=state,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )
    kinds = ("missing_keys", "unexpected_keys")
    unpooled = {kind: {key for key in info[kind] if not key.startswith("pooler.")} for kind in kinds}
    raise_on_mismatch(loading_problems({**info, **unpooled}), origin)
    return model


def _subtree(tensors: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Return the tensors below the prefix under which a larger checkpoint holds most of `names`."""
    prefixes = {key.removesuffix(names[0]) for key in tensors if key.endswith(names[0])}
    best = max(prefixes, key=lambda p: sum(p + name in tensors for name in names), default="")
    return {key.removeprefix(best): value for key, value in tensors.items() if key.startswith(best)}


def _pipeline(files: AutoName) -> tuple[int, Preprocess]:
    """Return input side and pipeline of the model's own image processor."""
    from transformers import AutoImageProcessor

    path = files.file("preprocessor_config.json")
    try:
        written = read_config(path, f"auto:{files.name}")
        for side in _sides(written):
            check_side(files.name, side)
        with quiet_transformers():
            processor: Any = AutoImageProcessor.from_pretrained(path.parent, trust_remote_code=False)
    except LaryPolicyError as error:
        if path.is_file():
            raise
        raise _unusable(files, "an image processor (preprocessor_config.json)", error.got) from error
    except Exception as error:  # configurations of anyone
        raise _unusable(files, "an image processor (preprocessor_config.json)", error) from error

    def run(image: np.ndarray) -> Tensor:
        with quiet_transformers():
            return processor(images=image, return_tensors="pt")["pixel_values"][0]

    return measured_preprocess(files.name, run, _hints(processor))


def _hints(processor: Any) -> Hints:
    """Read off a processor where to look first; what it does decides."""
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    triples = [three(v) if isinstance(v, (list, tuple)) and len(v) == 3 else None for v in (mean, std)]
    sizes = {name: getattr(processor, name, None) for name in ("size", "crop_size")}
    sides = _sides({name: dict(size) for name, size in sizes.items() if size})
    shares = (getattr(processor, "crop_pct", None) or 1.0, LEVIT_CROP)
    return Hints(
        triples[0],
        triples[1],
        FILTERS.get(getattr(processor, "resample", None) or 0, "bicubic"),
        tuple({side for s in sides for side in (s, *(int(s / share) for share in shares))}),
        floor=True,
    )


def _sides(written: Mapping[str, Any]) -> list[int]:
    """Return all numbers of pixels in a processor's sizes."""
    sizes = [written.get("size"), written.get("crop_size")]
    values = [list(size.values()) if isinstance(size, Mapping) else [size] for size in sizes]
    return [
        int(v) for size in values for v in size if isinstance(v, (int, float)) and not isinstance(v, bool)
    ]


def _unusable(files: AutoName, expected: str, got: object) -> ConfigError:
    return ConfigError(
        expected=f"{expected} for 'auto:{files.name}'",
        got=" ".join(str(got).split())[:300],
        fix="Choose another model, or write an own encoder for it, see the README.",
    )
