"""Benchmarks: `python benchmarks/run.py <case> [--json] [--save] [key=value ...]`.

Both sides of a comparison run in this process on the same data, interleaved, so that a noisy machine disturbs
the ratio little. With --json each figure is one object a line; --save also writes them to
benchmarks/results/<case>-<dtype>-<torch>-<device>.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from case import Case, Figure  # noqa: E402

# One row a case: the module that measures it and its settings with their defaults.
CASES = (
    Case(
        "drop_in",
        "cases_drop_in",
        {
            "policies": "act,diffusion",
            "encoder": "dinov2-small",
            "image_px": 84,
            "encoder_px": 84,
            "train_episodes": 40,
            "val_episodes": 10,
            "steps": 200,
            "batch": 8,
            "seeds": 3,
            "lr": 3e-4,
            "episodes": 10,
            "output_dir": "outputs",
        },
    ),
    Case(
        "encode",
        "cases_encode",
        {"encoder": "dinov2-small", "image_px": 112, "batch": 32, "repeats": 7, "dtype": "float32"},
    ),
    Case(
        "encoders",
        "cases_encoders",
        {"encoders": "all", "image_px": 0, "batch": 2, "repeats": 3, "dtype": "float32", "compile": 0},
    ),
    Case(
        "metaworld",
        "cases_metaworld",
        {
            "parts": "experts,render,demos,memory",
            "tasks": "all",
            "seeds": 4,
            "task": "metaworld/pick-place-v3",
            "image_px": 128,
            "worlds": 32,
            "demos": 50,
            "episodes": 1000,
            "threads": 0,
            "repeats": 5,
        },
    ),
    Case(
        "policy_train",
        "cases_policy_train",
        {
            "task": "reach",
            "encoder": "dinov2-small",
            "image_px": 112,
            "cameras": 2,
            "demos": 8,
            "batch": 8,
            "steps": 20,
            "cached_steps": 200,
            "whole_run": 5000,
            "types": "lary,lary_act,lary_diffusion",
            "repeats": 3,
        },
    ),
    Case(
        "probes",
        "cases_probes",
        {
            "encoder": "dinov2-small",
            "episodes": 4,
            "rows": 768,
            "head": "mlp-matched",
            "clips": 16,
            "clip_frames": 150,
            "sweep_batch": 16,
            "image_px": 224,
            "repeats": 3,
            "parts": "extraction,clips,sweep",
        },
    ),
    Case(
        "ray",
        "cases_ray",
        {
            "parts": "workers,memory",
            "encoder": "dinov2-small",
            "image_px": 112,
            "frames": 384,
            "shard_rows": 16,
            "rows": 200_000,
            "dtype": "float32",
        },
    ),
    Case(
        "rollout",
        "cases_rollout",
        {
            "task": "reach",
            "encoders": "dinov2-small,pixels",
            "image_px": 128,
            "worlds": 0,
            "steps": 20,
            "lerobot": "sync,async",
            "async_worlds": 0,
            "repeats": 3,
            "head": "mlp-small",
            "dtype": "float32",
            "compile": 0,
        },
    ),
    Case(
        "sim",
        "cases_sim",
        {
            "task": "pick_place",
            "worlds": "auto",
            "image_px": "64,128,224",
            "physics": "auto",
            "threads": 0,
            "steps": 100,
            "repeats": 5,
        },
    ),
    Case(
        "storage",
        "cases_storage",
        {
            "parts": "folder,s3",
            "encoder": "dinov2-small",
            "share": 0.001,
            "batch": 16,
            "epochs": 2,
            "output_dir": "",
            "dtype": "float16",
        },
    ),
    Case(
        "stream",
        "cases_stream",
        {
            "encoder": "dinov2-large",
            "image_px": 0,
            "batch": 256,
            "batches": 24,
            "dtype": "bfloat16",
            "compile": 1,
            "output_dir": "outputs",
        },
    ),
    Case("suite", "cases_suite", {"suite": "quick", "output_dir": "outputs"}),
)


def main() -> int:
    """Run the chosen case and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=[c.name for c in CASES])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/")
    parser.add_argument("--device", default="auto", help="auto | cpu | cuda")
    parser.add_argument("settings", nargs="*", help="key=value")
    options = parser.parse_intermixed_args()  # options may stand before the settings
    from lary_policy.machine import resolve_device, share_heap

    share_heap()  # as `lary` does: before there are threads
    case = next(c for c in CASES if c.name == options.case)
    settings = {**case.settings, **_parse(options.settings, case, parser)}
    settings["device"] = resolve_device(options.device)
    rows = []
    for figure in _measure(case, settings):
        rows.append(row := {**figure.to_dict(case.name), **environment(settings)})
        print(json.dumps(row) if options.json else figure.line(case.name), flush=True)
    if options.save:
        path = result_path(case.name, settings)
        path.write_text("\n".join(json.dumps(r) for r in rows) + "\n")
        print(f"saved {path.relative_to(HERE.parent)}", file=sys.stderr)
    return 0


def _measure(case: Case, settings: dict[str, Any]) -> Iterator[Figure]:
    yield from importlib.import_module(case.module).run(**settings)


def _parse(pairs: list[str], case: Case, parser: argparse.ArgumentParser) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or key not in case.settings:
            parser.error(f"'{pair}': expected key=value with a key of {', '.join(case.settings)}")
        parsed[key] = type(case.settings[key])(value)
    return parsed


def environment(settings: dict[str, Any]) -> dict[str, Any]:
    """Return device, dtype and versions as they go into every JSON row."""
    import importlib.metadata

    import torch

    cuda = settings["device"].startswith("cuda")
    packages = ("torch", "transformers", "mujoco", "mujoco-warp", "warp-lang", "lerobot")
    return {
        "device": torch.cuda.get_device_name(0)
        if cuda
        else f"cpu {platform.machine()} x{torch.get_num_threads()}",
        "driver": _driver() if cuda else None,
        "dtype": settings.get("dtype", "float32"),
        "settings": {k: v for k, v in settings.items() if k != "device"},
        "versions": {name: importlib.metadata.version(name) for name in packages if _installed(name)},
    }


def _driver() -> str:
    import subprocess

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]


def _installed(name: str) -> bool:
    import importlib.metadata

    return any(True for d in importlib.metadata.distributions(name=name))


def result_path(case: str, settings: dict[str, Any]) -> Path:
    """Return the file of a saved result; its name carries the environment."""
    import torch

    device = (
        torch.cuda.get_device_name(0)
        if settings["device"].startswith("cuda")
        else f"cpu{torch.get_num_threads()}"
    )
    parts = (case, settings.get("dtype", "float32"), f"torch{torch.__version__}", device)
    return HERE / "results" / ("-".join(re.sub(r"[^A-Za-z0-9.]+", "_", p) for p in parts) + ".json")


if __name__ == "__main__":
    sys.exit(main())
