"""All stages in order on a tiny suite: what is left behind, what is reused, what is computed again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil

import pytest
import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

import lary_policy
from lary_envs.tasks.spec import task_spec
from lary_policy.data.simulated.collect import FIRST_SEED, seeds_of
from lary_policy.frames.frame import decode_frame
from lary_policy.latents.store import LatentStore
from lary_policy.runs.rollout import episodes as rollout_stage
from lary_policy.scores.score import Score

MLP = "mlp512-project32"


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """Return the cells with a file that is new or was written again."""
    files = {name for name, written in after.items() if before.get(name) != written}
    return {"/".join(name.split("/")[:2]).rsplit("-", 1)[0] for name in files if "/" in name}


def scores_of(outcome) -> list[Score]:
    return outcome.results.scores()


def same_numbers(one: list[Score], other: list[Score]) -> bool:
    return [(s.metric, s.value, s.ci95, s.n) for s in one] == [
        (s.metric, s.value, s.ci95, s.n) for s in other
    ]


def test_the_latest_report_is_one_page_and_a_list_of_scores(tiny):
    latest = tiny.output_dir / "latest"
    assert latest.resolve() == tiny.outcome.folder.resolve()
    page = (latest / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("data:video/mp4;base64,") == 5  # two heads in two modes, the scripted expert once
    rows = json.loads((latest / "report.json").read_text())
    assert isinstance(rows, list)
    assert all(tuple(row) == Score.columns() for row in rows)
    assert {"mse", "mse/position", "top1", "success", "success_at_end"} <= {row["metric"] for row in rows}
    assert [Score.from_dict(row) for row in rows] == scores_of(tiny.outcome)


def test_every_probe_and_rollout_is_scored(tiny):
    scores = scores_of(tiny.outcome)
    probes = {(s.mode, s.target) for s in scores if s.stage == "probe" and s.metric in ("mse", "top1")}
    assert probes == {("pair", "absolute"), ("policy", "relative"), ("atomic", "class")}
    cells = {(s.encoder, s.head, s.mode) for s in scores if s.metric == "success"}
    trained = next(s.head for s in scores if s.metric == "mse")
    agents = (("-", "expert"), ("pixels", trained), ("pixels", "random"))
    assert cells == {(*agent, mode) for agent in agents for mode in ("subgoal", "policy")}
    for score in scores:
        assert (score.task, score.embodiment, score.protocol, score.seed) == ("reach", "arm7", "native", 0)
        assert score.ci95[0] <= score.value <= score.ci95[1]
        if score.stage == "rollout":
            assert (score.n, score.split) == (4, "seeds 300000-300003")


def test_the_expert_is_the_ceiling(tiny):
    rates = {s.value for s in scores_of(tiny.outcome) if s.encoder == "-"}
    assert rates == {1.0}


def test_as_many_frames_are_encoded_as_there_are_different_images(tiny):
    images = list((tiny.output_dir / "cache" / "data").rglob("*.png"))
    unique = {hashlib.sha256(p.read_bytes()).hexdigest() for p in images}
    (extracted,) = tiny.outcome.results.extract
    assert extracted["requested"] == len(images)
    assert extracted["encoded"] == extracted["unique"] == len(unique)
    (root,) = tiny.cells("latents")
    assert len(LatentStore.open(root)) == len(unique)
    rows = sum(len(p.read_text().splitlines()) - 1 for p in tiny.output_dir.rglob("*_metadata_*.csv"))
    assert 2 * rows > len(unique)  # chained pairs share their frames


def test_a_run_records_its_configuration_versions_and_seed(tiny):
    record = json.loads((tiny.outcome.folder / "run.json").read_text())
    assert record["config"]["demos"]["train"] == 6
    assert record["config"]["tasks"] == ["reach"]
    assert record["config"]["seed"] == 0
    environment = record["environment"]
    assert environment["lary_policy"] == lary_policy.__version__
    assert environment["torch"] == importlib.metadata.version("torch")
    assert environment["device"] == "cpu"
    assert environment["seed"] == "0"
    assert {"mujoco", "mujoco-warp", "transformers", "numpy", "python", "git"} <= set(environment)
    assert set(tiny.outcome.stage_seconds) == {"data", "extract", "probe", "rollout", "report"}


def test_evaluated_seeds_are_never_trained_on(tiny):
    for cell in tiny.outcome.results.rollout:
        assert [e["seed"] for e in cell["episodes"]] == [300_000, 300_001, 300_002, 300_003]
    assert set(tiny.outcome.results.rollout[0]) >= {"scores", "episodes", "video", "seconds"}
    ranges = [set(seeds_of(split, 50_000)) for split in FIRST_SEED]
    assert len(set().union(*ranges)) == sum(len(r) for r in ranges)
    train = json.loads((tiny.cells("data", "reach")[0] / "episodes.json").read_text())
    recorded = train.values() if isinstance(train, dict) else train
    assert max(r["seed"] for r in recorded) < FIRST_SEED["rollout"]


def test_episodes_depend_on_their_seeds(tiny):
    expert = next(c for c in tiny.outcome.results.rollout if c["encoder"] == "-")
    assert len({(e["first_success_step"], e["smoothness"]) for e in expert["episodes"]}) == 4


@pytest.fixture
def built():
    """Return the modules of torch that a parameter was given to since the start: no model, no parameter."""
    found = []
    hook = register_module_parameter_registration_hook(lambda module, *_: found.append(module))
    yield found
    hook.remove()


def test_a_second_run_reuses_every_cell_and_builds_no_model(copy, built):
    before = copy.snapshot()
    again = copy.run("run=second")
    assert built == []
    assert torch.nn.Linear(1, 1) in built  # a model would have been seen
    assert copy.snapshot() == before
    assert (copy.output_dir / "latest").resolve().name == "second"
    assert scores_of(again) == scores_of(copy.outcome)
    assert again.results.stage_seconds() == copy.outcome.results.stage_seconds()
    first = json.loads((copy.output_dir / "first" / "report.json").read_text())
    assert json.loads((copy.output_dir / "second" / "report.json").read_text()) == first


def test_another_head_trains_only_its_own_cell_and_the_rollouts_that_use_it(copy):
    before = copy.snapshot()
    again = copy.run_with_proprioception()
    assert changed(before, copy.snapshot()) == {
        f"probe/reach-pixels-pair-absolute-{MLP}-proprio",
        f"rollout/reach-pixels-subgoal-absolute-{MLP}",
        f"rollout/reach-pixels-random-subgoal-absolute-{MLP}",
    }
    assert len(copy.cells("probe", "pair-absolute-*")) == 2  # the old one is still there
    assert not same_numbers(scores_of(again), scores_of(copy.outcome))


def test_another_seed_trains_all_heads_on_the_same_data_and_latents(copy):
    before = copy.snapshot()
    copy.run("seed=1")
    assert changed(before, copy.snapshot()) == {
        f"probe/reach-pixels-{name}-seed1"
        for name in (f"pair-absolute-{MLP}", f"policy-relative-{MLP}-proprio", "atomic-class-attentive128x2")
    } | {
        f"rollout/reach-pixels-{name}-{MLP}-seed1"
        for name in (
            "subgoal-absolute",
            "policy-relative",
            "random-subgoal-absolute",
            "random-policy-relative",
        )
    }


def test_an_interrupted_run_computes_what_is_missing_and_gets_the_same_numbers(copy):
    before = copy.snapshot()
    for stage, name in (("probe", "policy-relative-*"), ("rollout", "pixels-policy-relative-*")):
        (cell,) = copy.cells(stage, name)
        (cell / "result.json").unlink()
    again = copy.run()
    assert changed(before, copy.snapshot()) == {
        f"probe/reach-pixels-policy-relative-{MLP}-proprio",
        f"rollout/reach-pixels-policy-relative-{MLP}",
    }
    assert same_numbers(scores_of(again), scores_of(copy.outcome))
    cells = zip(again.results.rollout, copy.outcome.results.rollout, strict=True)
    assert all(new["episodes"] == old["episodes"] for new, old in cells)


def test_closed_loop_results_do_not_depend_on_the_number_of_worlds(copy):
    for cell in copy.cells("rollout", "policy-relative*"):
        (cell / "result.json").unlink()
    again = copy.run("num_worlds=3")  # three and one instead of four at once
    for new, old in zip(again.results.rollout, copy.outcome.results.rollout, strict=True):
        for one, other in zip(new["episodes"], old["episodes"], strict=True):
            for key in ("seed", "success", "success_at_end", "steps", "failure"):
                assert one[key] == other[key]


def test_shorter_episodes_are_their_own_cells_and_longer_ones_are_those_of_the_task(copy):
    before = copy.snapshot()
    copy.run("max_episode_steps=500", "films=false")  # the task ends after 50
    assert changed(before, copy.snapshot()) == set()
    rows = copy.run("max_episode_steps=10", "films=false").results.rollout
    episodes = [e for row in rows for e in row["episodes"]]
    assert episodes
    assert {row["video"] for row in rows} == {""}
    assert {e["steps"] for e in episodes} == {10}
    loops = (f"subgoal-absolute-{MLP}", f"policy-relative-{MLP}")
    heads = {f"rollout/reach-pixels{kind}-{loop}" for kind in ("", "-random") for loop in loops}
    assert changed(before, copy.snapshot()) == {"rollout/reach-expert", *heads}
    films = [
        len(list(cell.glob("episodes*"))) for cell in copy.cells("rollout", "reach-pixels-policy-relative*")
    ]
    assert sorted(films) == [0, 1]  # the one of ten steps, and the one before


def test_goals_are_the_frames_of_the_demonstration_of_the_same_seed(copy, monkeypatch):
    given = []

    class Watched(rollout_stage.HeadAgent):
        def __init__(self, encoder, *args, **options) -> None:
            given.append((encoder, options["goals"], options["goal_lengths"]))
            super().__init__(encoder, *args, **options)

    monkeypatch.setattr(rollout_stage, "HeadAgent", Watched)
    (cell,) = copy.cells("rollout", "reach-pixels-subgoal-*")
    (cell / "result.json").unlink()
    copy.run()
    ((encoder, goals, lengths),) = given
    (root,) = copy.cells("data", "goals")
    for world in range(4):  # episode N of the goals is the N-th evaluated seed
        frames = sorted((root / "images" / f"ep_{world}").glob("*.png"))
        assert [int(p.stem[-6:]) for p in frames] == list(range(0, 5 * len(frames), 5))
        assert lengths[world] == len(frames)
        live = encoder.encode(torch.stack([decode_frame(p) for p in frames]).unsqueeze(1))[:, 0]
        stored = goals[world, : len(frames), 0].float()
        torch.testing.assert_close(stored, live, atol=1e-3, rtol=0)  # stored as float16
        assert torch.equal(
            goals[world, len(frames) - 1 :, 0].float(),
            stored[-1:].expand_as(goals[world, len(frames) - 1 :, 0]),
        )
    assert goals.shape[1] <= task_spec("reach").max_steps // 5 + 2


def test_a_deleted_shard_is_encoded_again_and_nothing_else(copy):
    (store,) = copy.cells("latents")
    (shard,) = (store / "shards").glob("*.safetensors")
    before = copy.snapshot()
    shard.unlink()
    again = copy.run()
    assert shard.is_file()  # named after its content: the latents are the same
    assert again.results.extract[0]["encoded"] == copy.outcome.results.extract[0]["encoded"]
    touched = changed(before, copy.snapshot())
    assert {name.split("/")[0] for name in touched} == {"extract", "latents"}
    assert same_numbers(scores_of(again), scores_of(copy.outcome))


@pytest.mark.parametrize("missing", ["report", "latents"])
def test_a_deleted_folder_is_made_again(copy, missing):
    shutil.rmtree(copy.output_dir / "first" if missing == "report" else copy.cells("latents")[0])
    again = copy.run("run=again")
    assert again.report.is_file()
    assert same_numbers(scores_of(again), scores_of(copy.outcome))


def test_rows_that_no_head_sees_are_counted_by_reason(tiny):
    for result in tiny.outcome.results.probe:
        assert set(result["rows"]) == {"train", "val", "test"}
        for counts in result["rows"].values():
            assert counts["used"] + sum(counts["left_out"].values()) == counts["rows"]
    (atomic,) = [r for r in tiny.outcome.results.probe if r["mode"] == "atomic"]
    blank = atomic["rows"]["train"]["left_out"]["unlabelled"]
    assert blank > 0  # slow stretches of a motion
    assert f"{blank} without a class" in (tiny.outcome.folder / "report.html").read_text()
