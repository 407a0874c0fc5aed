"""Physics, rendering and both together, of one world and of many, against MuJoCo's step and renderer."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch

from case import Figure
from checks import require_motion, require_pictures
from gl import make_renderer
from lary_envs import EndEffectorController, SimEnv
from lary_envs.physics import Bounded, make_physics
from lary_policy.machine import available_cores, intra_op_threads
from scene_copy import PlainWorld, swing
from timing import timed

WARM_UP = 1
WORLDS = {"cpu": "1,16,64", "cuda": "1,64,1024,8192"}
GL_FRAMES = 4  # of one repeat: a software renderer takes up to 0.1 s a frame
BOTH_STEPS = 2  # control steps with a frame after each, in one repeat


def run(
    task: str, worlds: str, image_px: str, physics: str, threads: int, steps: int, repeats: int, device: str
) -> Iterator[Figure]:
    """Yield rates by number of worlds; 1 to n on every line, so that scaling can be read off.

    Args:
        task: Name of a task of any embodiment.
        worlds: Numbers of worlds with commas between; `auto` is 1,16,64 on a CPU and up to 8192 on CUDA.
        image_px: Sides of frames with commas between.
        physics: Engine, see `SimEnv`.
        threads: CPU threads of our side; 0 for all cores. The baselines are MuJoCo's own: `mj_step` on one
            thread, and a renderer that takes the threads it likes.
        steps: Control steps of one repeat of the physics.
        repeats: Timed repeats of each measurement.
        device: Where frames are rendered, on CUDA also where physics runs.
    """
    counts = _numbers(WORLDS[device.split(":")[0]] if worlds == "auto" else worlds)
    options = {"render_device": device, "num_threads": threads or None, "physics": physics}
    yield Figure("threads", threads or available_cores(), "threads")
    with intra_op_threads(1):  # as in the closed loop, where two make small operations slower
        for count in counts:
            yield _physics(task, count, steps, repeats, options)
            yield _control(task, count, steps, repeats, options)
        for px in _numbers(image_px):
            for count in counts:
                yield from _frames(task, count, px, repeats, options)


def _physics(task: str, count: int, steps: int, repeats: int, options: dict) -> Figure:
    """Measure the engine alone: no success conditions, no measurement of poses."""
    plain, device = PlainWorld(task), options["render_device"]
    engine = make_physics(
        options["physics"], plain.model, count, device=device, num_threads=options["num_threads"],
        contacts=plain.robot.contacts,
    )  # fmt: skip
    state = plain.initial.draw(range(count))
    engine.reset(*state)
    start, rest = engine.field("qpos").clone(), state[-1].to(engine.device, torch.float32)
    commands = [swing(rest, step) for step in range(steps)]
    first = [swing(state[-1][0], step).numpy() for step in range(steps)]
    plain.reset(0)

    def ours() -> None:
        for ctrl in commands:
            engine.step(ctrl, plain.substeps)

    def bare() -> None:
        for ctrl in first:
            plain.step(ctrl)

    seconds = _interleaved({"ours": ours, "bare": bare}, repeats, device)
    if isinstance(engine, Bounded):
        engine.check_overflow()
    require_motion(start, engine.field("qpos"), f"physics of {count} worlds")
    work = steps * plain.substeps
    baseline = work / statistics.median(seconds["bare"])
    return _rate(f"physics_{count}w", count * work, seconds["ours"], "physics steps/s", baseline)


def _control(task: str, count: int, steps: int, repeats: int, options: dict) -> Figure:
    """Measure `SimEnv.step`, which also keeps the success conditions."""
    env, rest = _started(task, count, 32, options)

    def ours() -> None:
        for step in range(steps):
            env.step(swing(rest, step), validate=env.device.type == "cpu")

    seconds = _interleaved({"ours": ours}, repeats, options["render_device"])
    env.check()
    env.close()
    return _rate(f"control_{count}w", count * steps, seconds["ours"], "control steps/s", None)


def _frames(task: str, count: int, px: int, repeats: int, options: dict) -> Iterator[Figure]:
    """Measure frames of standing worlds, then of moving ones, and mujoco.Renderer on the first world."""
    env, rest = _started(task, count, px, options)
    before = env.joints()
    env.step(swing(rest, 5))
    require_motion(before, env.joints(), f"{count} worlds")
    require_pictures(env.frames()[:, 0].cpu(), f"{count} worlds at {px} px")

    def both() -> None:
        for step in range(BOTH_STEPS):
            env.step(swing(rest, step), validate=env.device.type == "cpu")
            env.frames()

    sides: dict[str, Callable[[], object]] = {"render": lambda: env.frames(), "both": both}
    plain = PlainWorld(task)
    plain.reset(0)
    renderer = make_renderer(plain.model, px)
    if renderer is not None:
        sides["gl"] = lambda: [_gl_frame(plain, renderer, env.cameras[0]) for _ in range(GL_FRAMES)]
        require_pictures(_gl_frame(plain, renderer, env.cameras[0])[None], "mujoco.Renderer")
    seconds = _interleaved(sides, repeats, options["render_device"])
    env.check()
    env.close()
    baseline = None
    if renderer is not None:
        renderer.close()
        baseline = GL_FRAMES / statistics.median(seconds["gl"])
    yield _rate(f"render_{px}px_{count}w", count, seconds["render"], "frames/s", baseline)
    yield _rate(f"sim_render_{px}px_{count}w", count * BOTH_STEPS, seconds["both"], "frames/s", None)


def _gl_frame(plain: PlainWorld, renderer: object, camera: str) -> torch.Tensor:
    renderer.update_scene(plain.data, camera)  # type: ignore[attr-defined]
    return torch.from_numpy(renderer.render())  # type: ignore[attr-defined]


def _started(task: str, count: int, px: int, options: dict) -> tuple[SimEnv, torch.Tensor]:
    """Return worlds at their initial states and the commands that keep them there."""
    env = SimEnv(task, count, image_px=px, **options)
    env.reset(range(count))
    controller = EndEffectorController(count, embodiment=env.task.embodiment, device=env.device)
    controller.reset(env.joints())
    return env, controller.command(controller.pose())


def _interleaved(sides: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + WARM_UP):
        for name, side in sides.items():
            elapsed = timed(side, device)
            if repeat >= WARM_UP:
                seconds[name].append(elapsed)
    return seconds


def _rate(metric: str, work: int, seconds: list[float], unit: str, baseline: float | None) -> Figure:
    rates = [work / s for s in seconds]
    return Figure(metric, statistics.median(rates), unit, baseline, low=min(rates), high=max(rates))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in str(text).split(",")]
