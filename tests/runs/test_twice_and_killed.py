"""Every verb twice at once, and killed at any moment: both end well, one computes, nothing is left."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from command_forks import Ended, Forks, facts_of, left_over

pytestmark = pytest.mark.slow

SIZE = (
    "cameras=[front]",
    "image_px=56",
    "episodes=2",
    "num_worlds=2",
    "demos={train:4,val:2,test:2}",
    "device=cpu",
)
PROBES = (
    "encoder=pixels",
    "probes=[{mode:pair,target:absolute,head:mlp-small},{mode:policy,target:relative,head:mlp-small}]",
    "rollouts=[{mode:policy,target:relative}]",
    "heads=[{kind:mlp,width:32,num_blocks:1,pool:{kind:project,width:8},train:{epochs:8,lr:0.001}}]",
)
VERBS = {
    "data": ["data", "env=reach", *SIZE],
    "extract": ["extract", "env=reach", *SIZE, *PROBES],
    "probe": ["probe", "env=reach", *SIZE, *PROBES],
    "rollout": ["rollout", "env=reach", *SIZE, *PROBES],
    "to-lerobot": ["data", "to-lerobot", "env=reach", *SIZE, "video=false", "split=test"],
    "suite": ["suite", "tasks=[reach]", *SIZE, *PROBES],
}


def command(verb: str, output: Path) -> list[str]:
    out = [f"out={output / 'lerobot'}"] if verb == "to-lerobot" else []
    return [*VERBS[verb], *out, f"output_dir={output}"]


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    modules = (
        "lary_envs.tasks",
        "lary_policy.rollout",
        "lary_policy.cli.lerobot",
        "lerobot.datasets.lerobot_dataset",
    )
    with Forks(tmp_path_factory.mktemp("forks"), *modules) as server:
        yield server


def runs_of(output: Path) -> list[str]:
    return sorted(p.parent.name for p in output.glob("*/run.json") if p.parent.name != "latest")


def require_twice(verb: str, ended: Ended, output: Path) -> None:
    """Two that were started at once: both ended well, everything was computed once, nothing is left."""
    assert ended.codes == [0, 0], ended.said
    assert ended.computed, ended.said
    assert sorted(ended.computed) == sorted(set(ended.computed))
    assert left_over(output) == []
    if verb not in ("to-lerobot",):
        assert len(runs_of(output)) == 2  # of the same second, as a rule


@pytest.mark.parametrize("verb", VERBS)
def test_two_at_once_both_end_well_and_one_computes(forks, tmp_path, verb):
    output = tmp_path / "out"
    require_twice(verb, forks.run(command(verb, output), command(verb, output)), output)
    again = forks.run(command(verb, output))
    assert (again.codes, again.computed) == ([0], [])


def killed_then_whole(forks: Forks, verb: str, output: Path, whole: dict, moments: list[float]) -> int:
    """Kill a verb at some moments, run it to its end, compare with `whole`; return how many were killed."""
    codes = [forks.run(command(verb, output), kill_after_s=moment).codes[0] for moment in moments]
    assert set(codes) <= {-9, 0}
    last = forks.run(command(verb, output))
    assert last.codes == [0], last.said
    assert facts_of(output) == whole
    assert left_over(output) == []
    return codes.count(-9)


@pytest.mark.parametrize("verb", ["data", "extract", "probe", "rollout", "suite"])
def test_killed_at_any_moment_it_goes_on_to_the_same_result(forks, tmp_path, verb):
    reference = tmp_path / "whole"
    seconds = forks.run(command(verb, reference)).seconds
    rng = random.Random(verb)
    moments = [rng.uniform(0.1, 0.9) * seconds for _ in range(3)]
    assert killed_then_whole(forks, verb, tmp_path / "out", facts_of(reference), moments) > 0


def test_one_of_two_that_is_killed_leaves_its_cells_to_the_other(forks, tmp_path):
    """Whatever the lost one was at: the other waits for no lock of it, nothing is computed twice."""
    started = forks.run(command("suite", tmp_path / "whole"))
    whole, lost = facts_of(tmp_path / "whole"), 0
    for number, share in enumerate((0.2, 0.4, 0.6)):
        output = tmp_path / str(number)
        two = [command("suite", output)] * 2
        ended = forks.run(*two, kill_after_s=share * started.seconds, killed=1)
        assert ended.codes[1] == 0, ended.said
        lost += ended.codes[0] == -9
        assert sorted(ended.computed) == sorted(set(ended.computed))
        assert facts_of(output) == whole
        assert forks.run(command("suite", output)).computed == []
        assert left_over(output) == []
    assert lost > 0


def test_what_is_compared_would_tell_another_seed(forks, tmp_path):
    outputs = [tmp_path / "a", tmp_path / "b"]
    for output, seed in zip(outputs, (0, 1), strict=True):
        forks.run([*command("probe", output), f"seed={seed}"])
    first, second = map(facts_of, outputs)
    probes = [sorted(k for k in facts if "/probe/" in k) for facts in (first, second)]
    assert all(probes)
    assert all(a != b for a, b in itertools.zip_longest(*probes))
