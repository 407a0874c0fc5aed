"""`benchmarks/run.py`: declared cases, one JSON object a figure."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lary_policy.encoders import weights_status

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "benchmarks" / "run.py"


@pytest.fixture(scope="module")
def modules():
    """The benchmark's own modules, imported as the script does; some choose MuJoCo's OpenGL platform."""
    platform = os.environ.get("MUJOCO_GL")
    sys.path.insert(0, str(RUN.parent))
    try:
        yield importlib.import_module("case"), importlib.import_module("run")
    finally:
        sys.path.remove(str(RUN.parent))
        for path in RUN.parent.glob("*.py"):
            sys.modules.pop(path.stem, None)
        os.environ.pop("MUJOCO_GL", None)
        if platform is not None:
            os.environ["MUJOCO_GL"] = platform


def start(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(RUN), *arguments], capture_output=True, text=True, cwd=cwd)


def test_encode_prints_one_json_object_a_figure(tmp_path):
    if not weights_status("dinov2-small").available:
        pytest.skip("the weights of dinov2-small are not on this machine")
    done = start("encode", "--json", "--device", "cpu", "image_px=56", "batch=2", "repeats=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (row["case"], row["metric"], row["unit"]) == ("encode", "images_per_second", "img/s")
    assert row["min"] <= row["value"] <= row["max"]
    assert row["ratio"] == pytest.approx(row["value"] / row["baseline"])
    assert 0.1 < row["ratio"] < 10
    assert row["device"].startswith("cpu ")
    assert row["dtype"] == "float32"
    assert row["versions"]["torch"] == importlib.metadata.version("torch")
    assert {"transformers", "mujoco", "mujoco-warp", "lerobot"} <= set(row["versions"])
    assert row["settings"]["batch"] == 2
    assert row["settings"]["encoder"] == "dinov2-small"


@pytest.fixture
def here(modules, monkeypatch, capsys):
    """Return a call that runs a case in this process, where all is imported; it returns figures by name."""

    def run(*arguments: str) -> dict[str, dict]:
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments, "--json", "--device", "cpu"])
        assert modules[1].main() == 0
        return {row["metric"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}

    return run


def test_encoders_prints_rate_flops_and_share_of_the_peak(here):
    rows = here("encoders", "encoders=pixels,efficientnet-lite0", "batch=1")
    rate = rows["efficientnet-lite0.eager.rate"]
    assert rate["unit"] == "img/s"
    assert rate["min"] <= rate["value"] <= rate["max"]
    assert 0.1 < rate["ratio"] < 10
    flops = rows["efficientnet-lite0.eager.gflops_per_second"]["value"]
    assert flops == pytest.approx(rate["value"] * 0.768, rel=0.01)
    peak = rows["matmul_gflops_per_second"]["value"]
    assert rows["efficientnet-lite0.eager.share_of_matmul"]["value"] == pytest.approx(flops / peak)
    assert "ratio" not in rows["pixels.eager.rate"]


def test_stream_times_every_stage_and_stores_all_latents(here, tmp_path):
    settings = ("encoder=pixels", "image_px=28", "batch=2", "batches=2", "compile=0", "dtype=float32")
    rows = here("stream", *settings, f"output_dir={tmp_path}")
    stages = [f"{stage}_ms" for stage in ("upload", "preprocess", "model", "download", "store")]
    assert list(rows) == [*stages, "images_per_second_unstored", "images_per_second"]
    assert all(rows[stage]["value"] >= 0 for stage in stages)
    assert rows["images_per_second"]["ratio"] > 0
    assert list(tmp_path.iterdir()) == []


ON_OPENGL = {
    "sim": ("task=dual_push", "worlds=1,3", "image_px=32", "steps=2", "repeats=2"),
    "rollout": ("encoders=pixels", "image_px=28", "worlds=2", "steps=6", "repeats=1", "lerobot=sync"),
}


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, dict]]:
    """Figures by name of the cases that choose MuJoCo's OpenGL platform, which a process does once."""
    words = [["run.py", case, *settings, "--json", "--device", "cpu"] for case, settings in ON_OPENGL.items()]
    code = f"import sys, run\nfor sys.argv in {words}: assert run.main() == 0"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=RUN.parent)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {case: {row["metric"]: row for row in rows if row["case"] == case} for case in ON_OPENGL}


def test_sim_measures_physics_frames_and_both_for_each_number_of_worlds(figures):
    got = figures["sim"]
    both = {f"{what}_{worlds}w" for what in ("render_32px", "sim_render_32px") for worlds in (1, 3)}
    engine = {f"{what}_{worlds}w" for what in ("physics", "control") for worlds in (1, 3)}
    assert set(got) == {"threads", *engine, *both}
    for name in (*engine, *both):
        assert 0 < got[name]["min"] <= got[name]["value"] <= got[name]["max"]
    assert got["physics_3w"]["unit"] == "physics steps/s"
    # One thread of mj_step does between a thousand and a million of these steps a second on any machine.
    assert 1e3 < got["physics_3w"]["baseline"] < 1e6
    assert (
        10 * got["control_3w"]["value"] < 20 * got["physics_3w"]["value"]
    )  # ten physics steps are one of control


def test_rollout_divides_the_time_of_the_loop_and_runs_on_lerobots_path(figures):
    got = figures["rollout"]
    rate = got["pixels.control_steps_per_second"]["value"]
    assert rate == pytest.approx(2 * 6 / got["pixels.episodes"]["value"])
    stages = [f"pixels.{stage}_ms" for stage in ("sim", "render", "encode", "head", "control", "host")]
    assert all(got[stage]["value"] > 0 for stage in stages)
    assert "pixels.against_bare_encoder" not in got  # raw pixels have no model
    if "pixels.against_lerobot_sync" not in got:
        pytest.skip("no OpenGL on this machine, so nothing to compare with")
    assert got["pixels.against_lerobot_sync"]["value"] == rate
    assert got["pixels.against_lerobot_sync"]["ratio"] > 1


def test_a_stage_clock_adds_up_calls_and_leaves_the_object_as_it_was(modules):
    clock_module = importlib.import_module("stage_clock")

    class Worker:
        def work(self) -> int:
            time.sleep(0.01)
            return 7

    worker, clock = Worker(), clock_module.StageClock("cpu")
    with clock.watching({"work": [(worker, "work")]}):
        assert [worker.work(), worker.work()] == [7, 7]
    worker.work()
    assert 0.02 <= clock.seconds["work"] < 1.0
    assert not vars(worker)


def test_dull_frames_and_standing_worlds_stop_a_benchmark(modules):
    checks = importlib.import_module("checks")
    noise = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    checks.require_pictures(noise, "noise")
    with pytest.raises(SystemExit, match="of one colour"):
        checks.require_pictures(torch.stack([noise[0], torch.full_like(noise[0], 90)]), "grey")
    with pytest.raises(SystemExit, match="look the same"):
        checks.require_pictures(noise[:1].repeat(3, 1, 1, 1), "copies")
    state = torch.zeros(2, 3)
    checks.require_motion(state, state + 1, "moving")
    with pytest.raises(SystemExit, match="stands still"):
        checks.require_motion(state, torch.tensor([[0.0, 0, 1], [0, 0, 0]]), "one stands")
    with pytest.raises(SystemExit, match="not finite"):
        checks.require_motion(state, state + float("nan"), "diverged")


def test_an_unknown_case_lists_the_known():
    done = start("encod")
    assert done.returncode == 2
    assert "'encode'" in done.stderr
    assert "'suite'" in done.stderr


@pytest.mark.parametrize("setting", ["image=56", "image_px"])
def test_an_unknown_setting_lists_the_known(setting):
    done = start("encode", setting)
    assert done.returncode == 2
    assert f"'{setting}'" in done.stderr
    assert "encoder, image_px, batch, repeats, dtype" in done.stderr


def test_each_case_has_a_module_that_takes_its_settings(modules):
    _, run = modules
    assert [c.name for c in run.CASES] == sorted({c.name for c in run.CASES})
    for case in run.CASES:
        parameters = inspect.signature(importlib.import_module(case.module).run).parameters
        assert set(parameters) == {*case.settings, "device"}


def test_a_figure_carries_what_was_measured_and_nothing_else(modules):
    case, _ = modules
    alone = case.Figure("seconds", 2.0, "s")
    assert alone.to_dict("c") == {"case": "c", "metric": "seconds", "value": 2.0, "unit": "s"}
    compared = case.Figure("rate", 3.0, "img/s", baseline=4.0, low=2.5, high=3.5)
    extra = {"baseline": 4.0, "ratio": 0.75, "min": 2.5, "max": 3.5}
    assert compared.to_dict("c").items() >= extra.items()
    assert compared.line("c") == "c.rate 3 img/s  (0.750 x baseline 4)"
    assert case.Figure("rate", 3.0, "img/s", baseline=0.0).ratio is None


def test_a_saved_result_is_named_after_its_environment(modules):
    _, run = modules
    name = run.result_path("encode", {"device": "cpu", "dtype": "bfloat16"}).name
    assert name.startswith("encode-bfloat16-torch")
    assert name.endswith(".json")
    assert "cpu" in name
    assert "/" not in name
    assert "+" not in name


def test_saved_results_can_be_read():
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        text = path.read_text()
        rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
        assert rows
        assert all(isinstance(row, dict) and "metric" in row for row in rows)


def test_a_gpus_suite_is_inside_the_intervals_of_the_cpus_or_named(modules):
    gpu = importlib.import_module("gpu")
    cpu = json.loads((gpu.RESULTS / gpu.CPU_SUITE).read_text())
    same = gpu.compare_suites(cpu, cpu)
    assert len(same) == 20
    assert all(row["inside"] for row in same)
    gone = [row for row in cpu if row["encoder"] != "efficientnet-lite0"]
    missing = [row for row in gpu.compare_suites(gone, cpu) if not row["inside"]]
    assert len(missing) == 4
    assert all("gpu" not in row for row in missing)
    # What a GPU once printed: 2 % where the CPU reaches 62 %.
    row = next(r for r in cpu if r["metric"] == "success" and r["value"] == 0.62)
    wrong = [r | {"value": 0.02, "ci95": [0.004, 0.1]} if r is row else r for r in cpu]
    outside = [cell for cell in gpu.compare_suites(wrong, cpu) if not cell["inside"]]
    assert outside == [
        {"cell": "pixels reach policy relative mlp512-project32", "gpu": 0.02, "cpu": 0.62, "inside": False}
    ]


def test_parts_on_a_gpu_are_kept_as_they_end_and_stopped_in_time(modules, monkeypatch, tmp_path, capsys):
    gpu = importlib.import_module("gpu")
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    say = (sys.executable, "-u", "-c")
    parts = [
        gpu.Part("good", (*say, "print('fine')"), 30),
        gpu.Part("slow", (*say, "import time; print('begun'); time.sleep(60)"), 2),
        gpu.Part("bad", (*say, "raise SystemExit(3)"), 30),
    ]
    monkeypatch.setattr(gpu, "parts", lambda *_: parts)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu"])
    assert gpu.main() == 1
    rows = json.loads((tmp_path / "gpu-cpu.json").read_text())["parts"]
    assert [(row["part"], row["status"]) for row in rows] == [("good", 0), ("slow", None), ("bad", 3)]
    assert (rows[0]["last"], rows[1]["last"]) == (["fine"], ["begun"])
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--seconds", "0"])
    assert gpu.main() == 1
    rows = json.loads((tmp_path / "gpu-cpu.json").read_text())["parts"]
    assert [row["last"] for row in rows] == [["not begun: the time was over"]] * 3
    capsys.readouterr()


def test_the_page_beyond_one_machine_has_the_plan_as_it_is_computed():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "plan.py")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() in (ROOT / "docs/how-to/beyond-one-machine.md").read_text()
    frames = 9 * (652_297 + 538_423) + 2 * 621_177
    row = next(line for line in done.stdout.splitlines() if "dinov2-large" in line)
    assert f"| {frames / 1e6:.2f} M frames |" in row
    assert f"| {frames / 2104.2 / 3600:.2g} / " in row
