"""MetaWorldEnv: w worlds of one of MetaWorld's tasks, with the methods of `lary_envs.SimEnv`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lary_envs.devices import torch_device
from lary_envs.kinematics import Layout
from lary_envs.metaworld.controller import SawyerController
from lary_envs.metaworld.expert import SawyerExpert
from lary_envs.metaworld.simulator import make_simulator
from lary_envs.metaworld.views import GoalScene
from lary_envs.tasks import TaskSpec, TaskWorlds
from lary_policy.actions import ActionContract, load_embodiment, quat_wxyz_to_matrix
from lary_policy.errors import ShapeError, UnknownNameError, require_one
from lary_policy.machine import available_cores

if TYPE_CHECKING:
    from lary_envs.rendering import RayTracer

_BEST_REWARD = 10.0  # MetaWorld's shaped rewards reach it with success
_ALMOST = 0.99  # progress without success
# MuJoCo starts a world again by itself when its state is lost: it says so here.
_LOST = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
_ONLY = {"physics": ("auto", "mujoco"), "randomisation": ("none",), "looks": ("primitives",)}


class MetaWorldEnv(TaskWorlds):
    """A batch of worlds of one of MetaWorld's tasks.

    Physics, initial states, success, rewards and experts are MetaWorld's; only who draws the pictures is not.
    The 39 numbers that MetaWorld calls an observation hold the goal and are shown to its expert alone.

    Args:
        spec: The task.
        num_worlds: Worlds w.
        cameras: Cameras c to render, out of the task's; fixed ones of MetaWorld are turned the right way up.
        image_px: Height and width of a frame.
        render_device: `cpu`, `cuda` or `cuda:1`; where frames are traced and returned. Physics is on the CPU.
        num_threads: Threads of physics and rendering; all cores by default.
        guard_folder: Taken as by `SimEnv`, but nothing is recorded: a seed and its actions repeat an episode.
        settings: `physics`, `randomisation`, `looks` and `deterministic`, which have one value here.

    Attributes:
        task: Spec of the task.
        own_name: What MetaWorld calls it.
        layout: Converts between actions and arm poses.
        contract: What the numbers of an absolute action mean, and at which rate they come.
        device: Where states, targets and commands live: the CPU.
        workspace_m: Low and high corner of where the tool can be sent.

    Raises:
        UnknownNameError: Unknown camera or device, or a setting that MetaWorld's worlds do not have.
        SimulationError: MetaWorld is missing or of another version, a count below 1, or CUDA not there.
    """

    device = torch.device("cpu")

    def __init__(
        self, spec: TaskSpec, num_worlds: int, *, cameras: Sequence[str] = ("front",), image_px: int = 112,
        render_device: str = "cpu", num_threads: int | None = None, guard_folder: Path | None = None,
        **settings: Any,
    ) -> None:  # fmt: skip
        self.task, self.num_worlds, self.cameras, self.image_px = spec, num_worlds, tuple(cameras), image_px
        self._check_arguments(settings)
        self.own_name = spec.name.rpartition("/")[2]
        embodiment = load_embodiment(spec.embodiment)
        self.layout = Layout(embodiment, ("single",))
        self.contract = replace(ActionContract.of(embodiment, "absolute"), control_hz=spec.control_hz)
        self._threads = num_threads or available_cores()
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None
        self._render_device = torch_device(render_device)
        first = make_simulator(self.own_name, 0)
        self.workspace_m = (tuple(first.mocap_low.tolist()), tuple(first.mocap_high.tolist()))
        self._scene = GoalScene(first.fullpath, first.model, num_worlds, image_px)
        self._objects = len(first._get_pos_objects()) // 3
        self._turns = bool(np.linalg.norm(first._get_quat_objects()[:4]) > 0)
        self._sims: list[Any] = [first] * num_worlds
        self._tracer: RayTracer | None = None
        w = num_worlds
        self._seen = np.zeros((w, 39))  # MetaWorld's observation
        self._start, self._best, self._success, self._lost = np.zeros(w), np.zeros(w), *np.zeros((2, w), bool)
        self._ever = np.zeros(w, bool)

    def reset(self, seeds: Sequence[int], worlds: Sequence[int] | None = None) -> None:
        """Start a new episode in the given worlds (all by default); it depends on the world's seed alone.

        Raises:
            SimulationError: Not one seed a world, or a world index out of range.
        """
        chosen = self._indices(worlds)
        self._require_seeds(seeds, len(chosen))
        made = self._each(lambda seed: make_simulator(self.own_name, seed), list(seeds))
        for world, sim in zip(chosen, made, strict=True):
            self._sims[world] = sim
            self._seen[world] = sim._last_stable_obs
            reward, _ = sim.evaluate_state(self._seen[world], np.zeros(4))
            self._start[world] = self._best[world] = min(float(reward), _BEST_REWARD * _ALMOST)
            mujoco.mj_kinematics(
                sim.model, sim.data
            )  # some tasks move things after they last did: for pictures
            mujoco.mj_camlight(sim.model, sim.data)
        self._success[chosen] = self._lost[chosen] = self._ever[chosen] = False
        if self._tracer is not None:
            self._tracer.doubt()

    def step(self, commands: Tensor, *, validate: bool = True) -> None:
        """Run one control step (12.5 ms) with MetaWorld's actions `[w, 4]`, see `SawyerController.command`.

        Raises:
            ShapeError: Wrong shape or, with `validate`, non-finite values.
        """
        actions = commands.detach().cpu().double().numpy()
        if actions.shape != (self.num_worlds, 4) or (validate and not np.isfinite(actions).all()):
            raise ShapeError(
                expected=f"finite actions of MetaWorld of shape [{self.num_worlds}, 4]",
                got=f"{actions.shape}, finite: {bool(np.isfinite(actions).all())}",
                fix="Use SawyerController.command to make them.",
            )
        self._each(lambda world: self._step_one(world, actions[world]), list(range(self.num_worlds)))

    def frames(self, worlds: Sequence[int] | None = None) -> Tensor:
        """Render uint8 RGB `[n, c, h, w, 3]` of the given worlds (all by default) on the render device.

        Raises:
            SimulationError: A world index is out of range.
        """
        chosen = self._indices(worlds)
        for world in chosen:
            self._scene.show(world, self._sims[world].data)
        if self._tracer is None:
            from lary_envs.rendering import RayTracer

            self._tracer = RayTracer(
                self._scene.model, self.num_worlds, self._scene.names(self.cameras), self.image_px,
                device=self._render_device, num_threads=self._threads, shadow_light=0.0,
            )  # fmt: skip
        return self._tracer.render(self._scene, chosen)

    def proprio(self) -> Tensor:
        """Return the measured position of the tool and the opening `[w, 4]`, float32."""
        return torch.from_numpy(self._seen[:, :4]).float()

    def joints(self) -> Tensor:
        """Return what the controller starts from `[w, 4]`: where the tool was sent, and an open gripper."""
        sent = np.stack([sim.data.mocap_pos[0] for sim in self._sims])
        return torch.from_numpy(np.concatenate([sent, np.ones((self.num_worlds, 1))], -1))

    def success(self) -> Tensor:
        """Return bool `[w]`: MetaWorld says that the task is done now."""
        return torch.from_numpy(self._success.copy())

    def progress(self) -> Tensor:
        """Return float32 `[w]`: how far MetaWorld's shaped reward rose since the start, 1 once it succeeded.

        It is the share of the way from the reward of the initial state to the best one, 10, at its highest.
        """
        share = (self._best - self._start) / (_BEST_REWARD - self._start)
        return torch.from_numpy(np.where(self._ever, 1.0, share.clip(0.0, _ALMOST))).float()

    def diverged(self) -> Tensor:
        """Return bool `[w]`: the world's state was lost since its reset."""
        return torch.from_numpy(self._lost.copy())

    def check(self) -> None:
        """Do nothing: MuJoCo has room for every contact, and lost worlds are found at each step."""

    def state(self) -> dict[str, Tensor]:
        """Return float32 `[w, q]` of tool, objects and goal by name.

        Positions are in metres. Rotations are two columns of the matrix of MetaWorld's quaternion, which has
        its real part first in some tasks and last in others: angles between two of them are right.
        """
        seen = torch.from_numpy(self._seen)
        named = {"tool_pos": seen[:, :3], "tool_gripper": seen[:, 3:4]}
        for i, prefix in enumerate(("object", "object_2")[: self._objects]):
            first = 4 + 7 * i
            named[f"{prefix}_pos"] = seen[:, first : first + 3]
            if self._turns:
                matrix = quat_wxyz_to_matrix(seen[:, first + 3 : first + 7])
                named[f"{prefix}_rot"] = matrix[..., :2].transpose(-1, -2).flatten(-2)
        named["goal_pos"] = torch.from_numpy(np.stack([sim._target_pos for sim in self._sims]))
        return {name: value.float() for name, value in named.items()}

    def observed(self) -> NDArray[np.float64]:
        """Return MetaWorld's observations `[w, 39]`, goal included: for its experts, never for a head."""
        return self._seen

    def controller(self) -> SawyerController:
        """Return a controller for these worlds."""
        return SawyerController(self.num_worlds, *self.workspace_m)

    def expert(self) -> SawyerExpert:
        """Return MetaWorld's expert for these worlds."""
        return SawyerExpert(self)

    def close(self) -> None:
        """Free renderer and threads; the environment must not be used afterwards."""
        if self._tracer is not None:
            self._tracer.close()
            self._tracer = None
        if self._pool is not None:
            self._pool.shutdown()

    def _step_one(self, world: int, action: NDArray[np.float64]) -> None:
        if self._lost[world] or not np.isfinite(action).all():
            return
        sim = self._sims[world]
        seen, reward, _, _, info = sim.step(action)
        lost = any(sim.data.warning[kind].number for kind in _LOST) or not np.isfinite(seen).all()
        self._lost[world] = lost
        self._success[world] = bool(info["success"]) and not lost
        if not lost:
            self._seen[world] = seen
            self._ever[world] |= self._success[world]
            self._best[world] = max(self._best[world], float(reward))

    def _each[T](self, call: Any, items: list[T]) -> list[Any]:
        """Return what a call makes of each item, on as many threads as there are."""
        return list(map(call, items) if self._pool is None else self._pool.map(call, items))

    def _indices(self, worlds: Sequence[int] | None) -> list[int]:
        return list(range(self.num_worlds)) if worlds is None else self._world_indices(worlds)

    def _check_arguments(self, settings: dict[str, Any]) -> None:
        for name, value in settings.items():
            if name not in (*_ONLY, "deterministic"):
                raise UnknownNameError("setting of MetaWorld's worlds", name, (*_ONLY, "deterministic"))
            if name in _ONLY and value not in _ONLY[name]:
                raise UnknownNameError(f"{name} of MetaWorld's worlds", str(value), _ONLY[name])
        for camera in self.cameras:
            if camera not in self.task.cameras:
                raise UnknownNameError("camera", camera, self.task.cameras)
        require_one(num_worlds=self.num_worlds, image_px=self.image_px, cameras=len(self.cameras))
