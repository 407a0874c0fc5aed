"""What led to a world's divergence: its last states and commands, kept on the device and saved in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lary_envs.physics import BatchPhysics, Physics
from lary_policy.errors import SimulationError
from lary_policy.paths import open_regular

_STATE = ("time", "qpos", "qvel", "qacc_warmstart")
_GOALS = ("mocap_pos", "mocap_quat")
_META = ("task", "seed", "substeps", "vary", "looks")


class NanGuard:
    """A ring of the last states and commands of all worlds. Without a guard nothing is recorded.

    Args:
        task: Name of the task, for `replay`.
        substeps: Physics steps of a control step.
        folder: Where diverged worlds are saved.
        steps: Control steps to keep.
        looks: Of the robot: they decide which geoms the fields that vary between worlds belong to.
    """

    def __init__(
        self, physics: Physics, *, task: str, substeps: int, folder: str | Path, steps: int = 64,
        looks: str = "primitives",
    ) -> None:  # fmt: skip
        self._physics, self._folder, self._steps = physics, Path(folder), steps
        vary = ",".join(physics.vary)
        self._meta = {"task": task, "substeps": str(substeps), "vary": vary, "looks": looks}
        fields = {name: physics.field(name) for name in (*_STATE, "ctrl")}
        self._ring = {name: field.new_zeros(steps, *field.shape) for name, field in fields.items()}
        self._count = 0
        self._recorded = torch.zeros(len(fields["qpos"]), dtype=torch.long, device=physics.device)
        self._saved: set[tuple[int, int]] = set()

    def record(self, ctrl: Tensor, alive: Tensor | None = None) -> None:
        """Keep the state before a control step and its commands `[w, nu]`; does not wait for the device.

        Worlds that are not `alive` (bool `[w]`, all by default) keep what led to their divergence.
        """
        slot = self._count % self._steps
        fields = {name: self._physics.field(name) for name in _STATE} | {"ctrl": ctrl}
        for name, value in fields.items():
            kept, new = self._ring[name][slot], value.to(self._ring[name])
            if alive is not None:
                new = torch.where(alive.reshape(-1, *[1] * (new.ndim - 1)), new, kept)
            kept.copy_(new)
        self._count += 1
        now = torch.full_like(self._recorded, self._count)
        self._recorded = now if alive is None else torch.where(alive, now, self._recorded)

    def dump(self, seeds: Sequence[int]) -> tuple[Path, ...]:
        """Save the diverged worlds, each once an episode (seeds `[w]`), and return their files; waits."""
        finite = torch.ones(len(seeds), dtype=torch.bool, device=self._physics.device)
        for name in ("qpos", "qvel"):
            finite &= torch.isfinite(self._physics.field(name)).all(-1)
        worlds = [w for w in (~finite).nonzero().flatten().tolist() if (w, seeds[w]) not in self._saved]
        self._saved.update((w, seeds[w]) for w in worlds)
        return tuple(self._save(world, seeds[world]) for world in worlds)

    def _save(self, world: int, seed: int) -> Path:
        newest = int(self._recorded[world])
        order = [slot % self._steps for slot in range(newest - min(newest, self._steps), newest)]
        history = {name: ring[order, world] for name, ring in self._ring.items()}
        restarts = (history["time"].diff() <= 0).nonzero().flatten().tolist()
        start = restarts[-1] + 1 if restarts else 0
        tensors = {name: rows[start:] for name, rows in history.items()}
        tensors |= {name: self._physics.field(name)[world] for name in _GOALS}
        tensors |= {f"model.{name}": self._physics.field(name)[world] for name in self._physics.vary}
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._meta['task']}_seed{seed}_world{world}.safetensors"
        meta = {**self._meta, "seed": str(seed)}
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, path, metadata=meta)
        return path


@dataclass(frozen=True)
class Replay:
    """A diverged episode run again by MuJoCo's C engine."""

    task: str  # name of the task
    seed: int  # seed of the episode
    recorded: Tensor  # positions `[k, nq]` before each of the k control steps, as they were saved
    replayed: Tensor  # positions `[k, nq]` after each of them, run again from the first saved state
    ctrl: Tensor  # commands `[k, nu]`

    @property
    def diverged_at(self) -> int | None:
        """The control step after which the replayed state is not finite, or None if it stays finite."""
        bad = (~torch.isfinite(self.replayed).all(-1)).nonzero().flatten().tolist()
        return bad[0] if bad else None


def replay(path: str | Path) -> Replay:
    """Run a file of `NanGuard` again, from its first state with its commands.

    Raises:
        SimulationError: The file is missing or not one of NanGuard's.
    """
    tensors, meta = _load(Path(path))
    vary = [name for name in meta["vary"].split(",") if name]
    physics = _physics(meta["task"], vary, meta["looks"])
    for name in vary:
        view = physics.field(name)
        view.copy_(tensors[f"model.{name}"].reshape(view.shape))
    ctrl = tensors["ctrl"]
    goals = (tensors["mocap_pos"][None], tensors["mocap_quat"][None])
    physics.reset(tensors["qpos"][:1], *goals, ctrl[:1])
    for name in _STATE:
        physics.field(name).copy_(tensors[name][:1])
    states = []
    for command in ctrl:
        physics.step(command[None], int(meta["substeps"]))
        states.append(physics.field("qpos")[0].clone())
    return Replay(meta["task"], int(meta["seed"]), tensors["qpos"], torch.stack(states), ctrl)


def _physics(task: str, vary: Sequence[str], looks: str) -> BatchPhysics:
    from lary_envs.scene import build_model
    from lary_envs.tasks import task_entry

    entry = task_entry(task)
    model = build_model(entry.factory(), entry.spec.embodiment, looks=looks)
    return BatchPhysics(model, 1, num_threads=1, vary=vary)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with open_regular(path), safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
    except Exception as error:  # a file of anyone
        got = str(error)
    else:
        missing = [n for n in _META if n not in meta] + [n for n in (*_STATE, *_GOALS) if n not in tensors]
        if not missing:
            return tensors, meta
        got = f"'{path}' without {', '.join(missing)}"
    raise SimulationError(expected="a file saved by NanGuard", got=got, fix="Check the path.")
