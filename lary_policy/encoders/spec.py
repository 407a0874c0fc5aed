"""Everything known about an encoder before it is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from lary_policy.encoders.preprocess import Preprocess
from lary_policy.encoders.weights import DRAWN, WeightsSource
from lary_policy.errors import ConfigError
from lary_policy.types import LatentSpec

EncoderFamily = Literal["semantic", "pixel", "embodied-lam", "general-lam"]


@dataclass(frozen=True)
class EncoderSpec:
    """Everything known about one encoder before it is built."""

    name: str  # registry name
    family: EncoderFamily  # LARYBench's family of the encoder
    # Where pretrained weights come from, with pinned revision and hash; empty without weights
    weights: WeightsSource
    image_px: int  # side of the square input the published weights are used at
    # Pixels between neighbouring tokens, or None where the input size does not decide the latent
    patch_px: int | None
    size_multiple: int  # other input sides must be a multiple of this
    latent: LatentSpec  # output at `image_px`
    # Input pipelines by name: always `native`, and `lary` where the reference differs
    preprocess: Mapping[str, Preprocess] = field(hash=False)
    licence: str  # SPDX licence of the weights
    paper: str  # where they are described
    params_m: float  # parameters of what `encode` runs, in millions
    # Floating-point operations (two per multiply-add) of one frame at `image_px`, 1e9; half of what two
    # frames cost where latents are of pairs or clips
    gflops_per_frame: float
    dtype: str = "float32"  # dtype of the published weights
    reference_key: str | None = None  # name of the same model in LARYBench, or None
    # Raised when code changes the output for the same weights; a digest of its module follows that of an own
    # encoder
    code_version: int | str = 1
    # What `encode` can return; the first is the default. Quantised families offer `continuous`, `quantised`
    # and, where the reference returns something else, `lary`.
    outputs: tuple[str, ...] = ("continuous",)
    # What `output="auto"` means under `preprocess="lary"`; None for the first of `outputs`
    lary_output: str | None = None
    # Those of `outputs` that draw noise, so that the seed decides the latents
    noisy_outputs: tuple[str, ...] = ()
    codebook: tuple[int, int] | None = None  # (codes, width of a code) of quantised families
    lary_image_px: int | None = None  # side of the input under `preprocess="lary"` where it is not `image_px`
    # What `dtype=auto` means: `auto` for bfloat16 where the hardware multiplies it natively, or the one dtype
    # that is worth computing in
    auto_dtype: str = "auto"
    # Transformer blocks, of which `layer` may ask for an inner one; None where there is no such sequence, or
    # where what follows is trained for its end (latent action models)
    depth: int | None = None
    # Encoders of one lineage are no independent evidence for anything. Empty for what their names say: up to
    # the first `-`, of `auto:` models that of the model, of own encoders the whole name
    lineage: str = ""
    # From local weights to the side of the input they were trained at, where theirs and no other is meant
    trained_px: Callable[[str], int] | None = field(default=None, hash=False)

    def default_image_px(self, preprocess: str, weights: str = "auto") -> int:
        """Return the side of the input that `preprocess` and local weights stand for when none is asked for.

        Raises:
            WeightsMissingError: The weights are nowhere.
            WeightsMismatchError: What lies beside them does not say it.
        """
        if self.trained_px is not None and weights not in ("auto", *DRAWN):
            return self.trained_px(weights)
        lary = self.lary_image_px if preprocess == "lary" else None
        return lary or self.image_px

    def latent_of(self, image_px: int, weights: str) -> LatentSpec:
        """Return the latent of `weights` as `latent_at`; local ones also take the side they were trained at.

        Raises:
            ConfigError: It is another side, and no positive multiple of `size_multiple`.
        """
        local = self.trained_px is not None and weights not in ("auto", *DRAWN)
        if local and image_px == self.default_image_px("native", weights):
            return self.latent
        return self.latent_at(image_px)

    def latent_at(self, image_px: int) -> LatentSpec:
        """Return the latent of a square input of `image_px` pixels.

        Raises:
            ConfigError: The side is not a positive multiple of `size_multiple`.
        """
        if image_px < self.size_multiple or image_px % self.size_multiple:
            raise ConfigError(
                expected=f"image_px of '{self.name}' as a positive multiple of {self.size_multiple}",
                got=str(image_px),
                fix=f"Use image_px={max(1, round(image_px / self.size_multiple)) * self.size_multiple}.",
            )
        if self.patch_px is None:
            return self.latent
        side = -(-image_px // self.patch_px)
        return replace(self.latent, tokens=side * side, grid=(1, side, side))

    def preprocess_named(self, name: str) -> Preprocess:
        """Return the input pipeline `native` or `lary`.

        Raises:
            ConfigError: This encoder has no such pipeline.
        """
        if name not in self.preprocess:
            raise ConfigError(
                expected=f"a preprocess of '{self.name}': {', '.join(self.preprocess)}",
                got=f"'{name}'",
                fix="Use preprocess=native; `lary` exists only for models that the reference benchmark runs.",
            )
        return self.preprocess[name]

    def check_layer(self, layer: int | None) -> None:
        """Check that tokens can be taken after block `layer`, counted from 1; None stands for the last.

        Raises:
            ConfigError: This encoder has no such block.
        """
        if layer is None or (self.depth is not None and 1 <= layer <= self.depth):
            return
        raise ConfigError(
            expected=f"layer of '{self.name}' "
            + (f"from 1 to {self.depth}" if self.depth else "left out: it has no blocks to choose from"),
            got=str(layer),
            fix=f"Use layer={self.depth} or leave it out." if self.depth else "Leave it out.",
        )

    def output_named(self, name: str, preprocess: str) -> str:
        """Return which of `outputs` a name stands for; `auto` is the default under `preprocess`.

        Raises:
            ConfigError: This encoder has no such output.
        """
        if name == "auto":
            lary = self.lary_output if preprocess == "lary" else None
            return lary or self.outputs[0]
        if name not in self.outputs:
            raise ConfigError(
                expected=f"an output of '{self.name}': auto, {', '.join(self.outputs)}",
                got=f"'{name}'",
                fix="Use output=auto.",
            )
        return name
