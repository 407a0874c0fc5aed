"""Simulated demonstrations: scripted experts recorded as a dataset in the LARYBench layout."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lary_policy.data.atomic import DEFAULT_THRESHOLD_M
from lary_policy.data.simulated.publish import (
    OPTIONAL,
    PROGRESS_FILE,
    DemonstrationReport,
    layout_of,
    publish,
    reuse,
)
from lary_policy.data.simulated.recorder import Disturbance, EpisodeJob, Recording, record_episodes
from lary_policy.data.simulated.writer import (
    DemonstrationLayout,
    EpisodeRecord,
    records_from_json,
    records_to_json,
    write_episode,
)
from lary_policy.errors import DatasetError
from lary_policy.machine import as_made, available_cores, intra_op_threads
from lary_policy.paths import (
    exclusive,
    foreign_file,
    is_vacant,
    lock_beside,
    read_json,
    safe_name,
    write_json,
)
from lary_policy.settings import some_and_different

_log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
_LEAST = 8  # episodes of each thread: with fewer, making its worlds takes longer than they do
GOALS = "rollout"  # the split that a closed loop follows
DENSE = "train-dense"  # the training split once more, with a chunk from every control step
# Disjoint ranges of seeds: what is evaluated was never trained on.
FIRST_SEED = {"train": 0, "val": 100_000, "test": 200_000, GOALS: 300_000}


def seeds_of(split: str, count: int) -> list[int]:
    """Return the episode seeds of a split."""
    return list(range(FIRST_SEED[split], FIRST_SEED[split] + count))


def even_batches(jobs: Sequence[EpisodeJob], num_worlds: int) -> list[Sequence[EpisodeJob]]:
    """Cut the jobs into batches of almost equal size, so that few worlds idle in the last one."""
    size = math.ceil(len(jobs) / math.ceil(len(jobs) / num_worlds))
    return [jobs[i : i + size] for i in range(0, len(jobs), size)]


class ExpertSession:
    """Records batches of scripted episodes in `num_worlds` worlds.

    `config` are settings of the collection (`task`, `cameras`, `image_px`, `noise`, perhaps `looks` and
    `randomisation`).
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        num_worlds: int,
        render_device: str,
        num_threads: int | None = None,
    ) -> None:
        from lary_envs import open_world

        self._noise = config["noise"]
        self._env = open_world(
            config["task"],
            num_worlds,
            cameras=tuple(config["cameras"]),
            image_px=config["image_px"],
            render_device=render_device,
            num_threads=num_threads,
            looks=config.get("looks", "primitives"),
            randomisation=config.get("randomisation", "none"),
            physics="mujoco",  # the same demonstrations on every machine
        )
        self._controller = self._env.controller()

    def record(
        self, jobs: Sequence[EpisodeJob], form: DemonstrationLayout, *, every_step: bool = False
    ) -> list[Recording]:
        """Record one episode for each job, at most as many as there are worlds.

        With `every_step` frames and states are taken at every control step, not only where chunks start.
        """
        idle = self._env.num_worlds - len(jobs)
        seeds = [job.seed for job in jobs] + [jobs[-1].seed] * idle
        self._env.reset(seeds)
        self._controller.reset(self._env.joints())
        expert = self._env.expert()
        expert.reset()
        disturbance = Disturbance(
            seeds,
            self._env.layout.num_arms,
            form.stride,
            std_m=self._noise["std_m"],
            std_rad=self._noise["std_rad"],
            enabled=[job.split in self._noise["splits"] for job in jobs] + [False] * idle,
        )
        return record_episodes(
            self._env, self._controller, expert, jobs, disturbance, stride=form.stride,
            every_step=every_step or form.every == 1,
        )  # fmt: skip

    def close(self) -> None:
        """Free the renderer."""
        self._env.close()


def collect_demonstrations(
    root: Path,
    task: str,
    *,
    splits: Mapping[str, Sequence[int]],
    cameras: Sequence[str] = ("front",),
    image_px: int = 112,
    stride: int = 5,
    noise_std_m: float = 0.0,
    noise_std_rad: float = 0.0,
    noise_splits: Sequence[str] = ("train",),
    label_threshold_m: float = DEFAULT_THRESHOLD_M,
    num_worlds: int = 50,
    render_device: str = "cpu",
    looks: str = "primitives",
    randomisation: str = "none",
    dense: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> DemonstrationReport:
    """Record one scripted episode for each seed and publish the dataset at `root` when all are done.

    Unfinished work lies in a hidden folder beside `root`; the same call continues it. A complete dataset of
    equal settings is reused. Episodes the expert fails are left out and listed. The data depend on settings
    and seeds alone, not on `num_worlds`.

    Args:
        root: Folder of the dataset; its parent is created.
        task: Task name of `lary_envs`; also the dataset's name.
        splits: Seeds of each split, all different.
        cameras: Cameras to record; the first one goes to `images/`.
        image_px: Width and height of the frames.
        stride: Control steps k of a chunk.
        noise_std_m: Standard deviation of the offset of executed positions at every held step (0 = none).
        noise_std_rad: The same for the rotation numbers.
        noise_splits: Splits that are disturbed.
        label_threshold_m: Smallest displacement along an axis that names a direction.
        num_worlds: Worlds simulated side by side.
        render_device: Device of the renderer.
        looks: Of the robot, as in `lary_envs.SimEnv`.
        randomisation: Level of randomisation, as in `lary_envs.SimEnv`.
        dense: Whether a chunk starts, and a frame is kept, at every control step: `stride` times the frames.
        on_progress: Called with (episodes done, episodes in all).

    Raises:
        DatasetError: `root` holds something else, seeds repeat, or not one episode of a split succeeded.
        StoreError: The disk is full or not writable; finished episodes are kept.
    """
    from lary_envs.tasks import task_spec

    root, jobs = Path(root), _jobs(splits)
    config = _config(task, splits, tuple(cameras), image_px, stride, label_threshold_m)
    config["noise"] = {"std_m": noise_std_m, "std_rad": noise_std_rad, "splits": sorted(noise_splits)}
    further = {"looks": looks, "randomisation": randomisation, "windows": "dense" if dense else "chunks"}
    config |= {name: value for name, value in further.items() if value != OPTIONAL[name]}
    with exclusive(lock_beside(root)):  # two that collect the same: one waits and reuses
        if not is_vacant(root):
            return reuse(root, config)
        folder = root.parent / f".{root.name}.partial"
        records, seconds = _collect(folder, config, jobs, num_worlds, render_device, on_progress)
        return publish(root, folder, config, records, seconds, task_spec(task).packages)


def _collect(
    folder: Path,
    config: Mapping[str, Any],
    jobs: Sequence[EpisodeJob],
    num_worlds: int,
    render_device: str,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[list[EpisodeRecord], float]:
    """Record the episodes that `folder` lacks; return all records and the seconds they took in all."""
    records, spent = _resume(folder, config)
    start = time.perf_counter() - spent
    done = {r.episode for r in records}
    todo = [job for job in jobs if job.episode not in done]
    if not todo:
        return records, spent
    form = layout_of(config)
    # On a CPU batches run side by side: physics, rendering and writing of one wait for each other.
    threads = min(available_cores(), max(1, len(todo) // _LEAST)) if render_device == "cpu" else 1
    rounds = math.ceil(len(todo) / (threads * num_worlds))
    batches = even_batches(todo, math.ceil(len(todo) / (threads * rounds)))
    each = available_cores() // threads if threads > 1 else None
    free: SimpleQueue[ExpertSession] = SimpleQueue()

    def keep(recording: Recording) -> EpisodeRecord:
        return _failed(recording) if recording.failure else write_episode(folder, form, recording)

    def record(batch: Sequence[EpisodeJob]) -> list[EpisodeRecord]:
        session = free.get()
        try:
            with intra_op_threads(1):
                return [keep(recording) for recording in session.record(batch, form)]
        finally:
            free.put(session)

    with ExitStack() as opened:
        for _ in range(threads):
            session = ExpertSession(config, len(batches[0]), render_device, each)
            free.put(opened.enter_context(closing(session)))
        calls = [partial(record, batch) for batch in batches]
        for _, found in opened.enter_context(closing(as_made(calls, threads))):
            records += found
            _save_progress(folder, config, records, time.perf_counter() - start)
            if on_progress is not None:
                on_progress(len(records), len(jobs))
    return records, time.perf_counter() - start


def _jobs(splits: Mapping[str, Sequence[int]]) -> list[EpisodeJob]:
    seeds = [(split, int(seed)) for split, values in splits.items() for seed in values]
    if not seeds or len({seed for _, seed in seeds}) != len(seeds):
        raise DatasetError(
            expected="at least one seed and every seed once over all splits",
            got=f"{len(seeds)} seeds, {len({s for _, s in seeds})} different",
            fix="Give each split its own range of seeds.",
        )
    return [EpisodeJob(number, seed, split) for number, (split, seed) in enumerate(seeds)]


def _config(
    task: str,
    splits: Mapping[str, Sequence[int]],
    cameras: tuple[str, ...],
    image_px: int,
    stride: int,
    threshold: float,
) -> dict[str, Any]:
    from lary_envs.tasks import task_spec

    spec = task_spec(task)
    some_and_different("cameras", cameras)
    return {
        "dataset": safe_name(task),
        "task": task,
        "embodiment": spec.embodiment,
        "control_hz": spec.control_hz,
        "stride": stride,
        "cameras": list(cameras),
        "image_px": image_px,
        "label_threshold_m": threshold,
        "seeds": {split: [int(s) for s in seeds] for split, seeds in splits.items()},
    }


def _failed(recording: Recording) -> EpisodeRecord:
    job, steps = recording.job, len(recording.clean)
    return EpisodeRecord(
        job.episode, job.seed, job.split, steps, False, recording.success_step, failure=recording.failure
    )


def _save_progress(
    partial: Path, config: Mapping[str, Any], records: Sequence[EpisodeRecord], seconds: float
) -> None:
    progress = {"config": config, "records": records_to_json(records), "seconds": seconds}
    write_json(partial / PROGRESS_FILE, progress, seal=True)


def _resume(partial: Path, config: Mapping[str, Any]) -> tuple[list[EpisodeRecord], float]:
    """Return finished episodes of an interrupted collection with equal settings and the seconds they took."""
    if (partial / PROGRESS_FILE).is_file():
        try:
            with foreign_file("progress of a collection", partial / PROGRESS_FILE, "Collect anew."):
                progress = read_json(partial / PROGRESS_FILE)
                if progress.get("config") == config:
                    return list(records_from_json(progress["records"])), float(progress["seconds"])
        except DatasetError as error:
            _log.warning("collecting anew: %s", error)
    if partial.exists():
        shutil.rmtree(partial)
    return [], 0.0
