"""The `lary` command: `lary <verb> group=choice key=value`. Heavy imports happen inside the verbs."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from lary_policy.cli.interrupt import how_to_go_on, prompt_interrupts
from lary_policy.errors import LaryPolicyError, UnknownNameError
from lary_policy.machine import is_connected, is_main_process, process_rank, share_heap

VERBS = {
    "suite": (
        "Run data, extract, probe, rollout and report for the tasks and encoders of a suite.",
        "run",
    ),
    "data": (
        "Write simulated demonstrations; `lary data sample|verify|indices|prepare|statistics|import|"
        "to-lerobot|from-lerobot`: other files.",
        "data",
    ),
    "extract": ("Encode each unique frame once into the latent store.", "run"),
    "probe": ("Train action experts and attentive probes on stored latents, report on test.", "run"),
    "rollout": ("Drive the simulated robot with trained heads, closed loop.", "run"),
    "train": (
        "Train the LeRobot policy `lary`; takes lerobot-train's flags and encodes each frame once.",
        "train",
    ),
    "lam": (
        "Train a latent action model on frames; the result is an encoder like any other.",
        "lam",
    ),
    "predict": (
        "Say which success to expect of an encoder: probes only, and the points of a study.",
        "predict",
    ),
    "policy": (
        "Write the head of a finished probe as a LeRobot checkpoint and print its `lerobot-eval` command.",
        "policy",
    ),
    "report": ("Write report.html and report.json from everything finished so far.", "run"),
    "encoders": ("List the encoders: tokens, parameters, licence, weights.", "encoders"),
    "doctor": ("Say what is missing on this machine and the command that fixes it.", "doctor"),
}

_EXAMPLES = """examples:
  lary suite                                     the quick suite: two tasks, three encoders, one report
  lary suite suite=full                          all tasks, more demonstrations and cameras; resumable
  lary probe encoder=dinov2-small env=reach      probes of one encoder on one task
  lary rollout encoder=pixels env=pick_place episodes=100
  lary data verify                               check every dataset and latent store under outputs/
  lary data to-lerobot env=reach out=reach_v3    demonstrations as a LeRobot dataset; from-lerobot: back
  lary data verify source=calvin data_dir=/data  read every file of a key of LARYBench completely
"""


def usage() -> str:
    """Return the text of `lary --help`."""
    lines = ["usage: lary <verb> [group=choice] [key=value] ...", "", "verbs:"]
    lines += [f"  {name:<10} {text}" for name, (text, _) in VERBS.items()]
    lines += ["", "`lary <verb> --help` lists the settings of a verb.", "", _EXAMPLES]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 something found wrong, 2 wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        # A process of somebody else's, who calls this with words, is not ended.
        with prompt_interrupts(how_to_go_on(words)) if argv is None else contextlib.nullcontext():
            code = _run(words)
            sys.stdout.flush()
    except KeyboardInterrupt:
        print(how_to_go_on(words), file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader has seen enough, as in `lary --help | head`: nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE  # what a shell reports of a command that ended so
    return code


def command() -> NoReturn:
    """Run the command line and end the process.

    At once where no thread and no other process is left: to free gigabytes object by object takes seconds.
    """
    code = main()
    others = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    if others or multiprocessing.active_children():
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # whose reader is gone
            stream.flush()
    os._exit(code)


def _run(arguments: list[str]) -> int:
    # Read by OpenMP when torch is imported: on a busy machine spinning threads make training 20 times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    share_heap()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        from lary_policy import __version__

        print(__version__)
        return 0
    verb, *rest = arguments
    try:
        if verb not in VERBS:
            raise UnknownNameError("verb", verb, VERBS)
        module = importlib.import_module(f"lary_policy.cli.{VERBS[verb][1]}")
        return int(module.main(verb, rest))
    except LaryPolicyError as error:
        if is_main_process() or is_connected():  # wrong usage need not be said by every process
            which = "" if is_main_process() else f" (process {process_rank()})"
            print(f"lary {verb}{which}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
