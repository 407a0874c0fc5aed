"""Gymnasium environments that others made, as worlds of the closed loop: `env=gym:<id>`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lary_envs.tasks import TaskSpec, TaskWorlds
from lary_policy.actions import (
    ActionContract,
    ActionGroup,
    Embodiment,
    load_embodiment,
    register_embodiment,
)
from lary_policy.errors import (
    ConfigError,
    EmbodimentError,
    ShapeError,
    SimulationError,
    UnknownNameError,
    summary,
)
from lary_policy.settings import at_least, setting
from lary_policy.types import NON_FINITE

PREFIX = "gym:"  # of the name of a task
RENDERED = "render"  # the camera that is `env.render()`


@dataclass(frozen=True)
class GymSettings:
    """How a gymnasium environment is read; places inside of observations have dots between levels."""

    state_key: str | None = setting(None, "env=gym:...: place of the proprioception; null = all of it")
    success_key: str = setting("is_success", "env=gym:...: info that says whether the task is done")
    progress_key: str | None = setting(None, "env=gym:...: info from 0 to 1; null = 1 with success")
    embodiment: str | None = setting(None, "env=gym:...: layout of its actions, compared with the policy's")
    control_hz: float | None = setting(None, "env=gym:...: actions a second; null = its render_fps")
    max_steps: int | None = setting(None, "env=gym:...: of an episode; null = its own limit")
    instruction: str | None = setting(None, "env=gym:...: the task in words; null = its id")
    env_options: dict[str, Any] = setting(dict, "env=gym:...: arguments of gymnasium.make_vec")

    def __post_init__(self) -> None:
        at_least(self, 1, "max_steps")


class GymWorld(TaskWorlds):
    """A gymnasium vector environment as a batch of w worlds, for policies that act on it as they are.

    An episode is over where the environment ends it; what it does afterwards is not looked at. Actions are
    passed on unchanged.

    Args:
        name: `gym:<id>`, or `gym:<module>:<id>` where a module has to be imported first.
        num_worlds: Worlds w.
        cameras: Places of frames in the observation, e.g. `pixels.top`; `render` is `env.render()`.
        settings: How the rest is read.

    Attributes:
        contract: What is known of its actions: the layout of `settings.embodiment`, or numbers without names.
        state_dim: Length of the proprioception.
        frame_shape: Height, width and 3, the same for all cameras.

    Raises:
        UnknownNameError: There is no such environment, or nothing at a place in its observations.
        ConfigError: It is not installed or cannot be made, or its rate or limit are neither known nor given.
        EmbodimentError: Its actions are no plain vector, or not as long as those of the embodiment.
        SimulationError: Frames are no RGB of one size, or the first observation is not finite.
    """

    device = torch.device("cpu")

    def __init__(self, name: str, num_worlds: int, cameras: Sequence[str], settings: GymSettings) -> None:
        self.num_worlds, self.cameras, self.settings = num_worlds, tuple(cameras), settings
        self._env = _make(name.removeprefix(PREFIX), num_worlds, self.cameras, settings.env_options)
        try:
            self._describe(name)
            self._begin([0] * num_worlds)
        except BaseException:
            self.close()
            raise

    def reset(self, seeds: Sequence[int]) -> None:
        """Start an episode in every world.

        Raises:
            SimulationError: Not one seed a world, or an observation that is not finite.
        """
        self._require_seeds(seeds, self.num_worlds)
        self._begin([int(seed) for seed in seeds])

    def step(self, commands: Tensor, *, validate: bool = True) -> None:
        """Run one step with the actions `[w, a]`; episodes that are over stay as they were.

        Raises:
            ShapeError: Another shape, or with `validate` values that are not finite.
            SimulationError: The environment does not say whether its task is done.
        """
        box = self._env.action_space
        if tuple(commands.shape) != box.shape or (validate and not torch.isfinite(commands).all()):
            raise ShapeError(
                expected=f"finite actions of shape {list(box.shape)}",  # type: ignore[arg-type]
                got=f"{list(commands.shape)}, finite: {bool(torch.isfinite(commands).all())}",
                fix="Pass one action a world.",
            )
        seen, _, terminated, truncated, info = self._env.step(commands.numpy().astype(box.dtype))
        going = ~self._over
        self._over |= terminated | truncated
        seen = _with_finals(seen, info, going & self._over)
        success = self._told(info, self.settings.success_key, going)
        if success is not None:
            self._success[going] = success[going].astype(bool)
        if self.settings.progress_key is not None:
            progress = self._told(info, self.settings.progress_key, going)
            if progress is not None:
                self._progress[going] = np.maximum(self._progress, progress)[going]
        self._progress[self._success] = 1.0
        self._look(seen, going)
        self._lost |= going & ~np.isfinite(self._state).all(-1)

    def frames(self, worlds: Sequence[int] | None = None) -> Tensor:
        """Return uint8 RGB `[n, c, h, w, 3]` of the given worlds, all by default."""
        views = [self._frames[name] if name != RENDERED else self._rendered() for name in self.cameras]
        every = torch.from_numpy(np.stack(views, 1))
        return every if worlds is None else every[list(worlds)]

    def proprio(self) -> Tensor:
        """Return the proprioception `[w, s]`, float32."""
        return torch.from_numpy(self._state.copy())

    def joints(self) -> Tensor:
        """Return what the controller starts from `[w, a]`: the proprioception if it is as long, or zeros."""
        size = int(self._env.single_action_space.shape[0])  # type: ignore[index]
        return self.proprio() if self.state_dim == size else torch.zeros(self.num_worlds, size)

    def success(self) -> Tensor:
        """Return bool `[w]`: the environment says that the task is done, or did when it ended."""
        return torch.from_numpy(self._success.copy())

    def progress(self) -> Tensor:
        """Return float32 `[w]`: the highest progress that was said, 1 once the task was done."""
        return torch.from_numpy(self._progress.copy())

    def diverged(self) -> Tensor:
        """Return bool `[w]`: the proprioception stopped being finite."""
        return torch.from_numpy(self._lost.copy())

    def ended(self) -> Tensor:
        """Return bool `[w]`: the environment ended the episode."""
        return torch.from_numpy(self._over.copy())

    def check(self) -> None:
        """Make sure that every world was told at least once whether its task is done.

        Raises:
            SimulationError: One never was.
        """
        if not self._judged.all():
            self._refuse(self.settings.success_key, self._heard)

    def controller(self) -> PassingController:
        """Return what passes actions on."""
        return PassingController(self.joints())

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _describe(self, name: str) -> None:
        """Find out what actions, rate and limit are."""
        space, spec, own = self._env.single_action_space, self._env.spec, self.settings
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise EmbodimentError(
                expected="actions that are one vector of numbers",
                got=f"{space}",
                fix="Wrap the environment so that its action space is a Box of one axis.",
            )
        rate = own.control_hz or (self._env.metadata or {}).get("render_fps")
        hz = _stated("control_hz", rate, name)
        limit = _stated("max_steps", own.max_steps or (spec.max_episode_steps if spec else None), name)
        layout = _layout(name, space.shape[0], hz, own.embodiment)
        self.contract = replace(ActionContract.of(layout, "absolute"), control_hz=hz)
        self.task = TaskSpec(
            name=name, gym_id=name.removeprefix(PREFIX),
            instruction=own.instruction or name.rpartition("/")[2],
            success=f"info[{own.success_key!r}]", max_steps=int(limit), hold_s=0.0, control_hz=hz,
            embodiment=layout.name, views=self.cameras,
        )  # fmt: skip

    def _begin(self, seeds: list[int]) -> None:
        seen, info = self._env.reset(seed=seeds)  # type: ignore[arg-type]  # it takes one a world
        w = self.num_worlds
        self._over, self._success, self._lost, self._judged = np.zeros((4, w), bool)
        self._progress, self._heard = np.zeros(w, np.float32), tuple(info)
        self._state: NDArray[np.float32] = np.zeros((w, 0), np.float32)
        self._frames: dict[str, NDArray[Any]] = {}
        self._look(seen, np.ones(w, bool))
        self.state_dim, self.frame_shape = self._state.shape[1], self.frames().shape[2:]
        if not np.isfinite(self._state).all():
            worlds = np.flatnonzero(~np.isfinite(self._state).all(-1)).tolist()
            raise SimulationError(
                expected="a finite proprioception after the reset",
                got=f"worlds {worlds} of {self.task.name} without",
                fix="Choose another state_key, or repair the environment.",
            )

    def _look(self, seen: Any, worlds: NDArray[np.bool_]) -> None:
        """Take over what the given worlds show; the others keep what they showed."""
        told = np.asarray(_at(seen, self.settings.state_key, "state_key"))
        state = told.reshape(self.num_worlds, -1).astype(np.float32)
        self._state = np.where(worlds[:, None], state, self._state) if self._state.size else state
        for name in (camera for camera in self.cameras if camera != RENDERED):
            frames = np.asarray(_at(seen, name, "cameras"))
            self._require_pictures(name, frames)
            kept = self._frames.get(name, frames)
            self._frames[name] = np.where(worlds[:, None, None, None], frames, kept)

    def _rendered(self) -> NDArray[np.uint8]:
        drawn = self._env.render()
        frames = np.stack([np.asarray(one) for one in drawn]) if drawn else np.zeros(0)
        self._require_pictures(RENDERED, frames)
        kept = self._frames.get(RENDERED, frames)
        self._frames[RENDERED] = np.where(self._over[:, None, None, None], kept, frames)
        return self._frames[RENDERED]

    def _require_pictures(self, name: str, frames: NDArray[Any]) -> None:
        first = next(iter(self._frames.values()), frames).shape[1:]
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape[1:] != first:
            raise SimulationError(
                expected=f"uint8 RGB frames [{self.num_worlds}, h, w, 3], of one size for all cameras",
                got=f"{frames.dtype} {list(frames.shape)} at '{name}'",
                fix="Choose another camera, or settings of the environment with env_options={...}.",
            )

    def _told(self, info: Mapping[str, Any], key: str, worlds: NDArray[np.bool_]) -> NDArray[Any] | None:
        """Return what the worlds say under a key of their infos, or None where they do not.

        Raises:
            SimulationError: An episode ended and it was never said, or not by a number from 0 to 1.
        """
        values, known = np.zeros(self.num_worlds), np.zeros(self.num_worlds, bool)
        final = info.get("final_info")
        for part in (info, final if isinstance(final, Mapping) else {}):
            if key in part:
                said = np.broadcast_to(part.get(f"_{key}", True), known.shape).astype(bool)
                values[said] = np.asarray(part[key], dtype=float)[said]
                known |= said
        self._heard = tuple(name for name in info if not name.startswith("_"))
        if key == self.settings.success_key:
            self._judged |= known
        if not ((values >= 0) & (values <= 1)).all() or (worlds & self._over & ~self._judged).any():
            self._refuse(key, self._heard)
        return np.where(known, values, self._success if key == self.settings.success_key else self._progress)

    def _refuse(self, key: str, heard: Sequence[str]) -> None:
        raise SimulationError(
            expected=f"info['{key}'] with a number from 0 to 1 for each world of {self.task.name}",
            got=f"infos {', '.join(heard) or '(none)'}",
            fix="Pass success_key=<one of these>, or wrap the environment so that it says so.",
        )


class PassingController:
    """Passes actions `[w, a]` on as they are; `start` counts as the one before the first."""

    def __init__(self, start: Tensor) -> None:
        self._pose = start

    def reset(self, joints: Tensor) -> None:
        """Start from `GymWorld.joints()`."""
        self._pose = joints.clone()

    def pose(self) -> Tensor:
        """Return the last action `[w, a]`."""
        return self._pose

    def command(self, target: Tensor, *, validate: bool = True) -> Tensor:
        """Return the actions; `GymWorld.step` checks them."""
        self._pose = target
        return target

    def check_codes(self, target: Tensor) -> Tensor:
        """Return uint8 `[w]`: actions that are not finite must not be executed."""
        return (~torch.isfinite(target).all(-1) * NON_FINITE).to(torch.uint8)

    def out_of_reach(self) -> Tensor:
        """Return bool `[w]`: nothing is known to be."""
        return torch.zeros(len(self._pose), dtype=torch.bool)


def _make(
    gym_id: str, num_worlds: int, cameras: Sequence[str], options: Mapping[str, Any]
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Make a vector environment.

    Raises:
        UnknownNameError: There is no such id; the closest one is named.
        ConfigError: Its module is not installed, or it does not take the options.
    """
    module, _, own = gym_id.rpartition(":")
    module = module or own.rpartition("/")[0]  # the usual name of what registers a namespace
    try:
        if own not in gymnasium.registry and module:
            importlib.import_module(module)
    except Exception as error:  # it is not installed, or whatever the package raises
        raise ConfigError(
            expected=f"a module '{module}', which registers {own}",
            got=summary(error),
            fix=f"Install its package (often: pip install {module.replace('_', '-')}), or name its module: "
            f"env={PREFIX}<module>:{own}.",
        ) from error
    if own not in gymnasium.registry:
        raise UnknownNameError("gymnasium environment", own, gymnasium.registry)
    drawn = {"render_mode": "rgb_array"} if RENDERED in cameras else {}
    try:
        return gymnasium.make_vec(own, num_envs=num_worlds, **{**drawn, **options})
    except Exception as error:  # whatever its constructor raises
        raise ConfigError(
            expected=f"{own} made with env_options {dict(options)}",
            got=summary(error),
            fix="Pass env_options={<argument>: <value>} as its documentation says.",
        ) from error


def _stated(what: str, value: float | None, name: str) -> float:
    """Return a number that the environment or the user states.

    Raises:
        ConfigError: Neither does.
    """
    if not value:
        raise ConfigError(
            expected=f"an environment that states its {what}",
            got=f"{name}, which does not",
            fix=f"Pass {what}=<number>.",
        )
    return float(value)


def _layout(name: str, size: int, hz: float, embodiment: str | None) -> Embodiment:
    """Return the layout of actions: one that is known, or numbers without meaning."""
    if embodiment is None:
        labels = tuple(f"a{i}" for i in range(size))
        numbers = ActionGroup("action", "joint", "single", tuple(range(size)), labels, "native", "unit")
        return register_embodiment(Embodiment(f"{name} ({size} numbers, {hz:g} Hz)", (numbers,), hz))
    known = load_embodiment(embodiment)
    if known.action_dim != size:
        raise EmbodimentError(
            expected=f"{known.action_dim} numbers ({', '.join(known.labels)}), as {embodiment} has",
            got=f"{size} numbers of {name}",
            fix="Name the embodiment of the environment, or leave embodiment out.",
        )
    return known


def _at(seen: Any, place: str | None, what: str) -> Any:
    """Return what stands at a place of an observation.

    Raises:
        UnknownNameError: Nothing; the message lists what there is on that level.
    """
    for level in place.split(".") if place else ():
        if not isinstance(seen, Mapping) or level not in seen:
            there = list(seen) if isinstance(seen, Mapping) else ["null"]
            raise UnknownNameError(f"place in the observation for {what}", str(place), there)
        seen = seen[level]
    if isinstance(seen, Mapping):
        raise UnknownNameError(f"place in the observation for {what}", str(place), seen)
    return seen


def _with_finals(seen: Any, info: Mapping[str, Any], ended: NDArray[np.bool_]) -> Any:
    """Return observations in which worlds that have been reset within the step show how they ended."""
    finals = info.get("final_obs")
    if finals is None or not ended.any():
        return seen
    for world in np.flatnonzero(ended):
        if finals[world] is not None:
            seen = _replaced(seen, finals[world], world)
    return seen


def _replaced(batch: Any, one: Any, world: int) -> Any:
    if isinstance(batch, Mapping):
        return {name: _replaced(values, one[name], world) for name, values in batch.items()}
    copied = np.array(batch)
    copied[world] = one
    return copied
