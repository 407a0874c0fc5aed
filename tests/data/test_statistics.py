"""Statistics against the reference's own run and against two independent passes over the same numbers.

`golden/statistics.json` was written by the reference's `compute_robot_action_stats.py` and
`prepare_relative_actions.py`, run on the files of `larybench_files` (fixed seeds).
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from larybench_files import make_agibotbeta, make_calvin, make_robocoin, read_csv, write_csv

from lary_policy.actions.scaling import CONSTANTS, RobotAccumulator, RobotStatistics, fit_robots
from lary_policy.actions.statistics import ActionStats, RunningStatistics
from lary_policy.data.larybench.statistics import read_statistics, stream_statistics, write_statistics
from lary_policy.data.registry import open_source
from lary_policy.errors import EmbodimentError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "statistics.json").read_text())
DIMS = {"robocoin": 12, "agibotbeta": 16, "calvin": 7}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    root = tmp_path_factory.mktemp("statistics")
    make_robocoin(root)
    make_agibotbeta(root)
    make_calvin(root)
    return root


def train_files(bench, key):
    source = open_source(key, data_dir=bench, protocol="lary")
    return source.files(source.spec.train_split)


def same(found, stated):
    assert found.count == stated["count"]
    np.testing.assert_allclose(found.mean, stated["mean"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.std, stated["std"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("key", ["robocoin", "agibotbeta"])
def test_streamed_statistics_equal_the_references_run(bench, key):
    found = stream_statistics(train_files(bench, key), DIMS[key], unknown="identity").statistics
    stated = GOLDEN[key]
    same(found.everything, stated["global"])
    assert {robot or "nan" for robot in found.robots} == set(stated["robot_stats"])
    for robot, stats in found.robots.items():
        same(stats, stated["robot_stats"][robot or "nan"])


@pytest.mark.parametrize("key", ["robocoin", "calvin"])
def test_relative_statistics_equal_the_references_run(bench, key):
    found = stream_statistics(train_files(bench, key), DIMS[key], relative=True, unknown="identity")
    stated = GOLDEN[f"{key}_relative"]
    if key == "calvin":
        same(found.statistics.everything, stated)
        return
    for robot, stats in found.statistics.robots.items():
        same(stats, stated["robot_stats"][robot or "nan"])


def test_streamed_equals_two_passes_over_all_numbers(bench):
    table = open_source("agibotbeta", data_dir=bench, protocol="lary").pairs("seen_train")
    everything = np.concatenate([np.load(row.action).reshape(-1, 16) for row in table.rows]).astype(
        np.float64
    )
    found = stream_statistics(train_files(bench, "agibotbeta"), 16).statistics.robots["a2d"]
    np.testing.assert_allclose(found.mean, everything.mean(0), rtol=0, atol=1e-9)
    variance = ((everything - everything.mean(0)) ** 2).sum(0) / len(everything)  # population variance
    np.testing.assert_allclose(found.std, np.sqrt(variance), rtol=0, atol=1e-9)
    in_memory = fit_robots(table.actions(), table.robot_types()).robots["a2d"]
    np.testing.assert_allclose(in_memory.std, found.std, rtol=0, atol=1e-9)
    assert in_memory.count == found.count == len(everything)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.floats(-1e4, 1e4))
def test_batches_and_merges_do_not_change_the_result(sizes, offset):
    rng = np.random.default_rng(len(sizes))
    batches = [rng.normal(offset, 1 + i, (n, 3)) for i, n in enumerate([*sizes, 2])]
    whole = np.concatenate(batches)
    one, first, second = RunningStatistics(3), RunningStatistics(3), RunningStatistics(3)
    for i, batch in enumerate(batches):
        one.update(batch)
        (first if i % 2 else second).update(batch)
    first.merge(second)
    for found in (one.result(), first.result()):
        assert found.count == len(whole)
        np.testing.assert_allclose(found.mean, whole.mean(0), atol=1e-9 * max(1, abs(offset)))
        np.testing.assert_allclose(found.std, whole.std(0), rtol=1e-7)


def test_constant_dimensions_get_std_1():
    seen = RunningStatistics(2)
    seen.update(np.array([[1.0, 2.0], [3.0, 2.0]]))
    assert seen.result().std == (1.0, 1.0)
    seen.update(np.array([[9.0, 2.0 + 1e-7]]))
    assert seen.result().std[1] == 1.0
    with pytest.raises(EmbodimentError, match="at least one action"):
        RunningStatistics(2).result()


def test_d24_a_robot_in_several_files_is_pooled_not_overwritten():
    """Defect D24: the reference's merge keeps the last file's statistics of a robot."""
    rng = np.random.default_rng(0)
    files = [rng.normal(i, 1, (n, 2)) for i, n in enumerate((10, 500))]
    parts = []
    for values in files:
        part = RobotAccumulator(2)
        part.update("a2d", values)
        parts.append(part)
    parts[0].merge(parts[1])
    found = parts[0].result().robots["a2d"]
    whole = np.concatenate(files)
    np.testing.assert_allclose(found.mean, whole.mean(0), atol=1e-12)
    np.testing.assert_allclose(found.std, whole.std(0), atol=1e-12)


def test_d5_blank_and_unknown_robot_types_are_an_error_that_names_the_rows(bench):
    """Defect D5: the reference gives them mean 0 and std 1 without a word."""
    with pytest.raises(
        EmbodimentError, match=r"6 rows where it is blank.*seen_train\.csv:2.*unknown_robots=pool"
    ):
        stream_statistics(train_files(bench, "robocoin"), 12)
    known = {"leju_robot": ActionStats((0.0,) * 12, (1.0,) * 12, 1)}
    robots = RobotStatistics(known, known["leju_robot"])
    with pytest.raises(EmbodimentError, match=r"2 rows of type 'a2d', \(blank\), for example b, c"):
        robots.of_rows(["leju_robot", "", "a2d"], ["a", "b", "c"])


def test_pooling_unknown_robots_is_a_choice(bench):
    files = train_files(bench, "robocoin")
    pooled = stream_statistics(files, 12, unknown="pool").statistics
    assert set(pooled.robots) == {"galaxea_r1_lite", "leju_robot"}
    mean, std = pooled.of_rows(["", "leju_robot", "never_seen"])
    assert tuple(mean[0].tolist()) == tuple(mean[2].tolist()) == pooled.everything.mean
    assert tuple(std[1].tolist()) == pooled.robots["leju_robot"].std
    same(pooled.everything, GOLDEN["robocoin"]["global"])
    identity = stream_statistics(files, 12, unknown="identity").statistics
    mean, std = identity.of_rows(["never_seen"])
    assert (mean == 0).all()
    assert (std == 1).all()


def test_normalise_uses_each_rows_own_robot_and_is_inverted(bench):
    table = open_source("robocoin", data_dir=bench, protocol="lary").pairs("seen_train")
    robots = fit_robots(table.actions(), table.robot_types(), unknown="pool")
    normal = robots.normalise(table.actions(), table.robot_types())
    for robot in robots.robots:
        rows = [i for i, name in enumerate(table.robot_types()) if name == robot]
        part = normal[rows].reshape(-1, 12).double()
        torch.testing.assert_close(part.mean(0), torch.zeros(12).double(), atol=1e-4, rtol=0)
        torch.testing.assert_close(part.std(0, correction=0), torch.ones(12).double(), atol=1e-4, rtol=0)
    back = robots.denormalise(normal, table.robot_types())
    torch.testing.assert_close(back, table.actions(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("key", ["robocoin", "calvin"])
def test_files_are_read_back_and_those_of_the_reference_too(bench, tmp_path, key):
    found = stream_statistics(train_files(bench, key), DIMS[key], unknown="identity")
    write_statistics(tmp_path / "s.json", found, dataset=key)
    again = read_statistics(tmp_path / "s.json", dataset=key, action_dim=DIMS[key], unknown="identity")
    assert again == found.statistics
    if key == "robocoin":
        (tmp_path / "r.json").write_text(json.dumps(GOLDEN[key]))
        (tmp_path / "bare.json").write_text(json.dumps(GOLDEN[key]["robot_stats"]))
        for name in ("r", "bare"):
            theirs = read_statistics(
                tmp_path / f"{name}.json", dataset=key, action_dim=12, unknown="identity"
            )
            assert set(theirs.robots) == set(found.statistics.robots)
            same(found.statistics.robots[""], GOLDEN[key]["robot_stats"]["nan"])
            np.testing.assert_allclose(theirs.everything.std, found.statistics.everything.std, atol=1e-9)


def test_statistics_of_another_dataset_or_layout_are_refused(bench, tmp_path):
    path = tmp_path / "s.json"
    found = stream_statistics(train_files(bench, "agibotbeta"), 16)
    write_statistics(path, found, dataset="agibotbeta")
    with pytest.raises(EmbodimentError, match="statistics of robocoin"):
        read_statistics(path, dataset="robocoin", action_dim=16)
    with pytest.raises(EmbodimentError, match=r"12 action dimensions.*\(16,\)"):
        read_statistics(path, dataset="agibotbeta", action_dim=12)
    for text in (
        "{",
        "{}",
        '{"robot_stats": {"a": {"mean": [NaN], "std": [1]}}}',
        '{"a": {"mean": "x", "std": 1}}',
    ):
        path.write_text(text)
        with pytest.raises(EmbodimentError):
            read_statistics(path, dataset="agibotbeta", action_dim=1)
    with pytest.raises(EmbodimentError, match="lary data statistics"):
        read_statistics(tmp_path / "none.json", dataset="agibotbeta", action_dim=16)


def test_unreadable_chunks_are_counted(bench, tmp_path):
    make_robocoin(tmp_path, blank=False)
    rows = read_csv(tmp_path / "data" / "robocoin_metadata_seen_train.csv")
    media = tmp_path / "regression" / "robocoin_10"
    (media / rows[0]["action"]).unlink()
    np.save(media / rows[1]["action"], np.full((10, 12), np.nan))
    np.save(media / rows[2]["action"], np.zeros(13))
    found = stream_statistics(train_files(tmp_path, "robocoin"), 12)
    assert (found.rows, len(found.quarantined)) == (len(rows) - 3, 3)
    for item, part in zip(found.quarantined, ("no such file", "NaN", "multiple of 12"), strict=True):
        assert part in item.reason


def test_constants_are_those_of_the_protocol():
    assert set(CONSTANTS) == {"calvin", "vlabench", "vlabench_15", "vlabench_30"}
    assert CONSTANTS["calvin"].std[3] == 2.89455128
    assert CONSTANTS["vlabench_30"] is CONSTANTS["vlabench"]


def test_write_csv_keeps_blank_robot_types_blank(bench):
    path = bench / "data" / "robocoin_metadata_unseen.csv"
    rows = read_csv(path)
    write_csv(bench, path.name, rows[0], rows)
    table = open_source("robocoin", data_dir=bench, protocol="lary").pairs("unseen")
    assert set(table.robot_types()) == {"", "galaxea_r1_lite", "leju_robot"}
