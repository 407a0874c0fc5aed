"""ACT and Diffusion Policy on a frozen encoder against the same policies on a ResNet18 trained from scratch.

Both sides get the same demonstrations, samples in the same order, optimiser steps, learning rate and sizes;
only what sees the camera differs.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from case import Figure

if TYPE_CHECKING:
    from drop_in_training import Outcome


def run(
    policies: str, encoder: str, image_px: int, encoder_px: int, train_episodes: int, val_episodes: int,
    steps: int, batch: int, seeds: int, lr: float, episodes: int, output_dir: str, device: str,
) -> Iterator[Figure]:  # fmt: skip
    """Train both sides with each seed and yield held-out errors and closed-loop success.

    Args:
        policies: Comma-separated: act, diffusion.
        encoder: Registry name of our side's frozen encoder.
        image_px: Side of the rendered frames, as the ResNet sees them.
        encoder_px: Side to which the encoder resizes them.
        train_episodes: Expert episodes to learn from.
        val_episodes: Expert episodes held out.
        steps: Optimiser steps.
        batch: Samples of a step.
        seeds: Of initial weights, order and noise; both sides share each.
        lr: Learning rate of both sides.
        episodes: Closed-loop episodes after training; 0 for none.
        output_dir: Where the demonstrations are put for the run.
        device: cpu; the figures depend on it little.
    """
    import drop_in_training as training  # imports LeRobot

    Path(output_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="drop-in-", dir=output_dir) as folder:
        data = training.demonstrations(
            Path(folder), train=train_episodes, val=val_episodes, image_px=image_px
        )
        yield Figure("mean_action_l1", training.mean_action_error(data["train"], data["val"]), "std")
        memory: dict[bytes, Any] = {}
        for name in policies.split(","):
            pair_of = training.sides(name, encoder, encoder_px, steps=steps, lr=lr, device=device)
            pairs = []
            for seed in range(seeds):
                pair = [
                    _outcome(side, data, steps, batch, seed, memory, episodes, image_px) for side in pair_of
                ]
                pairs.append((pair[0], pair[1]))
                print(f"{name} seed {seed}: {pair[0]} against {pair[1]}", file=sys.stderr, flush=True)
            yield from _figures(name, pairs)
            print(_sentence(name, encoder, steps, pairs), file=sys.stderr, flush=True)


def _outcome(
    config: Any, data: dict[str, Path], steps: int, batch: int, seed: int, memory: dict[bytes, Any],
    episodes: int, image_px: int,
) -> Outcome:  # fmt: skip
    import drop_in_training as training

    policy, processors, seconds = training.train(
        config, data["train"], steps=steps, batch=batch, seed=seed, memory=memory
    )
    l1, position_mm = training.held_out(policy, processors, data["val"], training.action_scale(data["train"]))
    success = (
        training.closed_loop(policy, processors, episodes=episodes, image_px=image_px) if episodes else None
    )
    return training.Outcome(l1, position_mm, success, seconds)


def _figures(name: str, pairs: list[tuple[Outcome, Outcome]]) -> Iterator[Figure]:
    for metric, unit in (("l1", "std"), ("position_mm", "mm"), ("success", "share")):
        values = [[getattr(side, metric) for side in pair] for pair in pairs]
        if None in values[0]:
            continue
        own, other = zip(*values, strict=True)
        yield Figure(
            f"{name}_{metric}", statistics.mean(own), unit, statistics.mean(other), min(own), max(own)
        )
    gaps = [a.l1 - b.l1 for a, b in pairs]
    yield Figure(f"{name}_l1_difference", statistics.mean(gaps), "std", None, min(gaps), max(gaps))


def _sentence(name: str, encoder: str, steps: int, pairs: list[tuple[Outcome, Outcome]]) -> str:
    own, other = (statistics.mean(side.l1 for side in sides) for sides in zip(*pairs, strict=True))
    wins = sum(a.l1 < b.l1 for a, b in pairs)
    verdict = "beats" if wins == len(pairs) else "does not beat with every seed"
    return (
        f"{name} on frozen {encoder} {verdict} the same policy on a random-initialised ResNet18 after "
        f"{steps} equal steps: held-out L1 {own:.3f} against {other:.3f} deviations ({own / other:.2f} of "
        f"it), better with {wins} of {len(pairs)} seeds."
    )
