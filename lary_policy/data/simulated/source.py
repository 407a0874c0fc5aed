"""Simulated tasks as a source: demonstrations, the goals of the closed loop, and the world itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lary_policy.actions import load_embodiment
from lary_policy.data import layout
from lary_policy.data.clips import ClipTable
from lary_policy.data.integrity import IntegrityReport
from lary_policy.data.larybench import load_pairs
from lary_policy.data.pairs import PairRow, PairTable
from lary_policy.data.registry import register_source
from lary_policy.data.simulated.collect import DENSE, GOALS, SPLITS, collect_demonstrations, seeds_of
from lary_policy.data.simulated.scene import Scene, read_scene, scene_digest
from lary_policy.data.simulated.verify import verify_dataset
from lary_policy.data.spec import SourceSpec, require_folder, require_protocol
from lary_policy.errors import ConfigError, DatasetError
from lary_policy.paths import read_json

if TYPE_CHECKING:
    from lary_envs import Simulation

_SAME = ("dataset", "embodiment", "stride", "cameras")  # what goals share with the demonstrations


@register_source("simulated")
class SimulatedSource:
    """A simulated task: demonstrations, split by seed under either protocol, and a world to act in.

    It is opened on a folder that `lary data` wrote (`data_dir`, perhaps `goals`), or by the name of a task,
    whose demonstrations are then collected into `folder` unless they are there.

    Args:
        key: `simulated`.
        data_dir: Folder with `dataset.json`.
        goals: Folder of the demonstrations that a closed loop follows; they are the split `rollout`.
        dense: Folder of the training demonstrations with a chunk from every step; the split `train-dense`.
        cameras: Cameras to use, in this order; None for all that were recorded.
        protocol: `native` or `lary`.
        task: Name of a task of `lary_envs`, instead of `data_dir`.
        folder: Where demonstrations of the task (`demos`) and goals (`goals`) are kept.
        demos: Episodes of each split `train`, `val` and `test`, and perhaps `noise_std_m`, `noise_std_rad`.
        episodes: Goals, one for each episode of the closed loop; 0 for none.
        image_px: Width and height of the frames.
        stride: Control steps of a chunk.
        looks: Of the robot, as in `lary_envs.SimEnv`.
        randomisation: Level of the demonstrations, as in `lary_envs.SimEnv`.
        rollout_randomisation: Level of the goals and of the world; None for that of the demonstrations.
        num_worlds: Worlds simulated side by side.
        render_device: Device of the renderer.

    Attributes:
        root: Folder of the demonstrations.
        goals_root: Folder of the goals, or None.
        task: Name of the task, or None where the demonstrations are of none (`lary data from-lerobot`).

    Raises:
        DatasetError: A folder is missing or holds another kind of dataset, or the expert failed on a split.
        ConfigError: Neither or both of `data_dir` and `task` are given, or one that `task` needs is missing.
        UnknownNameError: The protocol, task or looks do not exist.
        StoreError: The disk is full; finished episodes are kept and the next call continues.
    """

    def __init__(
        self,
        key: str = "simulated",
        *,
        data_dir: Path | None = None,
        goals: Path | None = None,
        dense: Path | None = None,
        cameras: Sequence[str] | None = None,
        protocol: str = "native",
        task: str | None = None,
        folder: Path | None = None,
        demos: Mapping[str, Any] | None = None,
        episodes: int = 0,
        image_px: int = 112,
        stride: int = 5,
        looks: str = "primitives",
        randomisation: str = "none",
        rollout_randomisation: str | None = None,
        num_worlds: int = 50,
        render_device: str = "cpu",
    ) -> None:
        if task is not None:
            if data_dir is not None or folder is None or demos is None:
                raise ConfigError(
                    expected=f"source {key} with task=<name>, folder=<folder>, demos=... and no data_dir",
                    got=f"task={task} folder={folder} demos={demos} data_dir={data_dir}",
                    fix="Pass task=reach folder=outputs/reach 'demos={train: 50, val: 5, test: 10}', "
                    "for example, or data_dir=<folder with dataset.json> alone.",
                )
            shared = {
                "image_px": image_px,
                "stride": stride,
                "looks": looks,
                "num_worlds": num_worlds,
                "render_device": render_device,
                **({} if cameras is None else {"cameras": tuple(cameras)}),
            }
            data_dir = collect_splits(folder / "demos", task, demos, randomisation=randomisation, **shared)
            if episodes:
                level = rollout_randomisation or randomisation
                goals = collect_goals(folder / "goals", task, episodes, randomisation=level, **shared)
        self.root = require_folder(key, data_dir)
        self.goals_root = None if goals is None else require_folder(key, goals)
        self.dense_root = dense and require_folder(key, dense)
        self._about = _read_about(self.root)
        self._world_about = _read_about(self.goals_root or self.root)
        _require_same(self.root, self._about, [self._world_about, _read_about(self.dense_root or self.root)])
        self.task: str | None = self._about.get("task")
        self.spec = SourceSpec(
            key=key,
            kind="pairs",
            embodiment=str(self._about["embodiment"]),
            stride=int(self._about["stride"]),
            splits=(*self._about["seeds"], *((GOALS,) if goals else ()), *((DENSE,) if dense else ())),
            cameras=tuple(self._about["cameras"]) if cameras is None else tuple(cameras),
            num_classes=None,
            where="simulated",
            protocol=require_protocol(protocol),
        )
        self._embodiment = load_embodiment(str(self._about["embodiment"]))

    def pairs(self, split: str) -> PairTable:
        """Read the pairs of a split: frames, chunks, measured poses, atomic primitives and noise.

        Raises:
            UnknownNameError: There is no such split or camera.
            DatasetError: A CSV is missing, or no row is usable.
        """
        self.spec.check_split(split)
        return load_pairs(
            self._root_of(split),
            str(self._about["dataset"]),
            SPLITS[0] if split == DENSE else split,
            embodiment=self._embodiment,
            stride=self.spec.stride or 0,
            cameras=self.spec.cameras,
        )

    def scene(self, split: str, rows: Sequence[PairRow]) -> Scene:
        """Return the named state at the source frames of rows of a split, and their critical steps.

        Raises:
            DatasetError: The demonstrations were recorded without it.
        """
        return read_scene(self._root_of(split), rows, self.spec.stride or 0, self._embodiment.control_hz)

    def scene_digest(self, tables: Mapping[str, PairTable]) -> str:
        """Return a digest of the named states of all episodes of some splits.

        Raises:
            DatasetError: The demonstrations were recorded without them.
        """
        names = {s: list(dict.fromkeys(r.episode for r in table.rows)) for s, table in tables.items()}
        return "-".join(scene_digest(self._root_of(split), found) for split, found in names.items())

    def clips(self, split: str) -> ClipTable:
        """Raise DatasetError: this is a source of pairs."""
        raise self.spec.wrong_kind("clips")

    def _root_of(self, split: str) -> Path:
        if split == DENSE and self.dense_root is not None:
            return self.dense_root
        return self.goals_root if split == GOALS and self.goals_root is not None else self.root

    def verify(self, *, limit: int | None = None, **options: Any) -> IntegrityReport:
        """Check demonstrations and goals, see `verify_dataset`.

        Raises:
            ConfigError: A limit is given: checksums are of whole files.
        """
        if limit is not None:
            raise ConfigError(
                expected="limit=null for simulated demonstrations", got=str(limit), fix="Leave limit out."
            )
        reports = [
            verify_dataset(root, **options)
            for root in (self.root, self.goals_root, self.dense_root)
            if root is not None
        ]
        counts = Counter[str]()
        for report in reports:
            counts.update(report.checked)
        problems = tuple(problem for report in reports for problem in report.problems)
        notes = tuple(dict.fromkeys(note for report in reports for note in report.unverifiable))
        return IntegrityReport(self.root, dict(counts), problems, notes)

    def world(
        self,
        num_worlds: int,
        *,
        overview: bool = False,
        image_px: int | None = None,
        render_device: str = "cpu",
        physics: str = "auto",
        guard_folder: Path | None = None,
        randomisation: str | None = None,
        num_threads: int | None = None,
    ) -> Simulation:
        """Open worlds of the task that look as the goals (or, without those, the demonstrations) do.

        Args:
            num_worlds: Worlds simulated side by side.
            overview: Look through the camera alone that shows everything.
            image_px: Width and height of the frames; None for those of the demonstrations.
            render_device: Device of the renderer.
            physics: Engine, as in `lary_envs.SimEnv`.
            guard_folder: See `lary_envs.SimEnv`.
            randomisation: Another level than theirs.
            num_threads: Threads of physics and rendering on a CPU; all cores by default.

        Raises:
            DatasetError: The demonstrations are of no simulated task.
            UnknownNameError: The task's worlds do not have that level.
        """
        if self.task is None:
            raise DatasetError(
                expected="demonstrations of a simulated task, to act in its world",
                got=f"{self.root}, whose {layout.DATASET_FILE} names none",
                fix="Pass the folder of demonstrations that `lary data env=<task>` collected.",
            )
        from lary_envs import open_world, task_spec

        return open_world(
            self.task,
            num_worlds,
            cameras=(task_spec(self.task).film_camera,) if overview else self.spec.cameras,
            image_px=int(self._about["image_px"]) if image_px is None else image_px,
            render_device=render_device,
            physics=physics,
            guard_folder=guard_folder,
            num_threads=num_threads,
            looks=str(self._world_about.get("looks", "primitives")),
            randomisation=randomisation or str(self._world_about.get("randomisation", "none")),
        )


def collect_splits(root: Path, task: str, demos: Mapping[str, Any], **settings: Any) -> Path:
    """Collect the demonstrations of a task, unless they are at `root`, and return their folder.

    Args:
        root: Folder of the dataset.
        task: Name of the task.
        demos: Episodes of each of `SPLITS`, and perhaps `noise_std_m` and `noise_std_rad`.
        settings: Further ones of `collect_demonstrations`.

    Raises:
        ConfigError: Episodes of a split are missing, or there is another setting.
    """
    noise: dict[str, Any] = {
        name: float(demos[name]) for name in ("noise_std_m", "noise_std_rad") if name in demos
    }
    counts = {name: count for name, count in demos.items() if name not in noise}
    if set(counts) != set(SPLITS) or not all(isinstance(n, int) and n > 0 for n in counts.values()):
        raise ConfigError(
            expected=f"demos with a number of episodes for each of {', '.join(SPLITS)}",
            got=str(dict(demos)),
            fix="Pass 'demos={train: 50, val: 5, test: 10}', for example.",
        )
    splits = {split: seeds_of(split, counts[split]) for split in SPLITS}
    return collect_demonstrations(root, task, splits=splits, **noise, **settings).root


def collect_dense(root: Path, task: str, demos: Mapping[str, Any], **settings: Any) -> Path:
    """Collect the training demonstrations of `collect_splits` with a chunk from every control step.

    Args:
        root: Folder of the dataset, reused where it is complete.
        task: Name of the task.
        demos: As for `collect_splits`; of its episodes only those of `train` are recorded.
        settings: Further ones of `collect_demonstrations`.
    """
    noise: dict[str, Any] = {name: demos[name] for name in ("noise_std_m", "noise_std_rad") if name in demos}
    splits = {SPLITS[0]: seeds_of(SPLITS[0], demos[SPLITS[0]])}
    return collect_demonstrations(root, task, splits=splits, dense=True, **noise, **settings).root


def collect_goals(root: Path, task: str, episodes: int, **settings: Any) -> Path:
    """Collect the demonstrations that a closed loop follows, unless they are at `root`; return their folder.

    Args:
        root: Folder of the dataset.
        task: Name of the task.
        episodes: How many: one for each episode of the loop.
        settings: Further ones of `collect_demonstrations`.
    """
    splits = {GOALS: seeds_of(GOALS, episodes)}
    return collect_demonstrations(root, task, splits=splits, **settings).root


def _require_same(root: Path, about: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> None:
    different = [name for name in _SAME if any(about[name] != other[name] for other in others)]
    if different:
        raise DatasetError(
            expected=f"goals of the same {', '.join(_SAME)} as the demonstrations in {root}",
            got=f"others: {', '.join(different)}",
            fix="Collect both with the same settings.",
        )


def _read_about(root: Path) -> dict[str, Any]:
    """Return the content of `dataset.json`, whose needed entries are there and of the right kind."""
    about = read_json(root / layout.DATASET_FILE)
    kinds = {"dataset": str, "embodiment": str, "stride": int, "cameras": list, "seeds": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(about.get(name), kind)]
    wrong += [] if wrong or len(set(map(str, about["cameras"]))) == len(about["cameras"]) else ["cameras"]
    if wrong or about["stride"] < 1:
        raise DatasetError(
            expected=f"{', '.join(kinds)} in {root / layout.DATASET_FILE}",
            got=f"no usable {', '.join(wrong or ['stride'])}",
            fix="Write the dataset anew with `lary data`.",
        )
    return about
