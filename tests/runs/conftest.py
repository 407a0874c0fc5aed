"""One tiny suite, run once: reach, raw pixels, ten demonstrations, four episodes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lary_policy.cli.compose import compose
from lary_policy.runs.config import RunConfig, run_config
from lary_policy.runs.rollout import stage
from lary_policy.runs.run import SuiteOutcome, run_suite


def probes(rows: Sequence[str]) -> str:
    """Return the override that trains these probes."""
    return f"probes=[{','.join(rows)}]"


PROBES = (
    "{mode:pair,target:absolute,head:mlp-small}",
    "{mode:policy,target:relative,head:mlp-small,proprio:true}",
    "{mode:atomic,target:class,head:attentive-small}",
)
SETTINGS = (
    "tasks=[reach]",
    "encoders=[pixels]",
    "cameras=[front]",
    "image_px=56",
    "episodes=4",
    "num_worlds=4",
    "demos={train:6,val:2,test:2}",
    probes(PROBES),
    "rollouts=[{mode:subgoal,target:absolute},{mode:policy,target:relative}]",
    "device=cpu",
)


@dataclass(frozen=True)
class Tiny:
    """An output folder and what runs in it."""

    output_dir: Path
    outcome: SuiteOutcome

    def config(self, *overrides: str) -> RunConfig:
        return run_config(compose("suite", [*SETTINGS, f"output_dir={self.output_dir}", *overrides]))

    def run_with_proprioception(self) -> SuiteOutcome:
        """Run with another input of the first probe."""
        return self.run(probes((PROBES[0].replace("}", ",proprio:true}"), *PROBES[1:])))

    def run(self, *overrides: str) -> SuiteOutcome:
        return run_suite(self.config(*overrides))

    def cells(self, stage: str, name: str = "") -> list[Path]:
        return sorted((self.output_dir / "cache" / stage).glob(f"*{name}-*"))

    def snapshot(self) -> dict[str, int]:
        """Map every file of the cache to the time it was written."""
        cache = self.output_dir / "cache"
        return {
            str(p.relative_to(cache)): p.stat().st_mtime_ns
            for p in cache.rglob("*")
            if p.is_file() and not p.name.startswith("digests.sqlite")
        }


@pytest.fixture(scope="session", autouse=True)
def _small_films() -> Iterator[None]:
    """To trace films in their own size, as elsewhere in tests/, takes half the time of a tiny suite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "FILM_PX", 56)
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The suite as it is after its first run; leave it as it is."""
    root = tmp_path_factory.mktemp("tiny") / "outputs"
    config = run_config(compose("suite", [*SETTINGS, f"output_dir={root}", "run=first"]))
    return Tiny(root, run_suite(config))


@pytest.fixture
def copy(tiny: Tiny, tmp_path: Path) -> Tiny:
    """A copy of the finished suite to damage."""
    root = tmp_path / "outputs"
    shutil.copytree(tiny.output_dir, root, symlinks=True)
    return Tiny(root, tiny.outcome)


@pytest.fixture(scope="module")
def shared_copy(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A copy of the finished suite that all tests of a file add to."""
    root = tmp_path_factory.mktemp("copy") / "outputs"
    shutil.copytree(tiny.output_dir, root, symlinks=True)
    return Tiny(root, tiny.outcome)


@pytest.fixture
def settings() -> Callable[..., dict[str, Any]]:
    """Compose the raw settings of the tiny suite with further overrides."""
    return lambda *overrides: compose("suite", [*SETTINGS, *overrides])


@pytest.fixture(scope="session")
def suite_settings() -> tuple[str, ...]:
    """The overrides that make the tiny suite."""
    return SETTINGS
