"""Results of finished cells as plain data, as runs hand them to their report."""

from __future__ import annotations

from typing import Any

from lary_policy.runs.results import Results

LABELS = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
UNITS = ("m", "m", "m", "rad", "rad", "rad", "")


def score(stage: str, encoder: str, metric: str, value: float, **changes: Any) -> dict[str, Any]:
    """Return one score as results hold it."""
    fields = {
        "stage": stage, "encoder": encoder, "head": "mlp512-project32", "embodiment": "arm7", "task": "reach",
        "mode": "pair", "target": "relative", "metric": metric, "value": value,
        "ci95": [value - 0.01, value + 0.01], "n": 50, "split": "test", "seed": 0, "protocol": "native",
        "fingerprint": f"fp-{encoder}", "seconds": 1.0,
    }  # fmt: skip
    return {**fields, **changes}


def extracted(encoder: str, **changes: Any) -> dict[str, Any]:
    fields = {
        "task": "reach", "protocol": "native", "encoder": encoder, "fingerprint": f"fp-{encoder}",
        "unit": "frame", "requested": 100, "unique": 90, "encoded": 80, "reused": 10, "rows": {},
        "quarantined": [], "codebook": None, "seconds": 2.0,
    }  # fmt: skip
    return {**fields, **changes}


def probed(encoder: str, value: float, **changes: Any) -> dict[str, Any]:
    """Return the result of a head that predicts actions."""
    own = {k: changes[k] for k in ("task", "protocol", "head", "seed", "mode", "target") if k in changes}
    counts = {"rows": 60, "used": 58, "left_out": {"disturbed": 2}}
    fields = {
        "task": "reach", "protocol": "native", "encoder": encoder, "reference_key": None, "mode": "pair",
        "target": "relative", "head": "mlp512-project32", "num_params": 1234, "best_epoch": 3,
        "precision": "float32", "seed": 0, "member": [1e-3, 1e-4], "history": [[1.0, 0.5]],
        "quarantined": [{"item": "ep_3/frame_1.png", "reason": "truncated", "where": "extract"}],
        "seconds": 3.0, "scores": [score("probe", encoder, "mse", value, **own)],
        "rows": {"train": counts}, "constant": [["gripper", 1.0]],
        "trajectory": {
            "episode": "test 0", "labels": list(LABELS), "units": list(UNITS),
            "true": [[0.1 * (step + d) for d in range(6)] + [1.0] for step in range(8)],
            "predicted": [[0.1 * (step + d) + value for d in range(6)] + [1.0] for step in range(8)],
        },
    }  # fmt: skip
    return {**fields, **changes}


def classified(encoder: str, value: float, **changes: Any) -> dict[str, Any]:
    """Return the result of a head that predicts classes."""
    own = {"task": "libero", "mode": "atomic", "target": "class", "head": "attentive768x4", **changes}
    told = {k: own[k] for k in ("task", "protocol", "head", "seed", "mode", "target") if k in own}
    row = probed(encoder, value, **own)
    for name in ("constant", "trajectory"):
        del row[name]
    classes = [{"name": n, "train": 9, "test": 5, "precision": 0.5, "recall": 0.5, "f1": 0.5} for n in "ab"]
    return {
        **row,
        "classes": classes,
        "num_classes": [2, 28],
        "confusion": {"labels": ["a", "b"], "counts": [[4, 1], [2, 3]]},
        "scores": [score("probe", encoder, "top1", value, **{**told, "embodiment": "-"})],
    }


def rolled_out(encoder: str, value: float, **changes: Any) -> dict[str, Any]:
    """Return the result of a closed loop of four episodes."""
    head = changes.get("head", "mlp512-project32")
    facts = {"task": "reach", "encoder": encoder, "head": head, "mode": "subgoal", "target": "relative"}
    episodes = [
        {"seed": 300_000 + i, "success": i / 4 < value, "success_at_end": False, "steps": 50,
         "first_success_step": None, "failure": None if i else "non_finite_action", "smoothness": 0.0,
         "progress": 0.25}
        for i in range(4)
    ]  # fmt: skip
    told = {"head": head, "mode": "subgoal", "split": "seeds 300000-300003", "n": 4}
    low, high = max(0.0, value - 0.3), min(1.0, value + 0.3)
    scores = [score("rollout", encoder, "success", value, ci95=[low, high], **told)]
    fields = {**facts, "seed": 0, "scores": scores, "episodes": episodes, "video": "films/gone.mp4"}
    return {**fields, "seconds": 4.0, **changes}


def simulated() -> Results:
    """Return the results of a run on a simulated task, everything finished."""
    mse, success = {"pixels": 0.5, "dinov2-small": 0.3}, {"pixels": 0.25, "dinov2-small": 0.75}
    loops = [rolled_out(name, value) for name, value in success.items()]
    loops += [rolled_out("-", 1.0, head="expert"), rolled_out("pixels", 0.0, head="random")]
    left_out = {"item": "episode 3", "reason": "the expert failed", "where": "data"}
    codes = {"codes": 8, "used": 6, "perplexity": 4.2, "dead": [1, 7], "tokens": 2400}
    return Results(
        data=[{"task": "reach", "seconds": 5.0, "failed": [left_out]}],
        extract=[extracted(name, codebook=codes if name == "pixels" else None) for name in mse],
        probe=[probed(name, value) for name, value in mse.items()],
        rollout=loops,
    )


def of_files() -> Results:
    """Return the results of a run on recorded files with classes, under both protocols."""
    extract = [extracted("pixels", task="libero", protocol=p) for p in ("native", "lary")]
    return Results(extract=extract, probe=[classified("pixels", 0.5, protocol=p) for p in ("native", "lary")])
