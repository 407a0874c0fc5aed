"""Frames from MuJoCo Warp's batch ray tracer, on a CPU or a GPU, without OpenGL.

MuJoCo Warp's physics on the same device lends the tracer its own model and data: nothing is copied but the
finished pixels, on the device. With any other physics the poses of the worlds to be seen, and the colours and
sizes that vary between worlds, are copied to the tracer; it runs no kinematics and no physics. On a CPU one
launch uses one core and releases the interpreter lock, so a few threads trace small groups of worlds. A GPU's
first frames are compared with the CPU's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import mujoco
import numpy as np
import torch
from torch import Tensor

from lary_envs.devices import launches_on, torch_device
from lary_envs.physics import Posed, WarpPhysics
from lary_envs.rendering.check import FrameCheck
from lary_envs.rendering.tracer import BUILDING, Tracer, copying_tracer, sharing_tracer, view_fields
from lary_policy.errors import SimulationError
from lary_policy.machine import free_memory

_LARGEST_PX = 8192  # beyond it, frames of one launch outgrow the 32-bit indices of its arrays
_GROUP_WORLDS = 8  # of a CPU launch: small enough to share among threads, large enough to hide the launch


def camera_names(model: mujoco.MjModel) -> tuple[str, ...]:
    """Return the names of a model's cameras in order."""
    return tuple(model.camera(i).name for i in range(model.ncam))


def _require_room(frames: int, image_px: int) -> None:
    needed, free = 3 * frames * image_px**2, free_memory()
    if image_px > _LARGEST_PX or needed > free:
        raise SimulationError(
            expected=f"frames of at most {_LARGEST_PX} px that fit into {free / 1e9:.1f} GB",
            got=f"{frames} of {image_px} px, {needed / 1e9:,.1f} GB",
            fix="Choose a smaller image_px, or a smaller num_worlds.",
        )


class RayTracer:
    """Renders any subset of w worlds.

    Args:
        cameras: Names of the cameras c, in the order of the output.
        image_px: Height and width of a frame.
        num_threads: Threads on a CPU; all cores by default.
        shadow_light: Share of a light that reaches where it casts a shadow.

    Raises:
        UnknownNameError: Unknown device.
        SimulationError: CUDA asked for and not there, or frames too large for the memory.
    """

    def __init__(
        self, model: mujoco.MjModel, num_worlds: int, cameras: tuple[str, ...], image_px: int, *,
        device: str | torch.device = "cpu", num_threads: int | None = None, shadow_light: float = 0.3,
    ) -> None:  # fmt: skip
        self.device = torch_device(device)
        self._model, self._num_worlds, self._cameras, self._image_px = model, num_worlds, cameras, image_px
        self._threads, self._shadow_light = num_threads or os.cpu_count() or 1, shadow_light
        if self.device.type == "cpu":
            _require_room(num_worlds * len(cameras), image_px)
        self._physics: Posed | None = None
        self._tracers: list[Tracer] = []
        self._pool: ThreadPoolExecutor | None = None
        self._check: FrameCheck | None = None

    def render(self, physics: Posed, worlds: Sequence[int] | Tensor | None = None) -> Tensor:
        """Return uint8 RGB `[n, c, h, w, 3]` of the n given worlds (all by default) on the render device.

        The frames are the caller's own: the next call does not change them.

        Raises:
            DeviceError: The first frames of a GPU, or those after ten more calls, are not those of the CPU.
        """
        if physics is not self._physics:
            self._attach(physics)
        index = (
            torch.arange(self._num_worlds) if worlds is None else torch.as_tensor(worlds, dtype=torch.long)
        )
        with launches_on(self.device):
            if self._shares(physics):
                frames = self._tracers[0].trace()
                frames = frames if worlds is None else frames[index.to(self.device, non_blocking=True)]
            else:
                frames = self._render_copies(physics, index)
        if self._check is not None:
            self._check(frames, partial(_seen, physics), index)
        return frames

    def doubt(self) -> None:
        """Have a GPU's next frames compared with the CPU's, because worlds were reset; twice at most."""
        if self._check is not None:
            self._check.doubt()

    def close(self) -> None:
        """Stop the threads, wait for the device and free the contexts."""
        if self._pool is not None:
            self._pool.shutdown()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._pool, self._physics, self._check = None, None, None
        self._tracers.clear()

    def _shares(self, physics: Posed) -> bool:
        return isinstance(physics, WarpPhysics) and physics.device == self.device

    def _attach(self, physics: Posed) -> None:
        """Make tracers for the worlds of one engine."""
        self.close()
        self._physics = physics
        look = (self._model, self._cameras, self._image_px, self.device, self._shadow_light)
        if self.device.type != "cpu":
            self._check = FrameCheck(partial(self._trace_on_cpu, physics), self._cameras, str(self.device))
        if isinstance(physics, WarpPhysics) and self._shares(physics):
            self._tracers = [sharing_tracer(physics, *look)]
            return
        on_cpu = self.device.type == "cpu"
        group = min(_GROUP_WORLDS, self._num_worlds) if on_cpu else self._num_worlds
        threads = min(self._threads, -(-self._num_worlds // group)) if on_cpu else 1
        with BUILDING:
            self._tracers = [copying_tracer(group, physics.vary, *look) for _ in range(threads)]
            for tracer in self._tracers:
                tracer.build()
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def _render_copies(self, physics: Posed, index: Tensor) -> Tensor:
        seen = _seen(physics, index)
        size = self._tracers[0].num_worlds
        groups = [{k: v[i : i + size] for k, v in seen.items()} for i in range(0, len(index), size)]
        shares = [groups[i :: len(self._tracers)] for i in range(len(self._tracers))]
        run = self._pool.map if self._pool is not None else map
        rendered = list(run(_trace_all, self._tracers, shares))
        return torch.cat([rendered[i % len(shares)][i // len(shares)] for i in range(len(groups))])

    def _trace_on_cpu(self, physics: Posed, seen: Mapping[str, Tensor]) -> Tensor:
        """Return the CPU's frames `[n c h w 3]` of worlds that look like `seen`."""
        count, cpu = len(seen["geom_xpos"]), torch.device("cpu")
        look = (self._model, self._cameras, self._image_px, cpu, self._shadow_light)
        with BUILDING, launches_on(cpu):
            tracer = copying_tracer(count, physics.vary, *look)
            tracer.build()
            return tracer.trace(seen)


def _seen(physics: Posed, worlds: Tensor) -> dict[str, Tensor]:
    """Return the fields `[n ...]` that decide what the given worlds look like."""
    index = worlds.to(physics.device)
    return {name: physics.field(name)[index] for name in view_fields(physics.vary)}


def _trace_all(tracer: Tracer, groups: Sequence[dict[str, Tensor]]) -> list[Tensor]:
    return [tracer.trace(group) for group in groups]


type Rgb = tuple[float, float, float]


def wood(size_px: int, *, planks: int = 6, seed: int = 0, rgb: Rgb = (0.80, 0.68, 0.52)) -> np.ndarray:
    """Return a wooden board, light by default, uint8 `[size_px, size_px, 3]`, the same for the same seed.

    Low contrast on purpose: the texture gives the encoder something real to see without hiding objects.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size_px, 0:size_px] / size_px
    plank = np.minimum((columns * planks).astype(int), planks - 1)
    shift, tone = rng.uniform(0, 10, planks)[plank], rng.uniform(-0.05, 0.05, planks)[plank]
    wave = np.sin(2 * np.pi * (rows * 1.5 + shift)) * 0.02 + columns
    grain = np.sin(2 * np.pi * 38 * wave + shift) * 0.03 + rng.normal(0, 0.012, (size_px, size_px))
    gap = np.where((columns * planks) % 1 < 0.03, -0.14, 0.0)
    return _coloured(1 + tone + grain + gap, rgb)


def stone(size_px: int, *, seed: int = 0, rgb: Rgb = (0.62, 0.63, 0.66)) -> np.ndarray:
    """Return grey stone, uint8 `[size_px, size_px, 3]`: speckles of three sizes."""
    rng = np.random.default_rng(seed)
    shade = np.ones((size_px, size_px))
    for cell in (1, 4, 16):
        spots = rng.normal(0, 0.05, (-(-size_px // cell),) * 2)
        shade += np.kron(spots, np.ones((cell, cell)))[:size_px, :size_px]
    return _coloured(shade, rgb)


def cloth(size_px: int, *, seed: int = 0, rgb: Rgb = (0.55, 0.62, 0.70)) -> np.ndarray:
    """Return checked cloth, uint8 `[size_px, size_px, 3]`: stripes both ways and the threads between them."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size_px, 0:size_px] / size_px
    stripes = sum(np.where((way * 8) % 1 < 0.5, 0.08, -0.08) for way in (rows, columns))
    return _coloured(1 + stripes + rng.normal(0, 0.03, (size_px, size_px)), rgb)


# What a table may look like; `wood` is the plain scene's.
TABLE_TEXTURES: Mapping[str, Callable[[int], np.ndarray]] = {
    "wood": wood,
    "oak": partial(wood, planks=5, seed=1, rgb=(0.72, 0.58, 0.42)),
    "walnut": partial(wood, planks=7, seed=2, rgb=(0.58, 0.45, 0.34)),
    "beech": partial(wood, planks=9, seed=3, rgb=(0.84, 0.74, 0.62)),
    "stone": stone,
    "cloth": cloth,
}


def _coloured(shade: np.ndarray, rgb: Rgb) -> np.ndarray:
    colour = np.array(rgb) * shade[..., None]
    return (np.clip(colour, 0, 1) * 255).round().astype(np.uint8)
