"""What a GPU is asked, in one command of eight minutes: `make gpu`.

Doctor, the tests marked gpu, the quick suite against the committed results of a CPU, then benchmarks. The
file benchmarks/results/gpu-<device>.json is written as each part ends. A part is stopped at its limit, and
not begun when the eight minutes are over, so that a machine that compiles every kernel ends too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS, ROOT = HERE / "results", HERE.parent
CPU_SUITE = "suite_quick-auto-torch2.11.0_cu130-cpu2-epyc.json"
TOTAL_S = 480
# What no GPU has shown yet comes first: frames after resets, then graphs and streams, then the rest.
TESTS = ("tests/envs/test_rendering.py", "tests/envs/test_warp_cuda.py", "tests")
CASES = (
    "sim worlds=64,1024 image_px=128,512 steps=10 repeats=3",
    "rollout lerobot=none repeats=2",
    "stream",
    "encoders encoders=dinov2-small,dinov2-large batch=64",
)


@dataclass(frozen=True)
class Part:
    """A command, and the seconds after which it is stopped."""

    name: str
    command: tuple[str, ...]
    limit_s: int


def parts(output_dir: Path, device: str) -> list[Part]:
    """Return everything that is run, in order."""
    lary = (sys.executable, "-m", "lary_policy.cli")
    suite = ("suite", "suite=quick", f"device={device}", f"output_dir={output_dir}", "run=gpu")
    return [
        Part("doctor", (*lary, "doctor", "--device", device), 90),
        Part("tests", (sys.executable, "-m", "pytest", "-q", "-m", "gpu", *TESTS), 150),
        Part("suite", (*lary, *suite), 200),
        *(
            Part(
                f"bench {case.split()[0]}",
                (sys.executable, str(HERE / "run.py"), *case.split(), "--json", "--save", "--device", device),
                60,
            )
            for case in CASES
        ),
    ]


def run_part(part: Part, limit_s: float) -> dict[str, Any]:
    """Run a command for at most so many seconds; return its exit status, seconds and last lines.

    The status is None for one that was stopped.
    """
    began = time.perf_counter()
    try:
        done = subprocess.run(
            part.command, cwd=ROOT, timeout=limit_s, check=False, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        status, said = done.returncode, done.stdout
    except subprocess.TimeoutExpired as stopped:
        raw = stopped.stdout or b""
        status, said = None, raw.decode(errors="replace") if isinstance(raw, bytes) else raw
    row = {"part": part.name, "status": status, "seconds": round(time.perf_counter() - began, 1)}
    return {**row, "command": " ".join(part.command[1:]), "last": said.splitlines()[-15:]}


def _successes(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], Mapping[str, Any]]:
    names = ("encoder", "task", "mode", "target", "head")
    chosen = [r for r in rows if r["stage"] == "rollout" and r["metric"] == "success" and r["ci95"]]
    return {tuple(str(row[name]) for name in names): row for row in chosen}


def compare_suites(
    mine: Sequence[Mapping[str, Any]], cpu: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Compare the successes of two report.json: each has to lie inside the other's 95 % interval.

    A row that one of them lacks is not inside.
    """
    here, there = _successes(mine), _successes(cpu)
    rows = []
    for key in sorted({*here, *there}):
        pair = [side[key] for side in (here, there) if key in side]
        inside = len(pair) == 2 and all(
            a["ci95"][0] <= b["value"] <= a["ci95"][1] for a, b in (pair, pair[::-1])
        )
        values = {name: side[key]["value"] for name, side in (("gpu", here), ("cpu", there)) if key in side}
        rows.append({"cell": " ".join(key), **values, "inside": inside})
    return rows


def main() -> int:
    """Run all parts; exit code 1 if one failed or was stopped, 2 without a CUDA device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=int, default=TOTAL_S, help="of all parts together")
    parser.add_argument("--output-dir", type=Path, default=ROOT / "outputs" / "gpu")
    asked = parser.parse_args()
    import torch

    if not torch.cuda.is_available() and asked.device != "cpu":
        print("expected a CUDA device; got none. Run `make gpu` where there is one.", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name(asked.device) if asked.device != "cpu" else "cpu"
    file, began = RESULTS / f"gpu-{re.sub(r'[^A-Za-z0-9]+', '_', name)}.json", time.perf_counter()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rows: list[dict[str, Any]] = []
    for part in parts(asked.output_dir.absolute(), asked.device):
        left = asked.seconds - (time.perf_counter() - began)
        if left <= 0:
            rows.append({"part": part.name, "status": None, "last": ["not begun: the time was over"]})
        else:
            rows.append(run_part(part, min(part.limit_s, left)))
            report = asked.output_dir / "gpu" / "report.json"
            if part.name == "suite" and report.is_file():
                cpu = json.loads((RESULTS / CPU_SUITE).read_text())
                rows[-1]["cells"] = compare_suites(json.loads(report.read_text()), cpu)
        told = {"device": name, "torch": torch.__version__, "parts": rows}
        file.write_text(json.dumps(told, indent=1) + "\n")
        print(f"{rows[-1]['part']}: status {rows[-1]['status']}, {rows[-1].get('seconds', 0)} s", flush=True)
        print("  " + "\n  ".join(rows[-1]["last"][-4:]), flush=True)
    outside = [cell for row in rows for cell in row.get("cells", ()) if not cell["inside"]]
    for cell in outside:
        print(f"outside the interval: {cell}")
    print(f"{file.relative_to(ROOT)}: {time.perf_counter() - began:.0f} s")
    return int(bool(outside) or any(row["status"] != 0 for row in rows))


if __name__ == "__main__":
    sys.exit(main())
