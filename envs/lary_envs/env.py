"""SimEnv: w worlds of one task, stepped together, seen by ray-traced cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from lary_envs.kinematics import Layout
from lary_envs.nan_guard import NanGuard
from lary_envs.physics import Bounded, Measurement, make_physics
from lary_envs.randomisation import VARIED_FIELDS, VariedScene, ranges_of
from lary_envs.robots import robot_of
from lary_envs.scene import TIMESTEP_S, InitialStates, build_model
from lary_envs.tasks import TaskWorlds, WorldState, furthest, task_entry
from lary_policy.actions import ActionContract, load_embodiment
from lary_policy.errors import ShapeError, SimulationError, UnknownNameError, require_one

if TYPE_CHECKING:
    from lary_envs.controller import EndEffectorController
    from lary_envs.rendering import RayTracer
    from lary_envs.tasks import Expert


class Remade:
    """Mixin: `pickle`, `cloudpickle` and `copy.deepcopy` make the object again from its arguments.

    What comes out has not been reset, whatever state the original was in. The `spec` that gymnasium attaches
    to an environment goes with it.
    """

    _made_from: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments."""
        made = super().__new__(cls)
        made._made_from = (args, kwargs)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        attached = {name: value for name, value in vars(self).items() if name == "spec"}
        return _make, (type(self), *self._made_from), attached


def _make(kind: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return kind(*args, **kwargs)


_DEVICES = ("cpu", "cuda")


class SimEnv(Remade, TaskWorlds):
    """A batch of simulated worlds; pickled and copied as its arguments, before its first reset.

    Args:
        task: Name of a task, see `list_tasks`.
        num_worlds: Worlds w.
        cameras: Cameras c to render, out of `TaskSpec.cameras`.
        image_px: Height and width of a frame.
        render_device: `cpu`, `cuda` or `cuda:1`; where frames are traced and returned.
        num_threads: Threads of physics and rendering on a CPU; all cores by default.
        physics: `mujoco` (C engine, CPU), `warp` (MuJoCo Warp on `render_device`) or `auto`: `warp` on CUDA.
        deterministic: Ask `warp` for a fixed order of sums, see `WarpPhysics`; `mujoco` always has one.
        guard_folder: Where the last states of diverged worlds are saved for `lary_envs.nan_guard.replay`;
            None records nothing.
        randomisation: How much colours, sizes, lights, fixed cameras and the table differ between seeds: a
            level of `lary_envs.randomisation.LEVELS`. Initial states are those of `none` in every level.
        looks: Of the robot: `primitives`, or `menagerie` for MuJoCo Menagerie's meshes over the same physics.

    Attributes:
        task: Spec of the task.
        robot: The robot of the task's embodiment.
        layout: Converts between actions and arm poses.
        contract: What the numbers of an absolute action mean, and at which rate they come.
        device: Where states, targets and commands live.

    Raises:
        UnknownNameError: Unknown task, camera, device, engine, level or looks; the message lists valid ones.
        SimulationError: `num_worlds` or `image_px` below 1, no camera, or CUDA asked for and not there.
    """

    def __init__(
        self, task: str, num_worlds: int, *, cameras: Sequence[str] = ("front",), image_px: int = 112,
        render_device: str = "cpu", num_threads: int | None = None, physics: str = "auto",
        deterministic: bool = False, guard_folder: Path | None = None, randomisation: str = "none",
        looks: str = "primitives",
    ) -> None:  # fmt: skip
        entry = task_entry(task)
        self.task = entry.spec
        self.num_worlds, self.cameras, self.image_px = num_worlds, tuple(cameras), image_px
        self._check_arguments(render_device)
        self.robot = robot_of(self.task.embodiment)
        embodiment = load_embodiment(self.task.embodiment)
        self.layout = Layout(embodiment, self.robot.sides)
        contract = ActionContract.of(embodiment, "absolute")
        self.contract = replace(contract, control_hz=self.task.control_hz)
        self._rules = entry.factory()
        ranges = ranges_of(randomisation)
        self._model = build_model(
            self._rules, self.task.embodiment, textures=ranges.textures if ranges else (), looks=looks
        )
        self.num_actuators = int(self._model.nu)
        self._physics = make_physics(
            physics, self._model, num_worlds, device=render_device, num_threads=num_threads,
            contacts=self.robot.contacts, deterministic=deterministic,
            vary=VARIED_FIELDS if ranges else (),
        )  # fmt: skip
        self.device = self._physics.device
        self._measure = Measurement(self.robot, self._model, self._physics)
        self._initial = InitialStates(self._model, self.robot, self._rules)
        self._varied = VariedScene(ranges, self._model, self.robot) if ranges else None
        self._tracer: RayTracer | None = None
        self._render_device, self._num_threads = render_device, num_threads
        self._substeps = round(1 / (self.task.control_hz * TIMESTEP_S))
        self._guard: NanGuard | None = None
        if guard_folder is not None:
            self._guard = NanGuard(
                self._physics, task=task, substeps=self._substeps, folder=guard_folder, looks=looks
            )
        self._seeds = [0] * num_worlds
        self._held = torch.zeros(num_worlds, dtype=torch.long, device=self.device)
        self._passed, self._succeeded = self._held.clone(), self._held.bool()
        self._num_milestones = len(self._rules.milestones(self.world_state()))
        self._diverged = torch.zeros(num_worlds, dtype=torch.bool, device=self.device)

    def reset(self, seeds: Sequence[int], worlds: Sequence[int] | None = None) -> None:
        """Start a new episode in the given worlds (all by default) and leave the others as they are.

        The initial state of a world depends on its seed alone.

        Raises:
            SimulationError: Not one seed a world, or a world index out of range.
        """
        chosen = None if worlds is None else self._world_indices(worlds)
        count = self.num_worlds if chosen is None else len(chosen)
        self._require_seeds(seeds, count)
        for world, seed in zip(range(self.num_worlds) if chosen is None else chosen, seeds, strict=True):
            self._seeds[world] = int(seed)
        index = None if chosen is None else torch.tensor(chosen, device=self.device)
        rise_m = None if self._varied is None else self._varied.write(self._physics, seeds, index)
        self._physics.reset(*self._initial.draw(seeds, rise_m), worlds=index)
        which = slice(None) if index is None else index
        self._held[which], self._passed[which] = 0, 0
        self._succeeded[which] = False
        self._diverged[which] = False
        self._measure.reset(which)
        if self._tracer is not None:
            self._tracer.doubt()

    def step(self, ctrl: Tensor, *, validate: bool = True) -> None:
        """Run one control step (50 ms) with commands `[w, nu]`: joint angles (rad), finger (m) of each arm.

        A world whose state stops being finite is marked by `diverged` and cannot succeed any more.

        Args:
            ctrl: Commands of `EndEffectorController.command`.
            validate: False leaves out the test for non-finite values, which waits for the GPU.

        Raises:
            ShapeError: Wrong shape or non-finite values.
            ContactOverflowError: A world had too many contacts; on a GPU `check` finds out.
        """
        if tuple(ctrl.shape) != (self.num_worlds, self.num_actuators):
            raise ShapeError(
                expected=f"ctrl of shape [{self.num_worlds}, {self.num_actuators}] (joints and fingers)",
                got=f"{tuple(ctrl.shape)}",
                fix="Use EndEffectorController.command to make it.",
            )
        if validate and not torch.isfinite(ctrl).all():
            raise ShapeError(
                expected="finite ctrl",
                got="non-finite values",
                fix="Check targets with EndEffectorController.check.",
            )
        if self._guard is not None:
            self._guard.record(ctrl, ~self._diverged)
        self._physics.step(ctrl, self._substeps)
        state = self.world_state()
        self._diverged |= ~torch.isfinite(self._physics.field("qpos")).all(-1)
        self._held = torch.where(self._rules.holds(state) & ~self._diverged, self._held + 1, 0)
        self._succeeded |= self.success()
        passed = furthest(self._rules.milestones(state).values())
        self._passed = torch.where(self._diverged, self._passed, torch.maximum(self._passed, passed))

    def frames(self, worlds: Sequence[int] | None = None) -> Tensor:
        """Render uint8 RGB `[n, c, h, w, 3]` of the given worlds (all by default) on the render device.

        Raises:
            SimulationError: A world index is out of range.
        """
        chosen = None if worlds is None else self._world_indices(worlds)
        if self._tracer is None:
            self._tracer = self._make_tracer()
        return self._tracer.render(self._physics, chosen)

    def proprio(self) -> Tensor:
        """Return the measured state `[w, a]`, float32, in the action layout of the embodiment."""
        return self.layout.to_action(self._measure.arms()).float()

    def joints(self) -> Tensor:
        """Return the measured joint angles `[w, A * n]`, float32, left arm before right."""
        return self._measure.joints().flatten(1).float()

    def success(self) -> Tensor:
        """Return bool `[w]`: the success condition, with its duration, holds now."""
        return self._held >= self.task.hold_steps

    def diverged(self) -> Tensor:
        """Return bool `[w]`: the world's state stopped being finite since its reset."""
        return self._diverged.clone()

    def check(self) -> None:
        """Make sure that nothing went wrong unseen; on a GPU this waits, so nothing else looks.

        Saves the states of diverged worlds where there is a `guard_folder`.

        Raises:
            ContactOverflowError: A world had more contacts than the engine has room for.
        """
        if self._guard is not None:
            self._guard.dump(self._seeds)
        if isinstance(self._physics, Bounded):
            self._physics.check_overflow()

    def progress(self) -> Tensor:
        """Return float32 `[w]`: the share of the milestones passed since the reset, 1 once it succeeded."""
        passed = self._passed / (self._num_milestones + 1)
        return torch.where(self._succeeded, 1.0, passed).float()

    def state(self) -> dict[str, Tensor]:
        """Return float32 `[w, q]` of every quantity that the task names: tools, object, goals."""
        named = self._rules.quantities(self.world_state())
        return {name: value.float() for name, value in named.items()}

    def world_state(self) -> WorldState:
        """Return everything success conditions and experts read, and update the object's peak height."""
        return self._measure.state()

    def controller(self) -> EndEffectorController:
        """Return a controller for these worlds."""
        from lary_envs.controller import EndEffectorController

        return EndEffectorController(
            self.num_worlds, embodiment=self.task.embodiment, device=str(self.device)
        )

    def expert(self) -> Expert:
        """Return the task's scripted expert for these worlds."""
        from lary_envs.tasks import make_expert

        return make_expert(self.task.name, self)

    def close(self) -> None:
        """Free the renderer; the environment must not be used afterwards."""
        if self._tracer is not None:
            self._tracer.close()
            self._tracer = None
        if isinstance(self._physics, Bounded):
            self._physics.close()

    def _make_tracer(self) -> RayTracer:
        from lary_envs.rendering import RayTracer

        return RayTracer(
            self._model, self.num_worlds, self.cameras, self.image_px,
            device=self._render_device, num_threads=self._num_threads,
        )  # fmt: skip

    def _check_arguments(self, render_device: str) -> None:
        if render_device.split(":")[0] not in _DEVICES:
            raise UnknownNameError("render device", render_device, _DEVICES)
        if render_device != "cpu" and not torch.cuda.is_available():
            raise SimulationError(
                expected="a CUDA device for rendering", got="none", fix="Use render_device='cpu'."
            )
        for camera in self.cameras:
            if camera not in (*self.task.cameras, self.task.film_camera):
                raise UnknownNameError("camera", camera, self.task.cameras)
        require_one(num_worlds=self.num_worlds, image_px=self.image_px, cameras=len(self.cameras))
