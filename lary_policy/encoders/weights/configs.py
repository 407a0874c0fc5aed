"""Configurations beside weights: JSON files of anyone, read so that nothing in them runs or never ends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lary_policy.errors import ConfigError, summary
from lary_policy.paths import parse_json, read_regular

MOST_BYTES = 2**23  # names of 21,000 classes take less than one megabyte
MOST_NUMBER = 10**6  # widths, classes and words of a vocabulary are fewer
MOST_LAYERS = 1000
LAYERS = re.compile("layers|depth|blocks|stages")


def read_config(path: Path, name: str) -> dict[str, Any]:
    """Read a JSON file that describes a model or its processor, and refuse what could not be meant well.

    Raises:
        ConfigError: It is no JSON object of a sane size, wants code of its own (`auto_map`), or has a number
            that no model has, with which building it would never end.
    """
    try:
        config = parse_json(read_regular(path, MOST_BYTES).decode("utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"a {type(config).__name__}")
        _check_values(config)
    except Exception as error:  # a file of anyone
        raise ConfigError(
            expected=f"{path.name} of '{name}' as a JSON object, of a model without code of its own",
            got=summary(error),
            fix="Choose another model, or write an own encoder for it, see the README.",
        ) from error
    return config


def _check_values(config: Any, key: str = "") -> None:
    """Raise ValueError for a value, however deep, that asks for code or for endless work."""
    if key == "auto_map":
        raise ValueError("auto_map, which names code in the repository")
    if isinstance(config, dict):
        for name, value in config.items():
            _check_values(value, name)
    elif isinstance(config, list):
        for value in config:
            _check_values(value, key)
    elif isinstance(config, int) and abs(config) > (MOST_LAYERS if LAYERS.search(key) else MOST_NUMBER):
        raise ValueError(f"{key} {config}")
