"""Any file that we write, changed into another valid one, is found and named by `lary data verify`."""

import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from mutations import relabel, swap

from lary_policy.cli.verify import verify_outputs
from lary_policy.data.integrity import write_checksums
from lary_policy.errors import StoreError
from lary_policy.paths import SEAL
from lary_policy.runs.cells import Cell
from lary_policy.runs.finished import everything_finished


@pytest.fixture(scope="module")
def written(tiny, tmp_path_factory):
    """The finished suite with a policy's folder beside it."""
    root = tmp_path_factory.mktemp("corruption") / "outputs"
    shutil.copytree(tiny.output_dir, root, symlinks=True)
    folder = root / "policies" / "reach"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "README.md"):
        (folder / name).write_text(f"{name} of a policy: 0.25")
    write_checksums(folder)
    return root


def flip(path, place=-2):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def digit(path, key):
    """Change a number behind a key."""
    text = path.read_text()
    at = next(i for i in range(text.index(f'"{key}"') + len(key) + 2, len(text)) if text[i].isdigit())
    path.write_text(f"{text[:at]}{(int(text[at]) + 1) % 10 or 1}{text[at + 1 :]}")


def entry(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def nudge(path):
    values = np.load(path)
    values.flat[0] += 1e-4
    np.save(path, values)


def reverse(path):
    table = pq.read_table(path)
    rows = table.column("row").to_pylist()[::-1]
    pq.write_table(table.set_column(2, "row", [np.array(rows, np.int32)]), path)


def one(root, pattern):
    return sorted(root.glob(pattern))[0]


DATA, PROBE, LOOP, STORE = "cache/data/reach-*", "cache/probe/*policy*", "cache/rollout/*", "cache/latents/*"
CHANGES = {
    "a bit of a picture": (f"{DATA}/images*/ep_0/*000000.png", flip),
    "two pictures in each other's place": (
        f"{DATA}/images*/ep_0/*000000.png", lambda p: swap(p, sorted(p.parent.iterdir())[1])),
    "a bit of an action": (f"{DATA}/actions/ep_0/*.npy", flip),
    "an action a tenth of a millimetre off": (f"{DATA}/actions/ep_0/*.npy", nudge),
    "a bit of a pose": (f"{DATA}/states/ep_0/*.npy", flip),
    "a label": (f"{DATA}/*_train.csv", relabel),
    "a row less": (f"{DATA}/*_train.csv", lambda p: p.write_text(p.read_text().rpartition("\nreach")[0])),
    "the seed of an episode": (f"{DATA}/episodes.json", lambda p: digit(p, "seed")),
    "the stride of a dataset": (f"{DATA}/dataset.json", lambda p: digit(p, "label_threshold_m")),
    "the digest of a dataset": (f"{DATA}/dataset.json", lambda p: digit(p, SEAL)),
    "a checksum": (f"{DATA}/checksums.json", lambda p: digit(p, "episodes.json")),
    "a checksum less": (f"{DATA}/checksums.json", lambda p: entry(p, lambda v: v.pop("episodes.json"))),
    "all checksums": (f"{DATA}/checksums.json", lambda p: p.unlink()),
    "a file more": (f"{DATA}/images*/ep_0/*000000.png", lambda p: shutil.copy(p, p.with_name("more.png"))),
    "a file less": (f"{DATA}/states/ep_0/*.npy", lambda p: p.unlink()),
    "a bit of a shard": (f"{STORE}/shards/*.safetensors", flip),
    "a shard less": (f"{STORE}/shards/*.safetensors", lambda p: p.unlink()),
    "the rows of an index": (f"{STORE}/index.parquet", reverse),
    "a bit of an index": (f"{STORE}/index.parquet", lambda p: flip(p, 40)),
    "the fingerprint of a store": (f"{STORE}/store.json", lambda p: digit(p, "fingerprint")),
    "the width of a store": (f"{STORE}/store.json", lambda p: digit(p, "width")),
    "the score of a probe": (f"{PROBE}/result.json", lambda p: digit(p, "value")),
    "a score by other words": (f"{PROBE}/result.json", lambda p: entry(p, lambda v: v.pop("task"))),
    "no digest of a result": (f"{PROBE}/result.json", lambda p: entry(p, lambda v: v.pop(SEAL))),
    "a bit of a head": (f"{PROBE}/head.safetensors", flip),
    "a mean in a head": (f"{PROBE}/head.json", lambda p: digit(p, "mean")),
    "the checksums of a cell": (f"{PROBE}/checksums.json", lambda p: p.unlink()),
    "an episode of a rollout": (f"{LOOP}/result.json", lambda p: digit(p, "steps")),
    "a film": (f"{LOOP}/episodes.mp4", lambda p: flip(p, 500)),
    "counts of an extraction": ("cache/extract/*/result.json", lambda p: digit(p, "encoded")),
    "the numbers of a report": ("first/report.json", lambda p: digit(p, "value")),
    "the page of a report": ("first/report.html", flip),
    "the settings of a run": ("first/run.json", lambda p: digit(p, "episodes")),
    "a card": ("policies/reach/README.md", flip),
    "the weights of a policy": ("policies/reach/model.safetensors", flip),
    "the settings of a policy": ("policies/reach/config.json", flip),
}  # fmt: skip


def found(root, capsys) -> tuple[bool, str]:
    capsys.readouterr()
    fine = verify_outputs(root, workers=0, timeout_s=30.0)
    report = max(root.glob("verify-*.json"))
    text = report.read_text()
    report.unlink()
    return fine, text


def test_nothing_is_wrong_with_what_was_written(written, capsys):
    fine, said = found(written, capsys)
    assert fine, said
    assert len(CHANGES) >= 25


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_found_and_named(written, capsys, name):
    pattern, change = CHANGES[name]
    path = one(written, pattern)
    before = {p: (p.read_bytes(), p.stat()) for p in path.parent.rglob("*") if p.is_file()}
    facts = path.stat()
    change(path)
    if path.exists():  # as whoever hides a change would: no time, hence no remembered digest, tells of it
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    try:
        fine, said = found(written, capsys)
    finally:
        for other in set(path.parent.rglob("*")) - set(before):
            if other.is_file():
                other.unlink()
        for other, (content, _) in before.items():
            if not other.exists() or other.read_bytes() != content:
                other.write_bytes(content)
    assert not fine, name
    assert path.name in said or "more.png" in said or path.parent.parent.name in said


def test_a_cell_of_an_earlier_version_is_not_wrong_and_never_read(written, capsys, tmp_path):
    root = shutil.copytree(written, tmp_path / "older", symlinks=True)
    probes = sorted(root.glob("cache/probe/*"))
    (probes[0] / "checksums.json").unlink()  # results had neither these nor a digest of themselves
    entry(probes[0] / "result.json", lambda v: v.pop(SEAL))
    cell = Cell.at(probes[0])
    assert cell.is_older
    assert not cell.done
    fine, said = found(root, capsys)
    assert fine
    assert "An earlier version wrote this cell, without checksums: it is not checked" in said
    with pytest.raises(StoreError, match="Delete"):
        cell.result()
    (first, *_) = everything_finished(root)
    assert "1 results that an earlier version wrote are left out." in first.results.warnings
    assert not Cell.at(probes[1]).is_older
