"""`lary train`: lerobot-train, with every frame encoded once where that changes nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

from lary_policy.errors import ConfigError

HELP = """usage: lary train --dataset.repo_id=NAME [--dataset.root=DIR] [--policy.encoder.name=dinov2-small]
                  [--steps=N] [--output_dir=DIR] [any flag of lerobot-train]

Trains the policy `lary` with LeRobot's own training loop. A frozen encoder gives the same latents of a frame
in every epoch, so they are computed once, before the first step, and stored. The checkpoint is the one that
lerobot-train would write. With augmented images or a trained encoder that would be wrong: then frames are
encoded at every step, as lerobot-train does, and a message says why.

settings of its own:
  --cache_latents=false      encode frames at every step
  --latents_dir=DIR          folder for latents, shared by all runs; `cache` beside --output_dir by default.
                             A checkpoint does not name it: give it again with --resume=true
  --latents_dtype=float16    half the disk of float32, rounded; the encoder's own dtype by default

other defaults than lerobot-train: --policy.type=lary --policy.push_to_hub=false, and
  --dataset.video_backend=pyav where torchcodec cannot be loaded (LeRobot would find out at length)

A run that is resumed sees the frames in the order of an uninterrupted one, also after the first epoch, where
lerobot-train starts the order anew. What draws random numbers (--policy.head=dit) draws others.

examples:
  lary train --dataset.repo_id=local/reach --dataset.root=data/reach --steps=2000 --output_dir=outputs/policy
  lary train --config_path=outputs/policy/checkpoints/last/pretrained_model/train_config.json --resume=true

`lerobot-train --help` lists all other flags.
"""
DEFAULTS = ("--policy.type=lary", "--policy.push_to_hub=false")


def main(verb: str, arguments: Sequence[str]) -> int:
    """Run the verb and return the exit code.

    Raises:
        LaryPolicyError: Anything wrong with settings, dataset, weights or stored latents.
    """
    if any(a in ("-h", "--help") for a in arguments):
        print(HELP)
        return 0
    for bare in (a for a in arguments if "=" in a and not a.startswith("-")):
        raise ConfigError(
            expected="flags as lerobot-train takes them",
            got=f"'{bare}'",
            fix=f"Write --{bare}; `lary train --help` has examples.",
        )
    with _command_line(["lerobot-train", *with_defaults(arguments)]):
        from lary_policy.cli.train.run import run

        run()
    return 0


def with_defaults(arguments: Sequence[str]) -> list[str]:
    """Add what `lary train` sets and lerobot-train does not, unless a file or a checkpoint says it."""
    given = {a.partition("=")[0] for a in arguments}
    if "--config_path" in given:
        return list(arguments)
    from_checkpoint = "--policy.path" in given or any(a.startswith("--reward_model.") for a in given)
    added = [
        default
        for default in DEFAULTS
        if default.partition("=")[0] not in given and not (from_checkpoint and "type" in default)
    ]
    return [*arguments, *added]


@contextlib.contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """Let LeRobot see a command line: it reads `sys.argv` while it parses and again when it validates."""
    before, sys.argv = sys.argv, arguments
    try:
        yield
    finally:
        sys.argv = before
