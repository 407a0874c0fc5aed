"""What all stages of one run share: configuration, folders, device, loaded encoders."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lary_policy import __version__
from lary_policy.device import resolve_device
from lary_policy.embodiment import Embodiment, load_embodiment
from lary_policy.encoders import LatentEncoder, encoder_spec, load_encoder, weights_status
from lary_policy.encoders.weights import DRAWN, resolve_weights
from lary_policy.errors import UnknownNameError
from lary_policy.heads import load_head_config
from lary_policy.heads.precision import resolve_precision
from lary_policy.stages.cells import Cell, digest
from lary_policy.stages.config import EncoderChoice, SuiteConfig
from lary_policy.threads import available_cores

# Raised when a stage computes something else from the same inputs, so that old cells are not reused.
STAGE_VERSIONS = {"data": 2, "extract": 2, "probe": 5, "rollout": 2}
PACKAGES = ("torch", "transformers", "timm", "lerobot", "mujoco", "mujoco-warp", "warp-lang", "numpy")


@dataclass
class RunContext:
    """One run of one or more stages.

    Attributes:
        config: What to do.
        device: Resolved torch device.
        cache: Folder of finished cells, shared by all runs of an output folder.
        cores: CPU cores that may be used.
    """

    config: SuiteConfig
    device: str
    cache: Path
    cores: int
    _encoders: dict[EncoderChoice, LatentEncoder] = field(default_factory=dict)

    @classmethod
    def create(cls, config: SuiteConfig) -> RunContext:
        """Resolve the device and check every name before anything is computed.

        Raises:
            UnknownNameError: A task, encoder, head or camera does not exist.
            WeightsMissingError: The weights of an encoder are absent.
            ConfigError: CUDA is asked for and not there.
            SimulationError: The meshes of `looks=menagerie` are missing or do not fit.
        """
        from lary_envs import task_spec

        for task in config.tasks:
            spec = task_spec(task)
            if config.looks == "menagerie":
                from lary_envs.menagerie import require_counterpart

                require_counterpart(spec.embodiment)
            for camera in config.cameras:
                if camera not in spec.cameras:
                    raise UnknownNameError(f"camera of task {task}", camera, spec.cameras)
        for probe in config.probes:
            load_head_config(probe.head)
        context = cls(config, resolve_device(config.device), config.output_dir / "cache", available_cores())
        for choice in config.encoders:
            spec = encoder_spec(choice.name)
            spec.latent_at(context.image_px(choice))
            spec.preprocess_named(choice.preprocess)
            spec.output_named(choice.output, choice.preprocess)
            context.weights_key(choice)
        return context

    def embodiment_of(self, task: str) -> Embodiment:
        """Return the action layout of a task."""
        from lary_envs import task_spec

        return load_embodiment(task_spec(task).embodiment)

    def image_px(self, choice: EncoderChoice) -> int:
        """Return the input size of an encoder: its own choice, or the size of the frames.

        Encoders whose tokens do not follow the input's size keep the one that they were trained at.
        """
        if choice.image_px is not None:
            return choice.image_px
        spec = encoder_spec(choice.name)
        return spec.default_image_px(choice.preprocess) if spec.patch_px is None else self.config.image_px

    def dtype(self, choice: EncoderChoice) -> str:
        """Return the dtype of an encoder: `auto` is bfloat16 where the hardware multiplies it natively."""
        if choice.dtype != "auto":
            return choice.dtype
        return str(resolve_precision("auto", self.device)).removeprefix("torch.")

    def encoder(self, choice: EncoderChoice) -> LatentEncoder:
        """Load an encoder once."""
        if choice not in self._encoders:
            self._encoders[choice] = load_encoder(
                choice.name,
                weights=choice.weights,
                image_px=self.image_px(choice),
                preprocess=choice.preprocess,
                dtype=self.dtype(choice),
                device=self.device,
                seed=self.config.seed,
                output=choice.output,
            )
        return self._encoders[choice]

    def encoder_key(self, choice: EncoderChoice) -> dict[str, Any]:
        """Return what an encoder's latents depend on, without building it."""
        return {
            "choice": replace(choice, image_px=self.image_px(choice), dtype=self.dtype(choice)),
            "weights": self.weights_key(choice),
            "code": encoder_spec(choice.name).code_version,
        }

    def weights_key(self, choice: EncoderChoice) -> str:
        """Return the hash of the weights an encoder would load; `auto` may download them.

        Raises:
            WeightsMissingError: They are nowhere; the message names every way to get them.
            WeightsMismatchError: The file does not have the pinned hash.
        """
        if choice.weights in DRAWN:
            return DRAWN[choice.weights](self.config.seed).sha256
        if choice.weights == "auto":
            status = weights_status(choice.name)
            if status.available:
                return status.sha256 or status.source
        return resolve_weights(choice.name, encoder_spec(choice.name).weights, choice.weights)[1].sha256

    def cell(self, stage: str, label: str, *inputs: Any) -> Cell:
        """Return the cell of a stage for the given inputs."""
        return Cell(stage, label, digest(STAGE_VERSIONS[stage], __version__, *inputs), self.cache)


def environment(context: RunContext) -> dict[str, str]:
    """Return versions, device, cores, seed and git revision, as every result carries them."""
    import torch

    versions = {name: _version(name) for name in PACKAGES}
    gpu = torch.cuda.get_device_name(context.device) if context.device != "cpu" else "none"
    return {
        "lary_policy": __version__,
        **versions,
        "python": platform.python_version(),
        "device": context.device,
        "gpu": gpu,
        "cpu cores": str(context.cores),
        "git": git_revision(),
        "seed": str(context.config.seed),
        "protocol": context.config.protocol,
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
