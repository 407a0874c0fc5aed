"""A module behind the input pipeline of a spec: its weights, its device, what all kinds of encoders share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Concatenate

import torch
from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions, encoder_fingerprint
from lary_policy.encoders.preprocess import prepare_frames
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import (
    DRAWN,
    Weights,
    load_strictly,
    read_tensors,
    require_module,
    resolve_weights,
)
from lary_policy.errors import ConfigError, ShapeError
from lary_policy.types import LatentSpec

PAIR = 2  # frames of a sample that the reference reads as images; more are a video to it


def no_grad_if_frozen[**P, R](method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Run a method of an encoder without gradients unless a parameter of its attribute `model` is trained.

    Encoders are frozen when they are built, so that their latents are ordinary tensors that heads can train
    on. Whoever trains parts of `model` (an unfrozen block, adapters) gets gradients without asking.
    """

    @functools.wraps(method)
    def run(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in self.model.parameters())
        with torch.set_grad_enabled(trains):
            return method(self, *args, **kwargs)

    return run


class ModuleEncoder:
    """What encoders of frames, of pairs and of clips share.

    Args:
        options: Input size, pipeline, dtype, device and output.
        model: The module; it is frozen and moved here.
        latent: Output of this module where it is not the spec's (toy sizes, models found by name).
        rule: Name of what else decides the latents of these weights, such as which frames of a clip count.

    Attributes:
        latent: Output at `options.image_px`: of a frame, of a pair or of one latent step.
        fingerprint: 16 hex digits; equal fingerprints give equal latents.
        model: The frozen module.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        options: EncoderOptions,
        model: nn.Module,
        weights: Weights,
        latent: LatentSpec | None = None,
        rule: str | None = None,
    ) -> None:
        self.spec = spec
        self.latent = latent or spec.latent_at(options.image_px)
        self.weights = weights
        decides = weights.sha256 if rule is None else f"{weights.sha256} {rule}"
        self.fingerprint = encoder_fingerprint(spec, options, decides)
        self.model = packing(model.to(options.device, options.dtype).eval().requires_grad_(False))
        self._options = options

    def prepared(self, frames: Tensor, *, video: bool) -> Tensor:
        """Turn uint8 frames [b t h w 3] into the model's input [b*t 3 h w] on its device.

        Args:
            frames: Of any size, on any device.
            video: Whether they are clips, which some pipelines of the reference treat otherwise than images.

        Raises:
            FrameFormatError: Frames are not non-empty uint8 [b t h w 3].
        """
        options, pipeline = self._options, self.spec.preprocess_named(self._options.preprocess)
        pipeline = pipeline.video if video and pipeline.video else pipeline
        device = _device_of(self.model, options.device)
        return prepare_frames(frames, options.image_px, pipeline, device=device, dtype=options.dtype)

    def checked(self, tokens: Tensor) -> Tensor:
        """Return the model's output [... n d] if it is what `latent` says.

        Raises:
            ShapeError: It is not.
        """
        if tokens.shape[-2:] != (self.latent.tokens, self.latent.width):
            raise ShapeError(
                expected=f"tokens [... {self.latent.tokens} {self.latent.width}] from '{self.spec.name}'",
                got=str(list(tokens.shape)),
                fix="Correct the encoder's LatentSpec or its module.",
            )
        return tokens


_PACKED_BYTES = 1 << 28  # of weights that are kept in a second order, too: as many as those of a ViT-B
_PACKED_ROWS = 1024  # that oneDNN chooses the order for; it is good for any other number, too


class PackedLinear(nn.Linear):
    """A frozen layer in bfloat16 on a CPU: oneDNN puts its weights in order once, and adds the bias itself.

    The same numbers to the bit; DINOv2-S takes 6 % less time on an AMD EPYC. The layer is an ordinary one
    wherever else it runs, and while it is trained.
    """

    _packed: tuple[tuple[int, int], Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Map `[... i]` to `[... o]`."""
        weight, given = self.weight, [t for t in (input, self.weight, self.bias) if t is not None]
        plain = all(t.is_cpu and t.dtype == torch.bfloat16 and not t.requires_grad for t in given)
        # Of tensors that are not contiguous PyTorch rounds the products before it adds the bias.
        plain = plain and input.is_contiguous() and not weight.is_inference()
        if not plain or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return super().forward(input)
        packed, version = self._packed, (weight.data_ptr(), weight._version)
        if packed is None or packed[0] != version:
            ordered = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _PACKED_ROWS)
            packed = self._packed = (version, ordered)
        return torch.ops.mkldnn._linear_pointwise(input, packed[1], self.bias, "none", [], "")

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and files hold: weights in oneDNN's order are in neither."""
        return {name: value for name, value in super().__getstate__().items() if name != "_packed"}


def packing[M: nn.Module](model: M) -> M:
    """Make `PackedLinear` of the frozen linear layers of a model, in place, where that is of use."""
    found = [m for m in model.modules() if type(m) is nn.Linear]
    size = sum(m.weight.nbytes for m in found if m.weight.is_cpu and m.weight.dtype == torch.bfloat16)
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise")  # not on every kind of processor
    if known and 0 < size <= _PACKED_BYTES and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        for layer in found:
            layer.__class__ = PackedLinear
    return model


class FeatureMapTokens(nn.Module):
    """A feature map as tokens, row by row: [b 3 h w] -> [b n d]; the backbone makes maps [b d h w].

    With `channels_last_on_cpu` a CPU gets the images with the three channels of a pixel side by side.
    """

    def __init__(self, backbone: nn.Module, *, channels_last_on_cpu: bool = False) -> None:
        super().__init__()
        self.backbone, self._channels_last_on_cpu = backbone, channels_last_on_cpu

    def forward(self, images: Tensor) -> Tensor:
        """Return one token for each cell of the map."""
        if self._channels_last_on_cpu and images.device.type == "cpu":
            images = images.contiguous(memory_format=torch.channels_last)
        return self.backbone(images).flatten(2).mT


def find_blocks(module: nn.Module) -> tuple[nn.Module, str] | None:
    """Return where the blocks of a transformer are: the list of equal layers with the most parameters.

    Returns:
        The module that holds the list and the list's name in it; None where there is no such list.
    """
    best, most = None, 0
    for parent in module.modules():
        for name, child in parent.named_children():
            blocks = list(child) if isinstance(child, (nn.ModuleList, nn.Sequential)) else []
            size = sum(p.numel() for p in child.parameters())
            if len(blocks) > 1 and len({type(block) for block in blocks}) == 1 and size > most:
                best, most = (parent, name), size
    return best


def cut_after[M: nn.Module](module: M, layer: int | None) -> M:
    """Leave the transformer blocks behind `layer` (from 1) out, in place; what follows the last one stays.

    Raises:
        ConfigError: There are not so many blocks.
    """
    found = find_blocks(module) if layer is not None else None
    blocks: Any = getattr(*found) if found else ()
    if layer is not None and not 1 <= layer <= len(blocks):
        raise ConfigError(
            expected=f"layer from 1 to {len(blocks)}, the blocks of this model",
            got=str(layer),
            fix="Use one of them, or leave layer out (weights=tiny-random has two blocks only).",
        )
    if found and layer is not None:
        setattr(*found, blocks[:layer])
    return module


def build_seeded[M: nn.Module](build: Callable[[], M], seed: int) -> M:
    """Return `build()` run under `seed`; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def drawn_or_loaded[M: nn.Module](
    spec: EncoderSpec,
    options: EncoderOptions,
    draw: Callable[[bool], M],
    load: Callable[[Path, Weights], M],
) -> tuple[M, Weights]:
    """Build a model as `options.weights` says; return it and the record of its weights.

    `draw` returns the model, or for True its toy twin, with weights drawn from torch's generator; `load`
    makes it of a weight file and its record.

    Raises:
        WeightsMissingError: The weights are nowhere; the message says how to get them.
        WeightsMismatchError: The file is unreadable, or a tensor is missing, left over or of another shape.
    """
    if options.weights in DRAWN:
        tiny = options.weights == "tiny-random"
        return build_seeded(lambda: draw(tiny), options.seed), DRAWN[options.weights](options.seed)
    path, weights = resolve_weights(spec.name, spec.weights, options.weights)
    return load(path, weights), weights


def encoder_half(kind: str, purpose: str, narrowest: Mapping[str, Any], sizes: Mapping[str, Any]) -> Any:
    """Return an autoencoder of diffusers without its decoder, which is built at its narrowest and dropped.

    Raises:
        ConfigError: The package `diffusers` is not installed; the message says for what `purpose` it is
            needed.
    """
    require_module("diffusers", purpose)
    import diffusers

    vae = getattr(diffusers, kind)(**{**narrowest, **sizes})
    vae.decoder = vae.post_quant_conv = None
    return vae


Rename = Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]]


def module_with_weights(
    build: Callable[[], nn.Module],
    spec: EncoderSpec,
    options: EncoderOptions,
    rename: Rename | None = None,
    tiny: Callable[[], nn.Module] | None = None,
) -> tuple[nn.Module, Weights]:
    """Build a module with random weights or load it strictly, as `options.weights` says: `drawn_or_loaded`.

    Args:
        build: Returns the module with weights drawn from torch's generator.
        spec: Names the encoder and the places of its weights.
        options: `weights` and `seed` decide.
        rename: From a checkpoint's tensors and the module to tensors under the module's names.
        tiny: Returns the toy twin for `weights=tiny-random`; `build` by default.
    """

    def load(path: Path, weights: Weights) -> nn.Module:
        module, tensors = build(), read_tensors(path)
        load_strictly(module, rename(tensors, module) if rename else tensors, weights)
        return module

    return drawn_or_loaded(spec, options, lambda toy: tiny() if toy and tiny else build(), load)


def _device_of(model: nn.Module, built_on: torch.device) -> torch.device:
    """Return the device of a module's tensors, which may have moved; `built_on` where it has none."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return built_on if first is None else first.device
