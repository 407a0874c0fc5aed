"""Frames from MuJoCo Warp's batch ray tracer, on a CPU or a GPU, without OpenGL.

Only poses are copied to the tracer; it runs no kinematics and no physics. On a CPU one Warp launch uses one
core and releases the interpreter lock, so worlds are traced in small groups by a few threads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import mujoco
import torch
import warp as wp
from torch import Tensor

from lary_envs.backend import POSE_FIELDS, Physics

wp.config.log_level = wp.LOG_WARNING  # it reports every kernel module otherwise

_GROUP_WORLDS = 8  # of a CPU launch: small enough to share among threads, large enough to hide the launch


class _Tracer:
    """One render context for a fixed number of worlds."""

    def __init__(
        self, model: mujoco.MjModel, worlds: int, cameras: tuple[str, ...], image_px: int, device: str
    ) -> None:
        import mujoco_warp as mjw

        self._mjw, self._device, self.worlds = mjw, device, worlds
        self._shape = (worlds, len(cameras), image_px, image_px, 4)
        with wp.ScopedDevice(device):
            self._model = mjw.put_model(model)
            self._data = mjw.make_data(model, nworld=worlds, nconmax=1, njmax=1)
            self._context = mjw.create_render_context(
                model, nworld=worlds, cam_res=(image_px, image_px), render_rgb=True, render_depth=False,
                cam_active=[name in cameras for name in camera_names(model)], use_textures=True,
                use_shadows=True, render_skybox=True, samples_per_pixel=1,
            )  # fmt: skip
        self._poses = {name: wp.to_torch(getattr(self._data, name)) for name in POSE_FIELDS}

    def trace(self, poses: dict[str, Tensor]) -> Tensor:
        """Render poses `[n, ...]` of n <= worlds worlds; return uint8 RGB `[n, c, h, w, 3]`."""
        count = len(poses["geom_xpos"])
        for name, view in self._poses.items():
            view[:count].copy_(poses[name].reshape(count, *view.shape[1:]))
        with _on_torch_stream(self._device):
            self._mjw.refit_bvh(self._model, self._data, self._context)
            self._mjw.render(self._model, self._data, self._context)
        packed = wp.to_torch(self._context.rgb_data).view(torch.uint8).reshape(self._shape)
        return packed[:count, ..., [2, 1, 0]]  # the tracer packs B, G, R, A


def camera_names(model: mujoco.MjModel) -> tuple[str, ...]:
    """Return the names of a model's cameras in order."""
    return tuple(model.camera(i).name for i in range(model.ncam))


class RayTracer:
    """Renders any subset of w worlds.

    Args:
        model: The compiled scene.
        num_worlds: Worlds w.
        cameras: Names of the cameras c, in the order of the output.
        image_px: Height and width of a frame.
        device: `cpu` or `cuda`.
        num_threads: Threads on a CPU; all cores by default.
    """

    def __init__(
        self, model: mujoco.MjModel, num_worlds: int, cameras: tuple[str, ...], image_px: int, *,
        device: str = "cpu", num_threads: int | None = None,
    ) -> None:  # fmt: skip
        self._order = _output_order(model, cameras)
        self.device = torch.device(device)
        on_cpu = self.device.type == "cpu"
        threads = (num_threads or os.cpu_count() or 1) if on_cpu else 1
        group = min(_GROUP_WORLDS, num_worlds) if on_cpu else num_worlds
        threads = min(threads, -(-num_worlds // group))
        self._tracers = [_Tracer(model, group, cameras, image_px, device) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def render(self, physics: Physics, worlds: Sequence[int]) -> Tensor:
        """Return uint8 RGB `[n, c, h, w, 3]` of the n given worlds on the render device."""
        index = torch.as_tensor(list(worlds), dtype=torch.long)
        poses = {name: physics.field(name)[index] for name in POSE_FIELDS}
        size = self._tracers[0].worlds
        groups = [{k: v[i : i + size] for k, v in poses.items()} for i in range(0, len(index), size)]
        shares = [groups[i :: len(self._tracers)] for i in range(len(self._tracers))]
        run = self._pool.map if self._pool is not None else map
        rendered = list(run(_trace_all, self._tracers, shares))
        frames = [rendered[i % len(shares)][i // len(shares)] for i in range(len(groups))]
        return torch.cat(frames)[:, self._order]

    def close(self) -> None:
        """Stop the threads and free the contexts."""
        if self._pool is not None:
            self._pool.shutdown()
        self._tracers.clear()


def _on_torch_stream(device: str) -> AbstractContextManager[object]:
    """Order launches after the pose copies: on CUDA by sharing torch's stream, on a CPU they are anyway."""
    if device == "cpu":
        return wp.ScopedDevice(device)
    return wp.ScopedStream(wp.stream_from_torch(torch.cuda.current_stream(torch.device(device))))


def _trace_all(tracer: _Tracer, groups: Sequence[dict[str, Tensor]]) -> list[Tensor]:
    return [tracer.trace(group) for group in groups]


def _output_order(model: mujoco.MjModel, cameras: tuple[str, ...]) -> list[int]:
    """Return where each wanted camera lies among the active ones (the tracer keeps the model's order)."""
    active = [name for name in camera_names(model) if name in cameras]
    return [active.index(name) for name in cameras]
