"""Runs commands of `lary` in forks of one process that has paid the imports, at once or until killed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What counts as computing: one line in `computed` each time it happens. Both sides of a pair write there.
_SERVER = """
import importlib, json, os, signal, sys, time

def counted(module, owner, name, key):
    place = importlib.import_module(module)
    place = getattr(place, owner) if owner else place
    plain = getattr(place, name)
    def call(*a, **k):
        found = plain(*a, **k)
        with open(os.environ["COMPUTED"], "a") as file:
            file.write(key(*a) + chr(10))
        return found
    setattr(place, name, call)

for name in ("torch", "lary_policy.runs", "lary_policy.cli.run", "lary_policy.cli.data", *sys.argv[1:]):
    importlib.import_module(name)
counted("lary_policy.runs.cells", "Cell", "finish", lambda cell, result: "cell " + cell.folder.name)
counted("lary_policy.data.simulated.collect", "", "publish", lambda root, *_: "data " + root.name)
counted("lary_policy.data.lerobot.to_lerobot", "", "_export", lambda writer, to, *_: "export " + to.name)
print("ready", flush=True)
for line in sys.stdin:
    job, children = json.loads(line), []
    began = time.monotonic()
    for number, (arguments, log) in enumerate(zip(job["commands"], job["logs"])):
        child = os.fork()
        if child == 0:
            os.environ["COMPUTED"] = job["computed"]
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0), os.dup2(out, 1), os.dup2(out, 2)
            from lary_policy import cli
            code = 1
            try:
                code = cli.main(arguments)
            except BaseException:
                import traceback
                traceback.print_exc()
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
        children.append(child)
    codes = {}
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    codes[child] = os.waitstatus_to_exitcode(status)
        if job["kill_after_s"] is not None and time.monotonic() - began > job["kill_after_s"]:
            for child in children[:job["killed"]]:
                if child not in codes:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    spent = time.monotonic() - began
    print(json.dumps({"codes": [codes[c] for c in children], "seconds": spent}), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How commands that were started at once ended.

    Attributes:
        codes: Exit code of each; -9 of one that was killed.
        said: What each printed.
        computed: What was computed, once for each time.
        seconds: Until the last one ended.
    """

    codes: list[int]
    said: list[str]
    computed: list[str]
    seconds: float


class Forks:
    """A process that forks itself for every command; a context that ends it.

    Args:
        folder: For logs, and the folder that the commands start in.
        modules: Modules to import before, besides those of the verbs.
    """

    def __init__(self, folder: Path, *modules: str) -> None:
        self._folder, self._count = folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _SERVER, *modules], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, cwd=folder, env=environment,
        )  # fmt: skip
        assert self._answer() == "ready\n"

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def run(
        self, *commands: list[str], kill_after_s: float | None = None, killed: int | None = None
    ) -> Ended:
        """Start commands at once and wait for them, or kill all, or the first `killed`, after a while."""
        self._count += 1
        logs = [self._folder / f"{self._count}-{i}.txt" for i in range(len(commands))]
        computed = self._folder / f"{self._count}-computed.txt"
        job = {"commands": commands, "logs": list(map(str, logs)), "computed": str(computed)}
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({**job, "kill_after_s": kill_after_s, "killed": killed}) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._answer())
        lines = computed.read_text().splitlines() if computed.is_file() else []
        said = [log.read_text(errors="replace") for log in logs]
        return Ended(answer["codes"], said, lines, answer["seconds"])

    def _answer(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline()


_TIMES = re.compile(r"second|_s$|^created|^environment$|^versions$|sha256|^digest")


def without_times(value: Any) -> Any:
    """Return plain data without what says when, and by what, it was computed."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not _TIMES.search(k)}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def facts_of(output: Path) -> dict[str, Any]:
    """Return what all finished cells and datasets below an output folder hold, by their places."""
    found: dict[str, Any] = {}
    for path in sorted((output / "cache").rglob("*")):
        name = str(path.relative_to(output))
        if path.name in ("result.json", "dataset.json", "episodes.json"):
            found[name] = without_times(json.loads(path.read_text()))
        elif path.suffix in (".npy", ".png", ".csv"):
            found[name] = path.read_bytes()
    return found


def left_over(folder: Path) -> list[str]:
    """Return unfinished files and folders, and locks, below a folder."""
    hidden = re.compile(r"\.tmp-|\.partial$|\.lock$|^progress\.json$|^training\.safetensors$")
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if hidden.search(p.name))
