"""What all stages of one run share: configuration, folders, device, loaded encoders."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lary_policy import __version__
from lary_policy.actions import Embodiment, load_embodiment
from lary_policy.encoders import LatentEncoder
from lary_policy.errors import UnknownNameError
from lary_policy.heads import load_head_config
from lary_policy.latents import store_dtype
from lary_policy.machine import available_cores, resolve_device
from lary_policy.stages.cells import Cell, digest
from lary_policy.stages.config import EncoderChoice, SuiteConfig
from lary_policy.stages.encoder_shelf import EncoderShelf

# Raised when a stage computes something else from the same inputs, so that old cells are not reused.
STAGE_VERSIONS = {"data": 2, "extract": 2, "probe": 6, "rollout": 2}
PACKAGES = ("torch", "transformers", "timm", "lerobot", "mujoco", "mujoco-warp", "warp-lang", "numpy")


@dataclass
class RunContext:
    """One run of one or more stages.

    Attributes:
        config: What to do.
        device: Resolved torch device.
        cache: Folder of finished cells, shared by all runs of an output folder.
        cores: CPU cores that may be used.
        shelf: The encoders.
    """

    config: SuiteConfig
    device: str
    cache: Path
    cores: int
    shelf: EncoderShelf

    @classmethod
    def create(cls, config: SuiteConfig) -> RunContext:
        """Resolve the device and check every name before anything is computed.

        Raises:
            UnknownNameError: A task, encoder, head or camera does not exist.
            WeightsMissingError: The weights of an encoder are absent.
            ConfigError: CUDA is asked for and not there.
            SimulationError: The meshes of `looks=menagerie` are missing or do not fit.
        """
        from lary_envs.tasks import task_spec

        for task in config.tasks:
            spec = task_spec(task)
            if config.looks == "menagerie":
                from lary_envs.scene import require_counterpart

                require_counterpart(spec.embodiment)
            for camera in config.cameras:
                if camera not in spec.cameras:
                    raise UnknownNameError(f"camera of task {task}", camera, spec.cameras)
        for probe in config.probes:
            load_head_config(probe.head)
        device = resolve_device(config.device)
        shelf = EncoderShelf(device, config.seed, config.image_px)
        for choice in config.encoders:
            shelf.check(choice)
        return cls(config, device, config.output_dir / "cache", available_cores(), shelf)

    def embodiment_of(self, task: str) -> Embodiment:
        """Return the action layout of a task."""
        from lary_envs.tasks import task_spec

        return load_embodiment(task_spec(task).embodiment)

    def image_px(self, choice: EncoderChoice) -> int:
        """Return the input size of an encoder, see `EncoderShelf.image_px`."""
        return self.shelf.image_px(choice)

    def encoder(self, choice: EncoderChoice) -> LatentEncoder:
        """Load an encoder once."""
        return self.shelf.load(choice)

    def encoder_key(self, choice: EncoderChoice) -> dict[str, Any]:
        """Return what an encoder's latents depend on, without building it."""
        return self.shelf.key(choice)

    def latents_dtype(self, choice: EncoderChoice) -> str:
        """Return the dtype that an encoder's latents are stored in."""
        return store_dtype(self.config.latents_dtype, self.config.protocol, self.shelf.dtype(choice))

    def weights_key(self, choice: EncoderChoice) -> str:
        """Return the hash of the weights an encoder would load, see `EncoderShelf.weights_key`."""
        return self.shelf.weights_key(choice)

    def cell(self, stage: str, label: str, *inputs: Any) -> Cell:
        """Return the cell of a stage for the given inputs."""
        return Cell(stage, label, digest(STAGE_VERSIONS[stage], __version__, *inputs), self.cache)


def environment(context: RunContext) -> dict[str, str]:
    """Return what every result of a run carries, see `machine_facts`."""
    c = context.config
    return machine_facts(context.device, context.cores, c.seed, c.protocol)


def machine_facts(device: str, cores: int, seed: int, protocol: str) -> dict[str, str]:
    """Return versions, device, cores, seed and git revision, as every result carries them."""
    import torch

    versions = {name: _version(name) for name in PACKAGES}
    gpu = torch.cuda.get_device_name(device) if device != "cpu" else "none"
    return {
        "lary_policy": __version__,
        **versions,
        "python": platform.python_version(),
        "device": device,
        "gpu": gpu,
        "cpu cores": str(cores),
        "git": git_revision(),
        "seed": str(seed),
        "protocol": protocol,
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def git_revision() -> str:
    """Return the commit of the checkout the package runs from (`-dirty` if changed), or `not a checkout`."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return "not a checkout"
    return done.stdout.strip() if done.returncode == 0 else "not a checkout"
