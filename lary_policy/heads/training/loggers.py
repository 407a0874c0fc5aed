"""Where a training history also goes while it grows: files of ours, TensorBoard, Weights & Biases."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.machine import is_main_process


class MetricLogger(Protocol):
    """Takes named numbers, epoch by epoch."""

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record the numbers of one epoch."""
        ...

    def close(self) -> None:
        """Finish writing."""
        ...


METRICS = "metrics.jsonl"


def json_line(epoch: int, values: Mapping[str, float]) -> str:
    """Return what `JsonLinesLogger` writes of an epoch."""
    return json.dumps({"epoch": epoch, **values}) + "\n"


class JsonLinesLogger:
    """One JSON object a line in `metrics.jsonl`.

    Args:
        folder: Folder to write to.
        settings: Resolved settings of the run; not repeated here.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / METRICS).open("a")

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Append one line and flush it."""
        self._file.write(json_line(epoch, values))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardLogger:
    """Scalars of TensorBoard in `tensorboard/`.

    Args:
        folder: Folder of the run.
        settings: Resolved settings of the run, shown as text.

    Raises:
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        _require("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))
        self._writer.add_text("settings", f"```\n{json.dumps(settings, indent=2, default=str)}\n```")

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)

    def close(self) -> None:
        """Flush the event file."""
        self._writer.close()


class WandbLogger:
    """A run of Weights & Biases in `wandb/`; offline unless the environment's WANDB_MODE says otherwise.

    Args:
        folder: Folder of the run.
        settings: Resolved settings of the run.

    Raises:
        ConfigError: The package is not installed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        wandb = _require("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(project="lary", dir=str(folder), config=dict(settings), mode=mode)

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Send the numbers of one epoch."""
        self._run.log(dict(values), step=epoch)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class SilentLogger:
    """Takes numbers and drops them: what processes other than the first log to."""

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Drop the numbers."""

    def close(self) -> None:
        """Nothing is open."""


_LOGGERS: dict[str, Callable[[Path, Mapping[str, Any]], MetricLogger]] = {
    "jsonl": JsonLinesLogger,
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
}


def list_loggers() -> tuple[str, ...]:
    """Return the names of all loggers."""
    return tuple(_LOGGERS)


def open_logger(name: str, folder: Path, settings: Mapping[str, Any] | None = None) -> MetricLogger:
    """Open a logger for one run; in processes other than the first one that drops everything.

    Args:
        name: `jsonl`, `tensorboard` or `wandb`.
        folder: Folder of the run; the logger writes inside it.
        settings: Resolved settings of the run.

    Raises:
        UnknownNameError: There is no such logger; the message lists the known ones.
        ConfigError: Its package is not installed.
    """
    if name not in _LOGGERS:
        raise UnknownNameError("logger", name, _LOGGERS)
    return _LOGGERS[name](folder, settings or {}) if is_main_process() else SilentLogger()


_EXTRA = {"tensorboard": "tensorboard>=2.18,<3", "wandb": "wandb>=0.24,<0.28"}  # the extra `loggers`


def _require(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            expected=f"the package {package} for this logger",
            got="not installed",
            fix=f'Install it with: pip install "{_EXTRA.get(package, package)}", or use the logger jsonl.',
        ) from error
