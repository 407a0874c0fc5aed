"""One render context of MuJoCo Warp, over the buffers of a physics engine or over its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import mujoco
import torch
import warp as wp
from torch import Tensor

from lary_envs.devices import LaunchGraph, can_record, init_warp, launches_on
from lary_envs.physics import POSE_FIELDS, WarpPhysics
from lary_envs.rendering.tree import FreshTree

# A context's kernel is built at its first launch, and Warp cannot build two at the same time: one of them may
# lack a kind of geometry: whoever makes a tracer for threads holds this until it is built.
BUILDING = threading.Lock()
# Of the kernel on a CPU: without NaN, a minimum is one instruction. The same pictures, a fifth sooner.
_NUMBERS_ONLY = "-menable-no-nans -fno-signed-zeros -Wno-nan-infinity-disabled"
# Model fields that the tracer reads. Those of cameras and lights' directions reach it as poses.
_LOOK_FIELDS = (
    "geom_rgba", "geom_size", "mat_rgba", "mat_texid", "light_ambient", "light_diffuse", "light_specular",
)  # fmt: skip


def view_fields(vary: Sequence[str]) -> tuple[str, ...]:
    """Return the fields that decide what a world looks like: poses, and what varies between worlds."""
    return (*POSE_FIELDS, *(name for name in _LOOK_FIELDS if name in vary))


class Tracer:
    """Traces all worlds of one model and data of MuJoCo Warp.

    Args:
        cameras: Names of the cameras c, in the order of the output.
        image_px: Height and width of a frame.
        shadow_light: Share of a light that reaches where it casts a shadow.
        inputs: Names of the fields that `trace` is given for each world; none where an engine writes them.

    Attributes:
        num_worlds: Worlds w.
        context: The render context.
        pixels: Live uint8 view `[w, c, h, w, 4]` (blue, green, red, alpha) of the context's buffer.
    """

    def __init__(
        self, host_model: mujoco.MjModel, model: Any, data: Any, cameras: tuple[str, ...], image_px: int,
        device: torch.device, shadow_light: float, inputs: Sequence[str] = (),
    ) -> None:  # fmt: skip
        import mujoco_warp as mjw

        self.num_worlds = int(data.nworld)
        with launches_on(device):
            context = mjw.create_render_context(
                host_model, nworld=self.num_worlds, cam_res=(image_px, image_px), render_rgb=True,
                render_depth=False, cam_active=list(cameras), use_textures=True, use_shadows=True,
                render_skybox=True, samples_per_pixel=1, shadow_light_fraction=shadow_light,
            )  # fmt: skip
            if device.type == "cpu":
                _sort_meshes(context)
            else:
                FreshTree.into(context, self.num_worlds)
        self.context = context
        packed = wp.to_torch(context.rgb_data).view(torch.uint8)
        self.pixels = packed.view(self.num_worlds, len(cameras), image_px, image_px, 4)
        sources = {name: model if name in _LOOK_FIELDS else data for name in inputs}
        self._inputs = {name: wp.to_torch(getattr(source, name)) for name, source in sources.items()}
        launch = partial(_bound_and_render, model, data, context)
        self._launch = LaunchGraph(launch, device, record=can_record(device))
        self._data = data if inputs and device.type == "cpu" else None

    def build(self) -> None:
        """Launch once, so that threads find the kernel built; whoever calls it holds `BUILDING`."""
        flags = wp.config.cpu_compiler_flags
        wp.config.cpu_compiler_flags = f"{flags or '-march=native'} {_NUMBERS_ONLY}"
        try:
            self._launch()
        finally:
            wp.config.cpu_compiler_flags = flags

    def trace(self, seen: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return new frames, uint8 RGB `[n, c, h, w, 3]`, of all worlds, or of n <= w that look like `seen`.

        These are values `[n, ...]` of the fields named in `inputs`.
        """
        count = self.num_worlds if seen is None else len(seen["geom_xpos"])
        for name, value in (seen or {}).items():
            view = self._inputs[name][:count]
            view.copy_(value.reshape(view.shape))
        if self._data is not None:
            self._data.nworld = count  # launches are of so many worlds: the others' rays are not traced
        self._launch()
        return self.pixels[:count, ..., :3].flip(-1)


def sharing_tracer(
    physics: WarpPhysics, host_model: mujoco.MjModel, cameras: tuple[str, ...], image_px: int,
    device: torch.device, shadow_light: float,
) -> Tracer:  # fmt: skip
    """Return a tracer of an engine's own buffers."""
    return Tracer(host_model, physics.model, physics.data, cameras, image_px, device, shadow_light)


def copying_tracer(
    num_worlds: int, vary: Sequence[str], host_model: mujoco.MjModel, cameras: tuple[str, ...], image_px: int,
    device: torch.device, shadow_light: float,
) -> Tracer:  # fmt: skip
    """Return a tracer with buffers of its own for up to `num_worlds` worlds."""
    init_warp()
    import mujoco_warp as mjw

    names = view_fields(vary)
    with launches_on(device):
        looks = {name: num_worlds for name in names if name in _LOOK_FIELDS}
        model = mjw.put_model(host_model, batch_sizes=looks)
        data = mjw.make_data(host_model, nworld=num_worlds, nconmax=1, njmax=1)
    return Tracer(host_model, model, data, cameras, image_px, device, shadow_light, names)


def _sort_meshes(context: Any) -> None:
    """Build the trees of meshes anew as suits a CPU: the same pictures, a tenth sooner."""
    old = [context.mesh_registry[int(i)] for i in context.mesh_bvh_id.numpy()]
    new = [wp.Mesh(mesh.points, mesh.indices, bvh_constructor="sah", bvh_leaf_size=4) for mesh in old]
    context.mesh_registry = {mesh.id: mesh for mesh in new}
    context.mesh_bvh_id = wp.array([mesh.id for mesh in new], dtype=wp.uint64, device="cpu")


def _bound_and_render(model: Any, data: Any, context: Any) -> None:
    import mujoco_warp as mjw

    mjw.refit_bvh(model, data, context)
    mjw.render(model, data, context)
