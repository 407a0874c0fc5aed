"""Gymnasium environments that others made, as worlds of the closed loop: `env=gym:<id>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, NoReturn

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from torch import Tensor

from lary_envs.gym.reading import (
    PREFIX,
    RENDERED,
    array_at,
    close_worlds,
    make_worlds,
    packages_of,
    per_world,
    say_once,
    stated,
    theirs,
    with_finals,
)
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
    require_one,
)
from lary_policy.settings import at_least, setting
from lary_policy.types import NON_FINITE

_OF_GYMNASIUM = ("final_obs", "final_info", "episode")  # infos of its own


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
        ConfigError: It is not installed or cannot be made, never resets itself, or its rate or limit are
            neither known nor given, or no numbers above 0.
        EmbodimentError: Its actions are no plain vector of real numbers, or not as long as those of the
            embodiment.
        SimulationError: Frames are no RGB of one size, the first observation is no finite numbers, there are
            no cameras, or the environment itself raises.
    """

    device = torch.device("cpu")

    def __init__(self, name: str, num_worlds: int, cameras: Sequence[str], settings: GymSettings) -> None:
        self.num_worlds, self.cameras, self.settings = num_worlds, tuple(cameras), settings
        self._name = name
        require_one(num_worlds=num_worlds, cameras=len(self.cameras))
        self._env = make_worlds(name.removeprefix(PREFIX), num_worlds, self.cameras, settings.env_options)
        try:
            with theirs(name, "describe itself"):
                self._describe(name)
            self._begin([0] * num_worlds)
            self._note_starts([0] * num_worlds)
        except BaseException:
            self.close()
            raise

    def reset(self, seeds: Sequence[int]) -> None:
        """Start an episode in every world.

        Raises:
            SimulationError: Not one seed a world, an observation not finite, or the environment raises.
        """
        self._require_seeds(seeds, self.num_worlds)
        self._begin([int(seed) for seed in seeds])
        self._note_starts(seeds)

    def step(self, commands: Tensor, *, validate: bool = True) -> None:
        """Run one step with the actions `[w, a]`; episodes that are over stay as they were.

        Raises:
            ShapeError: Another shape, or with `validate` values that are not finite.
            SimulationError: The environment does not say whether its task is done, or raises itself.
        """
        box = self._env.action_space
        if tuple(commands.shape) != box.shape or (validate and not torch.isfinite(commands).all()):
            raise ShapeError(
                expected=f"finite actions of shape {list(box.shape)}",  # type: ignore[arg-type]
                got=f"{list(commands.shape)}, finite: {bool(torch.isfinite(commands).all())}",
                fix="Pass one action a world.",
            )
        with theirs(self.task.name, "step"):
            self._advance(*self._env.step(commands.numpy().astype(box.dtype)))

    def _advance(self, seen: Any, _: Any, terminated: Any, truncated: Any, info: Mapping[str, Any]) -> None:
        """Take over what a step of the environment gave."""
        going, every = ~self._over, np.ones(self.num_worlds, bool)
        self._steps += 1
        for name, flags in (("terminated", terminated), ("truncated", truncated)):
            ended = per_world(flags, every)
            if ended is None:
                raise SimulationError(
                    expected=f"'{name}' of {self.task.name} as {self.num_worlds} bools",
                    got=str(flags)[:80],
                    fix="Repair or wrap the environment.",
                )
            self._over |= ended > 0
        seen = with_finals(seen, info, going & self._over)
        self._success[going] = self._told(info, self.settings.success_key, self._success, going)[going] > 0
        if self.settings.progress_key is not None:
            progress = self._told(info, self.settings.progress_key, self._progress, going)
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
        """Make sure that it was told of every whole episode whether its task is done, and how far it got.

        Raises:
            SimulationError: Of one it never was.
        """
        whole = self._over | (self._steps >= self.max_steps)
        for key, judged in self._judged.items():
            if (whole & ~judged).any():
                self._refuse(key, self._heard)

    def controller(self) -> PassingController:
        """Return what passes actions on."""
        return PassingController(self.joints())

    def close(self) -> None:
        """Close the environment; where it raises or hangs, that is said and no more."""
        close_worlds(self._env, self._name)

    def _describe(self, name: str) -> None:
        """Find out what actions, rate and limit are."""
        space, spec, own = self._env.single_action_space, self._env.spec, self.settings
        size, boxed = space.shape or (), isinstance(space, gymnasium.spaces.Box)
        # Whole numbers would be cut: 0.7 to 0.
        if not boxed or len(size) != 1 or not np.issubdtype(space.dtype, np.floating):
            raise EmbodimentError(
                expected="actions that are one vector of real numbers",
                got=f"{space}",
                fix="Wrap the environment so that its action space is a Box of one axis and float32.",
            )
        known = self._env.metadata or {}
        strict = isinstance(self._env.unwrapped, (SyncVectorEnv, AsyncVectorEnv))  # others let worlds rest
        if strict and known.get("autoreset_mode") in (AutoresetMode.DISABLED, AutoresetMode.DISABLED.value):
            raise ConfigError(
                expected=f"{name} with autoreset_mode NextStep or SameStep: some worlds end before others",
                got="autoreset_mode Disabled",
                fix="Leave it out, or pass env_options={vector_kwargs: {autoreset_mode: SameStep}}.",
            )
        rate = known.get("render_fps") if own.control_hz is None else own.control_hz
        hz = stated("control_hz", rate, name)
        limit = stated("max_steps", own.max_steps or (spec.max_episode_steps if spec else None), name)
        layout = _layout(name, size[0], hz, own.embodiment)
        self.contract = replace(ActionContract.of(layout, "absolute"), control_hz=hz)
        self.task = TaskSpec(
            name=name, gym_id=name.removeprefix(PREFIX),
            instruction=own.instruction or name.rpartition("/")[2],
            success=f"info[{own.success_key!r}]", max_steps=int(limit), hold_s=0.0, control_hz=hz,
            embodiment=layout.name, views=self.cameras, packages=packages_of(self._env),
        )  # fmt: skip

    def _begin(self, seeds: list[int]) -> None:
        with theirs(self.task.name, "reset"):
            self._take(*self._env.reset(seed=seeds))  # type: ignore[arg-type]  # it takes one a world

    def _take(self, seen: Any, info: Mapping[str, Any]) -> None:
        """Take over what a reset of the environment gave."""
        w, keys = self.num_worlds, (self.settings.success_key, self.settings.progress_key)
        self._steps, (self._over, self._success, self._lost) = 0, np.zeros((3, w), bool)
        self._judged = {key: np.zeros(w, bool) for key in keys if key is not None}
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
        told = array_at(seen, self.settings.state_key, "state_key", self.num_worlds)
        state = told.reshape(self.num_worlds, -1).astype(np.float32)
        self._state = np.where(worlds[:, None], state, self._state) if self._state.size else state
        for name in (camera for camera in self.cameras if camera != RENDERED):
            frames = array_at(seen, name, "cameras", self.num_worlds)
            self._require_pictures(name, frames)
            kept = self._frames.get(name, frames)
            self._frames[name] = np.where(worlds[:, None, None, None], frames, kept)

    def _note_starts(self, seeds: Sequence[int]) -> None:
        """Say where an episode does not follow from its seed, or follows from none."""
        spec, name = self._env.spec, self._name
        alike = all(bool((shown == shown[:1]).all()) for shown in (self.frames(), self.proprio()))
        if spec is not None and spec.nondeterministic:
            say_once(f"{name} says itself that seeds do not repeat it: other runs find other rates")
        elif len(set(seeds)) == 1 and not alike:
            say_once(f"{name} starts differently from one seed: other runs find other rates")
        elif len(set(seeds)) == len(seeds) > 1 and alike:
            say_once(
                f"{name} starts alike from all seeds: episodes repeat each other, intervals are too narrow"
            )

    def _rendered(self) -> NDArray[np.uint8]:
        modes = (self._env.metadata or {}).get("render_modes")
        if isinstance(modes, (list, tuple)) and "rgb_array" not in modes:
            raise SimulationError(
                expected=f"{self._name} with the render mode rgb_array for the camera {RENDERED}",
                got=f"render modes {', '.join(map(str, modes)) or '(none)'}",
                fix="Pass cameras=[<places in the observation>] instead.",
            )
        with theirs(self.task.name, "render"):
            drawn = self._env.render()
            frames = np.stack([np.asarray(one) for one in ([None] if drawn is None else drawn)])
        self._require_pictures(RENDERED, frames)
        kept = self._frames.get(RENDERED, frames)
        self._frames[RENDERED] = np.where(self._over[:, None, None, None], kept, frames)
        return self._frames[RENDERED]

    def _require_pictures(self, name: str, frames: NDArray[Any]) -> None:
        first = next(iter(self._frames.values()), frames).shape[1:]
        wanted = (self.num_worlds, *first)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape != wanted:
            raise SimulationError(
                expected=f"uint8 RGB frames [{self.num_worlds}, h, w, 3], of one size for all cameras",
                got=f"{frames.dtype} {list(frames.shape)} at '{name}'",
                fix="Choose another camera or other env_options={...}, or register the environment wrapped "
                "in a module of yours: env=gym:<module>:<id>.",
            )

    def _told(
        self, info: Mapping[str, Any], key: str, before: NDArray[Any], worlds: NDArray[np.bool_]
    ) -> NDArray[Any]:
        """Return what the worlds say under a key of their infos, or what they said before.

        Raises:
            SimulationError: An episode ended and it was never said, or not by a number from 0 to 1.
        """
        found = np.array(before, dtype=float)
        final = info.get("final_info")
        self._heard = tuple(name for name in map(str, info) if not name.startswith("_"))
        for part in (info, final if isinstance(final, Mapping) else {}):
            if key in part:
                said = np.broadcast_to(part.get(f"_{key}", True), found.shape).astype(bool)
                values = per_world(part[key], said)
                if values is None or not ((values >= 0) & (values <= 1)).all():
                    others = [name for name in self._heard if name != key]
                    self._refuse(key, (f"{key} = {str(part[key])[:80]}", *others))
                found[said] = values[said]
                self._judged[key] |= said
        if (worlds & self._over & ~self._judged[key]).any():
            self._refuse(key, self._heard)
        return found

    def _refuse(self, key: str, heard: Sequence[str]) -> NoReturn:
        kind = "success_key" if key == self.settings.success_key else "progress_key"
        others = [name for name in heard if name.isidentifier() and name not in (key, *_OF_GYMNASIUM)]
        meant = get_close_matches(key, others, 1, 0.5) or others * (len(others) == 1) or ["<one of these>"]
        late = self.settings.max_steps is not None
        wait = "leave out max_steps if it says so at the end, or " * late
        wrap = f"{wait}wrap the environment so that it says so."
        raise SimulationError(
            expected=f"info['{key}'] with a number from 0 to 1 for each world of {self.task.name}",
            got=f"infos {', '.join(heard) or '(none)'}",
            fix=f"Pass {kind}={meant[0]}, or {wrap}" if others else wrap[0].upper() + wrap[1:],
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
