"""The command line as a user meets it."""

import subprocess
import sys

import pytest

from lary_policy import cli
from lary_policy.cli.compose import compose
from lary_policy.cli.help import run_help
from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.paths import choices

VERBS = (
    "data",
    "extract",
    "probe",
    "rollout",
    "predict",
    "train",
    "policy",
    "report",
    "suite",
    "encoders",
    "doctor",
)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"]])
def test_help_imports_nothing_heavy(words):
    code = "import sys; from lary_policy.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", f"{code}; print(*sys.modules, file=sys.stderr)", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "lerobot", "transformers", "mujoco", "hydra"} & set(done.stderr.split())
    if words == ["--help"]:
        for verb in VERBS:
            assert f"\n  {verb} " in done.stdout


def test_unknown_verb_prints_the_valid_ones(capsys):
    assert cli.main(["probee"]) == 2
    message = capsys.readouterr().err
    assert "Did you mean 'probe'?" in message
    assert all(verb in message for verb in VERBS)


@pytest.mark.parametrize(
    ("verb", "override", "valid"),
    [
        ("probe", "encoder=dinov2-smal", "dinov2-small"),
        ("rollout", "env=pickplace", "pick_place"),
        ("suite", "suite=ful", "full"),
    ],
)
def test_wrong_choice_prints_the_valid_ones(capsys, verb, override, valid):
    assert cli.main([verb, override]) == 2
    assert valid in capsys.readouterr().err


def test_unknown_setting_and_malformed_override_are_named(capsys):
    assert cli.main(["suite", "episods=3"]) == 2
    assert "episods" in capsys.readouterr().err
    assert cli.main(["suite", "episodes"]) == 2
    assert "key=value" in capsys.readouterr().err


def test_groups_narrow_and_overrides_reach_the_config():
    raw = compose("probe", ["env=push", "encoder=pixels", "demos.train=7", "suite=full"])
    assert raw["tasks"] == ["push"]
    assert raw["encoders"] == ["pixels"]
    assert raw["demos"]["train"] == 7
    assert raw["name"] == "full"


def test_lists_are_taken_as_they_are_and_defaults_fill_what_is_left_out():
    raw = compose("probe", ["encoders=[pixels,efficientnet-lite0]"])
    assert (raw["encoders"], raw["tasks"]) == (["pixels", "efficientnet-lite0"], ["reach"])
    raw = compose("rollout", ["tasks=[push]"])
    assert (raw["encoders"], raw["tasks"]) == (["dinov2-small"], ["push"])
    typed, quick = compose("probe", ["suite=quick"]), compose("suite", [])
    assert (typed["encoders"], typed["tasks"]) == (quick["encoders"], quick["tasks"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data", "to-lerobot", "tasks=[reach,push]", "out=somewhere"], "one task for a LeRobot dataset"),
        (["policy", "tasks=[reach,push]"], "one task for a checkpoint"),
        (["policy", "env=reach", "encoders=[pixels,dinov2-small]"], "one encoder for a checkpoint"),
        (["rollout", "policy=somewhere", "suite=quick"], "a LeRobot checkpoint"),
    ],
)
def test_of_several_tasks_or_encoders_none_is_taken_silently(words, said, tmp_path, capsys):
    assert cli.main([*words, f"output_dir={tmp_path}"]) == 2
    assert said in capsys.readouterr().err


def test_settings_of_encoders_reach_one_or_all():
    (one,) = compose("probe", ["encoder.image_px=28", "encoder=pixels"])["encoders"]
    assert one == {"name": "pixels", "image_px": 28}
    every = compose("suite", ["encoder.weights=random", "encoders=[pixels,{name: lapa, weights: auto}]"])
    assert every["encoders"] == [
        {"name": "pixels", "weights": "random"}, {"name": "lapa", "weights": "auto"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "folder", ["a b", "ü", "データ", "x(1)", "a=b", "it's", "[x]", "{y}", "a,b", "$HOME"]
)
def test_any_name_of_a_folder_is_taken_as_it_stands(folder):
    raw = compose("suite", ["source=lerobot", f"root={folder}", f"output_dir={folder}/out"])
    assert (raw["options"]["root"], raw["output_dir"]) == (folder, f"{folder}/out")


def test_a_key_that_belongs_to_encoders_is_named_with_its_prefix():
    with pytest.raises(UnknownNameError, match=r"encoder\.weights"):
        compose("suite", ["weights=random"])


def test_a_setting_named_like_a_folder_of_configs_is_a_setting():
    raw = compose("suite", ["source=lerobot", "root=x", "embodiment=arm7", "cameras=[front]"])
    assert raw["options"]["embodiment"] == "arm7"
    assert raw["options"]["cameras"] == ["front"]
    assert "cameras" not in raw


def test_verb_help_shows_groups_and_settings():
    text = run_help("suite", [])
    assert "suite=arm12|arm16|full|lam|metaworld10|metaworld50|policy|quick|study" in text
    assert "episodes=50" in text


def test_every_group_file_is_a_choice():
    assert {"quick", "full"} <= set(choices("suite"))
    assert "arm7" in choices("embodiment")


def test_errors_are_of_the_right_kind():
    with pytest.raises(UnknownNameError):
        compose("suite", ["suite=nope"])
    with pytest.raises(ConfigError):
        compose("suite", ["nope"])


def test_cuda_without_cuda_is_a_named_error():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    from lary_policy.machine import resolve_device

    assert resolve_device("auto") == "cpu"
    with pytest.raises(ConfigError, match="device=cpu"):
        resolve_device("cuda")
    with pytest.raises(ConfigError, match="got 'gpu'"):
        resolve_device("gpu")


def test_a_reader_that_has_seen_enough_ends_the_command_quietly() -> None:
    command = f"set -o pipefail; {sys.executable} -m lary_policy.cli --help | true"
    for _ in range(5):  # whether the pipe is closed before or after the text is written is a race
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 141)
        assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["suite", "weights=random"], "encoder.weights"),
        (["suite", "encoder.wieghts=random"], "encoder.weights"),
        (["suite", "encoder.weight=random"], "encoder.weights"),
        (["suite", "demos.trian=3"], "demos.train"),
        (["probe", "train=3"], "demos.train"),
        (["probe", "epochs=3"], "head=mlp-small head.train.epochs"),
        (["suite", "csv_dir=x"], "source=agibotbeta csv_dir=..."),
        (["rollout", "episods=3"], "episodes"),
    ],
)
def test_a_wrong_key_gets_the_right_one(capsys, words, meant):
    assert cli.main(words) == 2
    assert f"Did you mean '{meant}'?" in capsys.readouterr().err


def test_help_names_every_source_that_can_be_chosen():
    assert set(choices("source")) <= set(run_help("suite", []).replace("|", " ").split("source=")[1].split())


def test_sample_runs_as_the_files_of_every_key(tmp_path, capsys):
    assert cli.main(["data", "sample", f"out={tmp_path / 's'}"]) == 0
    from lary_policy.data import open_source
    from lary_policy.data.larybench.sets import list_benchmark_sets

    for key in list_benchmark_sets():
        source = open_source(key, data_dir=tmp_path / "s")
        read = source.pairs if source.spec.kind == "pairs" else source.clips
        assert all(len(read(split)) for split in ("train", "val", "test"))
    assert cli.main(["data", "sample", f"out={tmp_path / 's'}"]) == 2
    assert "empty" in capsys.readouterr().err


def test_absent_files_of_the_benchmark_say_where_they_are(capsys, tmp_path):
    assert cli.main(["suite", "source=calvin", f"data_dir={tmp_path / 'no'}", f"output_dir={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert "meituan-longcat/LARYBench" in said
    assert "lary data sample" in said
