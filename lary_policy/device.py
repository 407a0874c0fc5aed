"""Which device a run uses."""

from __future__ import annotations

from lary_policy.errors import ConfigError


def resolve_device(name: str) -> str:
    """Return `cpu` or a CUDA device; `auto` takes CUDA where there is one.

    Raises:
        ConfigError: CUDA is asked for and not there, or the name is no device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return name
    if name == "cuda" or (name.startswith("cuda:") and name[5:].isdecimal()):
        if not torch.cuda.is_available():
            raise ConfigError(
                expected=f"a CUDA device for device={name}",
                got="none on this machine",
                fix="Pass device=cpu.",
            )
        return name
    raise ConfigError(
        expected="device auto, cpu, cuda or cuda:<index>", got=f"'{name}'", fix="Pass device=auto."
    )
