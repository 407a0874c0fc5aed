"""What the single and the batched gymnasium environment share: worlds that act, end and are observed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lary_envs.tasks import task_spec
from lary_envs.worlds import open_world
from lary_policy.actions import Embodiment, load_embodiment
from lary_policy.errors import ShapeError, SimulationError, UnknownNameError
from lary_policy.types import DIVERGED, FAILURES, NON_FINITE, OUT_OF_REACH


def action_space(
    layout: Embodiment, controller: EndEffectorController | SawyerController, *, relative: bool
) -> gymnasium.spaces.Box:
    """Return the box of one action: workspace (m), +-pi (rad), +-1 (quaternions) and opening 0 to 1.

    Relative positions are bounded by the controller's speed limit, turns by 0.2 rad.
    """
    low, high = np.full(layout.action_dim, -1.0), np.full(layout.action_dim, 1.0)
    bounds = zip(controller.layout.sides, controller.workspace_bounds, strict=True)
    boxes = {side: np.array(box) for side, box in bounds}
    step = controller.max_step_m
    for group in layout.groups:
        index = list(group.indices)
        if group.kind == "position":
            low[index], high[index] = (-step, step) if relative else boxes[group.arm]
        elif group.kind == "gripper":
            low[index], high[index] = 0.0, 1.0
        elif not group.convention.startswith("quat"):
            turn = 0.2 if relative else np.pi
            low[index], high[index] = -turn, turn
    return gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def observation_space(
    layout: Embodiment, cameras: Sequence[str], image_px: int, *, flat: bool = False
) -> gymnasium.spaces.Dict:
    """Return the space of one observation."""
    frame = gymnasium.spaces.Box(0, 255, (image_px, image_px, 3), np.uint8)
    state = gymnasium.spaces.Box(-np.inf, np.inf, (layout.action_dim,), np.float32)
    if flat:
        views = {f"pixels_{name}": frame for name in cameras}
        return gymnasium.spaces.Dict({**views, "agent_pos": state})
    pixels = gymnasium.spaces.Dict(dict.fromkeys(cameras, frame))
    return gymnasium.spaces.Dict({"pixels": pixels, "agent_pos": state})


if TYPE_CHECKING:
    from lary_envs.controller import EndEffectorController
    from lary_envs.metaworld import SawyerController

type Observation = dict[str, Any]
type Mask = NDArray[np.bool_]

_log = logging.getLogger(__name__)
ACTION_MODES = ("absolute", "relative")
ON_FAILURE = ("raise", "end")


@dataclass(frozen=True)
class Outcome:
    """What one control step brought, one row a world."""

    success: Mask  # bool `[w]`
    truncated: Mask  # bool `[w]`: the last step, without success
    failure: NDArray[np.uint8]  # uint8 `[w]`, indices into `lary_policy.types.FAILURES`

    @classmethod
    def none(cls, num_worlds: int) -> Outcome:
        """Return the outcome of worlds that have just started."""
        return cls(*(np.zeros(num_worlds, dtype) for dtype in (bool, bool, np.uint8)))

    @property
    def terminated(self) -> Mask:
        """Worlds `[w]` that ended by success or failure before their last step."""
        return self.success | ((self.failure > 0) & ~self.truncated)

    @property
    def done(self) -> Mask:
        """Worlds `[w]` whose episodes ended."""
        return self.terminated | self.truncated

    def names(self) -> NDArray[np.object_]:
        """Return the name of each world's failure, or None, `[w]`."""
        return np.array([FAILURES[code] for code in self.failure], dtype=object)

    def where(self, worlds: Mask, other: Outcome) -> Outcome:
        """Return this outcome with the given worlds taken from another one."""
        pairs = ((getattr(other, name), getattr(self, name)) for name in ("success", "truncated", "failure"))
        return Outcome(*(np.where(worlds, theirs, own) for theirs, own in pairs))


class GymCore:
    """Worlds of one task behind numpy arrays.

    Observations are `pixels` (one uint8 `[w, h, w, 3]` a camera, by name) and `agent_pos`, the measured state
    float32 `[w, a]`; `flat_observations` names them `pixels_<camera>` and `agent_pos`. Actions `[w, a]` are
    targets of the end-effectors in the embodiment's layout: absolute, or relative to the last commanded pose.

    Args:
        cameras: Cameras to render.
        image_px: Height and width of a frame.
        action_mode: `absolute` or `relative`.
        device: `cpu`, `cuda` or `cuda:1`.
        max_episode_steps: Control steps of an episode; the task's own by default.
        randomisation: Level of randomisation, see `SimEnv`.
        looks: Of the robot, see `SimEnv`.
        on_failure: What a target that must not be executed, or a diverged world, brings: an error (`raise`)
            or, as in `lary rollout`, the end of that world's episode with a named failure (`end`).
        torch_observations: Leave observations as tensors on the device, under the keys that LeRobot passes on
            untouched: `images.<camera>` and `state`.
        flat_observations: Name the frames `pixels_<camera>` instead of nesting them in `pixels`, as learners
            need that take no space inside a space (stable-baselines3).

    Raises:
        UnknownNameError: Unknown task, camera, device, action mode, or way to treat failures.
        SimulationError: A count below 1, both kinds of observations, or CUDA asked for and not there.
    """

    def __init__(
        self, task: str, num_worlds: int, *, cameras: Sequence[str] = ("front",), image_px: int = 224,
        action_mode: str = "absolute", device: str = "cpu", max_episode_steps: int | None = None,
        randomisation: str = "none", looks: str = "primitives", on_failure: str = "raise",
        torch_observations: bool = False, flat_observations: bool = False,
    ) -> None:  # fmt: skip
        if action_mode not in ACTION_MODES:
            raise UnknownNameError("action mode", action_mode, ACTION_MODES)
        if on_failure not in ON_FAILURE:
            raise UnknownNameError("way to treat failures", on_failure, ON_FAILURE)
        if torch_observations and flat_observations:
            raise SimulationError(
                expected="torch_observations or flat_observations",
                got="both",
                fix="Leave out one of the two.",
            )
        self.spec = task_spec(task)
        self.max_steps = self.spec.max_steps if max_episode_steps is None else max_episode_steps
        if self.max_steps < 1:
            raise SimulationError(
                expected="max_episode_steps of at least 1", got=f"{max_episode_steps}", fix="Choose more."
            )
        self.sim = open_world(
            task, num_worlds, cameras=cameras, image_px=image_px, render_device=device,
            randomisation=randomisation, looks=looks,
        )  # fmt: skip
        self.relative, self.raises = action_mode == "relative", on_failure == "raise"
        self.controller = self.sim.controller()
        self._layout = load_embodiment(self.spec.embodiment)
        self.action_space = action_space(self._layout, self.controller, relative=self.relative)
        self.observation_space = observation_space(
            self._layout, self.sim.cameras, image_px, flat=flat_observations
        )
        self.steps = np.zeros(num_worlds, dtype=np.int64)
        self._started, self._closed = np.zeros(num_worlds, dtype=bool), False
        self._as_tensors, self._flat = torch_observations, flat_observations
        self._frames, self._state = torch.empty(0), torch.empty(0)

    def reset(self, seeds: Sequence[int], worlds: Sequence[int] | None = None) -> None:
        """Start new episodes in the given worlds (all by default)."""
        self._require_open()
        self.sim.reset(seeds, worlds)
        index = None if worlds is None else torch.tensor(list(worlds), device=self.sim.device)
        lost = self.sim.diverged().unsqueeze(-1)  # other worlds, which have no joint angles to speak of
        self.controller.reset(torch.where(lost, 0.0, self.sim.joints()), index)
        which = slice(None) if worlds is None else list(worlds)
        self.steps[which], self._started[which] = 0, True

    def step(self, actions: NDArray[np.floating[Any]], resting: Mask | None = None) -> Outcome:
        """Execute actions `[w, a]`; resting worlds (bool `[w]`) hold still, whatever their actions are.

        Raises:
            ResetNeeded: A world was never reset.
            ClosedEnvironmentError: After `close`.
            ShapeError: The actions have another shape or, with `on_failure="raise"`, are not finite.
            SimulationError: With `on_failure="raise"`: a target lies out of reach, or a world diverged.
            ContactOverflowError: An episode ended in which a world had more contacts than there is room for.
        """
        self._require_started("step")
        rests = np.zeros(len(self.steps), dtype=bool) if resting is None else resting
        idle = torch.from_numpy(rests).to(self.sim.device)
        targets = self._held(idle, self._tensor(actions))
        codes = self._judged(targets)
        ctrl = self.controller.command(self._held(codes > 0, targets), relative=self.relative)
        self.sim.step(ctrl)
        self.steps += 1
        lost = self.sim.diverged() & ~idle & (codes == 0)
        if self.raises and lost.any():
            raise SimulationError(
                expected="finite states",
                got=f"diverged worlds {lost.nonzero().flatten().tolist()}",
                fix="Report the task and seeds.",
            )
        failure = torch.where(lost, DIVERGED, codes).cpu().numpy().astype(np.uint8)
        success = self.sim.success().cpu().numpy() & (failure == 0) & ~rests
        truncated = (self.steps >= self.max_steps) & (failure == 0) & ~success & ~rests
        if not self.raises and truncated.any():
            short = self.controller.out_of_reach().cpu().numpy()
            failure[truncated & short] = OUT_OF_REACH
        outcome = Outcome(success, truncated, failure)
        if outcome.done.any():
            self.sim.check()
        if failure.any():
            counts = Counter(FAILURES[code] for code in failure if code)
            told = ", ".join(f"{count} by {name}" for name, count in counts.items())
            _log.warning("%s: episodes that failed: %s", self.spec.name, told)
        return outcome

    def observe(self, frozen: Mask | None = None) -> Observation:
        """Return what all worlds look like now.

        Args:
            frozen: bool `[w]`, worlds that are returned as they were last time: they are not rendered again.
                Diverged worlds always are, as there is nothing to see.
        """
        still = self.sim.diverged().cpu()
        if frozen is not None:
            still |= torch.from_numpy(frozen)
        if not still.any() or not len(self._frames):
            self._frames, self._state = self.sim.frames(), self.sim.proprio()
        elif not still.all():
            seen = (~still).nonzero().flatten()
            self._frames = self._frames.clone()  # what was returned before stays as it is
            self._frames[seen.to(self._frames.device)] = self.sim.frames(seen.tolist())
            held = still.to(self._state.device).unsqueeze(-1)
            self._state = torch.where(held, self._state, self.sim.proprio())
        views = dict(zip(self.sim.cameras, self._frames.unbind(1), strict=True))
        if self._as_tensors:
            return {**{f"images.{name}": view for name, view in views.items()}, "state": self._state}
        pixels = {name: view.cpu().numpy() for name, view in views.items()}
        if self._flat:
            named = {f"pixels_{name}": view for name, view in pixels.items()}
            return {**named, "agent_pos": self._state.cpu().numpy()}
        return {"pixels": pixels, "agent_pos": self._state.cpu().numpy()}

    def film(self) -> Tensor:
        """Return the first camera's frames uint8 `[w, h, w, 3]` of the last observation, as rendered."""
        self._require_started("render")
        if not len(self._frames):
            self.observe()
        return self._frames[:, 0]

    def close(self) -> None:
        """Free the renderer; only `close` may be called afterwards."""
        self._closed = True
        self.sim.close()

    def _require_open(self) -> None:
        if self._closed:
            raise gymnasium.error.ClosedEnvironmentError(
                "expected an open environment; got one after close(). Make a new one."
            )

    def _require_started(self, what: str) -> None:
        self._require_open()
        if not self._started.all():
            worlds = np.flatnonzero(~self._started).tolist()
            raise gymnasium.error.ResetNeeded(
                f"expected reset() before {what}(); got worlds {worlds} without. Call reset() first."
            )

    def _tensor(self, actions: NDArray[np.floating[Any]]) -> Tensor:
        expected = (self.sim.num_worlds, self.sim.layout.action_dim)
        if np.shape(actions) != expected:
            raise ShapeError(
                expected=f"actions of shape {list(expected)} ({', '.join(self._layout.labels)})",
                got=f"{list(np.shape(actions))}",
                fix="Pass one target a world in the layout of the embodiment.",
            )
        return torch.as_tensor(np.asarray(actions, dtype=np.float32), device=self.sim.device)

    def _held(self, worlds: Tensor, targets: Tensor) -> Tensor:
        """Replace the targets `[w, a]` of some worlds (bool `[w]`) by the pose where they are."""
        if not worlds.any():
            return targets
        pose = self.controller.pose()
        rest = self._layout.to_relative(pose.unsqueeze(1), pose).squeeze(1) if self.relative else pose
        return torch.where(worlds.unsqueeze(-1), rest, targets)

    def _judged(self, targets: Tensor) -> Tensor:
        """Return the code uint8 `[w]` of what forbids to execute the targets `[w, a]`, or raise."""
        if self.relative:
            codes = (~torch.isfinite(targets).all(-1) * NON_FINITE).to(torch.uint8)
        else:
            codes = self.controller.check_codes(targets)
        if not self.raises or not codes.any():
            return codes
        if (codes == NON_FINITE).any():
            raise ShapeError(
                expected="finite actions",
                got="non-finite values",
                fix="Stop the policy and look at its output.",
            )
        refused = [f"world {w}: {FAILURES[code]}" for w, code in enumerate(codes.tolist()) if code]
        raise SimulationError(
            expected=f"targets near the workspaces {self.controller.workspace_bounds} (m)",
            got="; ".join(refused),
            fix="Keep positions inside env.action_space.",
        )
