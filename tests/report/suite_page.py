"""A synthetic report of a whole probe suite: every figure and table that a run on LARYBench's files fills."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.paper.tables import REGRESSION
from lary_policy.report.parts import (
    Attention,
    ClassTail,
    Composition,
    Confusion,
    HeadInfo,
    SplitSize,
    Trajectory,
)
from lary_policy.scores.score import Score
from lary_policy.types import Quarantined

KEYS = {
    "vjepa2-large": "vjepa2",
    "dinov3-large": "dinov3-origin",
    "wan2.2-vae": "wan2-2",
    "lapa-dinov3": "dinov3",
    "lapa-dinov3:cs64-sl49-dim64": "dinov3-cs64-sl49-dim64",
    "lapa-dinov3:cs64-sl49-dim256": "dinov3-cs64-sl49-dim256",
    "lapa-dinov3:cs64-sl49-dim1024": "dinov3-cs64-sl49-dim1024",
}
TASKS = ("calvin", "vlabench", "vlabench_15", "vlabench_30", "robocoin", "agibotbeta")
CLASSES = {"libero": 28, "human_1st": 123, "robot_1st": 54}
HEADS = {"lary": ("mlp4096-flatten",), "native": ("mlp4096-flatten", "mlp512-attentive16x64")}
VERBS = (
    "place", "pick", "grab", "reach", "fold", "withdraw", "open", "pour", "pull", "twist", "drop", "roll",
    "wipe", "insert", "cover", "scoop", "hang", "cut", "mix", "hammer", "clap", "flatten", "knead", "water",
    "mop", "peel", "ascend", "bounce", "dump", "erase", "grate", "pinch",
)  # fmt: skip


def _scores() -> Iterator[Score]:
    rng = np.random.default_rng(0)
    shared = {
        "stage": "probe",
        "embodiment": "-",
        "n": 900,
        "seed": 0,
        "fingerprint": "f00d",
        "seconds": 12.0,
    }
    for place, encoder in enumerate(KEYS):
        for protocol in ("lary", "native"):
            split = "val" if protocol == "lary" else "test"
            ablation = ":" in encoder  # the paper has these on three datasets only
            for task in ("agibotbeta",) if ablation else TASKS:
                for head in HEADS[protocol]:
                    error = 0.2 + 0.08 * place + 0.03 * TASKS.index(task) + 0.02 * rng.random()
                    own = {
                        "encoder": encoder,
                        "head": head,
                        "task": task,
                        "mode": "pair",
                        "protocol": protocol,
                    }
                    for metric, value in (("mse", error), ("mse/position", 0.8 * error), ("r2", 1 - error)):
                        yield Score(**own, **shared, target="absolute", metric=metric, value=value,
                                    ci95=(value - 0.02, value + 0.03), split=split)  # fmt: skip
            for task in ("human_1st", "robot_1st") if ablation else CLASSES:
                accuracy = 0.8 - 0.09 * place - 0.02 * rng.random()
                own = {"encoder": encoder, "head": "attentive768x4", "task": task, "protocol": protocol}
                mode = "atomic" if task == "libero" else "composite"
                for metric, value in (("top1", accuracy), ("f1_macro", 0.8 * accuracy)):
                    yield Score(**own, **shared, mode=mode, target="class", metric=metric, value=value,
                                ci95=(value - 0.02, value + 0.02), split=split)  # fmt: skip


def _heads(scores: tuple[Score, ...]) -> Iterator[HeadInfo]:
    fields = ("encoder", "task", "protocol", "head", "target")
    for key in dict.fromkeys(tuple(getattr(s, f) for f in fields) for s in scores):
        own = dict(zip(fields, key, strict=True))
        statistics = "train split" if own["task"] in REGRESSION else ""
        key = KEYS[own["encoder"]]
        yield HeadInfo(
            **own, reference_key=key, num_params=34_000_123, best_epoch=20, lr=1e-4, weight_decay=1e-4,
            statistics=statistics, seconds=321.0, seed=0,
        )  # fmt: skip


def _tails() -> Iterator[ClassTail]:
    rng = np.random.default_rng(1)
    for place, encoder in enumerate(tuple(KEYS)[:4]):
        for task in ("human_1st", "robot_1st"):
            count = CLASSES[task]
            names = (*VERBS, *(f"verb {i}" for i in range(len(VERBS), count)))
            train = np.maximum(1, 200_000 / np.arange(1, count + 1) ** 1.9).astype(int)
            test = np.maximum(0, train // 10)
            f1 = np.clip(0.85 - 0.15 * place - 0.004 * np.arange(count) + 0.1 * rng.normal(size=count), 0, 1)
            yield ClassTail(encoder, task, "lary", "attentive768x4", names, tuple(train.tolist()),
                            tuple(test.tolist()), tuple(f1.tolist()))  # fmt: skip


def picture(shift: int, px: int = 96) -> str:
    """Return a scene of a ball over a table as base64 JPEG."""
    y, x = np.mgrid[0:px, 0:px]
    image = np.stack([120 + 0.8 * x, 150 - 0.5 * y, 90 + 0.4 * y], -1)
    image[y > 70] = (110, 80, 50)
    image[(x - 20 - 6 * shift) ** 2 + (y - 60) ** 2 < 120] = (220, 40, 40)
    buffer = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def attention_of(encoder: str, steps: int, side: int, frames: int, flat: bool = False) -> Attention:
    rng = np.random.default_rng(steps)
    y, x = np.mgrid[0:side, 0:side]
    maps = []
    for step in range(steps):
        centre = (20 + 6 * step * frames / steps) / 96 * side
        heat = np.exp(-((x - centre) ** 2 + (y - 0.63 * side) ** 2) / (0.02 * side**2)) + 0.1 * rng.random(
            (side, side)
        )
        maps.append(heat.reshape(1, -1) if flat else heat)
    weights = np.stack(maps) / np.mean(maps)
    shown = tuple(picture(i) for i in range(frames))
    return Attention(encoder, "human_1st", "native", "pour", "place", weights.tolist(), shown)


def _compositions() -> Iterator[Composition]:
    splits = ("train", "val", "test")
    for task, kind, count in (
        ("human_1st", "class", 123), ("libero", "class", 28), ("human_1st", "collection", 6),
        ("robocoin", "robot", 5), ("agibotbeta", "collection", 19),
    ):  # fmt: skip
        totals = 200_000 / np.arange(1, count + 1) ** (1.9 if count > 100 else 0.4)
        rows = tuple((int(0.7 * t), int(0.1 * t), int(0.2 * t)) for t in totals)
        names = tuple(f"{kind} number {i}" for i in range(count))
        yield Composition(task, "native", kind, splits, names, rows)


def _trajectories() -> Iterator[Trajectory]:
    rng = np.random.default_rng(0)
    labels, units = (
        ("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
        ("m", "m", "m", "rad", "rad", "rad", ""),
    )
    steps = np.linspace(0, 3, 60)
    true = np.stack([np.sin(steps * (i + 1) / 2 + i) * 0.1 for i in range(7)], axis=1)
    for place, encoder in enumerate(tuple(KEYS)[:3]):
        predicted = true + rng.normal(0, 0.01 + 0.01 * place, true.shape)
        where = ("calvin (native, mlp-reference)", "pair", "absolute", "test calvin_metadata_val.csv:2")
        yield Trajectory(encoder, *where, labels, true, predicted, units)


def suite_bundle() -> ReportBundle:
    """Return a report in which nothing is missing."""
    scores = tuple(_scores())
    sizes = (("train", "train", 120_000), ("val", "select", 11_969), ("test", "report", 30_000))
    labels = tuple(VERBS[:14])
    confusion = np.random.default_rng(3).poisson(1 + 20 * np.eye(14)).tolist()
    return ReportBundle(
        "What do these latents know of action?", "larybench, protocol both", scores,
        trajectories=tuple(_trajectories()),
        confusions=(Confusion("vjepa2-large", "libero (lary, attentive768x4)", labels, confusion),),
        quarantined=(Quarantined("calvin_metadata_val.csv:7", "expected an image; got 60 bytes", "extract"),),
        inputs_checked=23_938, heads=tuple(_heads(scores)), tails=tuple(_tails()),
        attention=(
            attention_of("dinov3-large", 9, 14, 9), attention_of("vjepa2-large", 4, 14, 9),
            attention_of("lapa-dinov3", 8, 4, 9),
            attention_of("lapa-dinov3:cs64-sl49-dim64", 8, 4, 9, flat=True),
        ),
        splits=tuple(SplitSize("human_1st", "native", s, r, n, n // 4, 123) for s, r, n in sizes),
        compositions=tuple(_compositions()), stage_seconds={"extract": 100.0, "probe": 800.0},
        environment={"device": "cpu"}, notes=("A note.",), closed_loop=False,
    )  # fmt: skip
