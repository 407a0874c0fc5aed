"""Hours and terabytes of the whole benchmark: measured rates times the sizes that LARYBench states.

`python benchmarks/plan.py` prints the table of docs/how-to/beyond-one-machine.md.
"""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
GPU = "encoders-bfloat16-torch2.11.0_cu130-NVIDIA_H100_80GB_HBM3.json"
CPU = "probes-float32-torch2.11.0_cu130-cpu2-epyc.json"
CPU_CORES = 2
# Rows of all splits as the paper and its page state them: clips of which nine frames are used, and pairs.
CLIPS = {"human_1st": 652_297, "robot_1st": 538_423}
PAIRS = {
    "libero": 25_940, "calvin": 209_921, "vlabench": 112_030, "robocoin": 148_767, "agibotbeta": 124_519,
}  # fmt: skip
CLIP_FRAMES = 9
BYTES = 2  # of a number: float16, before shards are packed
# Tokens and width of a latent at 224 px; an encoder of pairs makes eight of a clip.
ENCODERS = {
    "dinov2-small": ("frame", 256, 384),
    "dinov2-large": ("frame", 256, 1024),
    "dinov3-large": ("frame", 196, 1024),
    "lapa-dinov2": ("pair", 16, 1024),
}
GPUS = (1, 8, 64)


def rates(file: str) -> dict[str, float]:
    """Return the measured figures of a result file by their metric."""
    rows = map(json.loads, (RESULTS / file).read_text().splitlines())
    return {row["metric"]: row["value"] for row in rows}


def windows(unit: str) -> int:
    """Return how many frames or pairs are encoded, at most: pairs of a chain share a frame."""
    each = (CLIP_FRAMES, 2) if unit == "frame" else (CLIP_FRAMES - 1, 1)
    return each[0] * sum(CLIPS.values()) + each[1] * sum(PAIRS.values())


def table() -> str:
    """Return the plan as Markdown."""
    measured, clips = rates(GPU), rates(CPU)["clip_decode"] / CPU_CORES
    hours = f"hours on {' / '.join(map(str, GPUS))}"
    head = ("encoder", "to encode", "one H100", hours, "store", f"written by {max(GPUS)}")
    head = (*head, "cores that decode for one")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, (unit, tokens, width) in ENCODERS.items():
        rate, count, size = measured[f"{name}.eager.rate"], windows(unit), tokens * width * BYTES
        spent = " / ".join(f"{count / rate / 3600 / gpus:.2g}" for gpus in GPUS)
        cores = rate / (clips * (CLIP_FRAMES if unit == "frame" else CLIP_FRAMES - 1))
        store, written = count * size / 1e12, max(GPUS) * rate * size / 1e9
        lines.append(
            f"| `{name}` | {count / 1e6:.2f} M {unit}s | {rate:,.0f}/s | {spent} | {store:.2f} TB |"
            f" {written:.1f} GB/s | {cores:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
