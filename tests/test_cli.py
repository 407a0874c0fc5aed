"""The command line as a user meets it."""

import subprocess
import sys
import time

import pytest

from lary_policy import cli
from lary_policy.compose import compose, settings_text
from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.paths import choices

VERBS = ("data", "extract", "probe", "rollout", "train", "policy", "report", "suite", "encoders", "doctor")


def test_help_lists_every_verb_and_answers_within_a_second():
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "lary_policy.cli", "--help"], capture_output=True, text=True)
    assert time.perf_counter() - started < 1.0
    assert done.returncode == 0
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
    assert raw["env"]["name"] == "push"
    assert raw["encoder"]["name"] == "pixels"
    assert raw["demos"]["train"] == 7
    assert raw["name"] == "full"


@pytest.mark.parametrize(
    ("verb", "override", "instead"),
    [("probe", "encoders=[pixels]", "encoder="), ("rollout", "tasks=[push]", "env=")],
)
def test_a_list_that_a_group_narrows_is_refused_where_it_would_be_ignored(verb, override, instead):
    with pytest.raises(ConfigError, match=instead) as caught:
        compose(verb, [override])
    assert override in str(caught.value)
    assert compose(verb, [override, "encoder=efficientnet-lite0", "env=pick_place"])  # chosen by hand
    assert compose(verb, ["encoders=[dinov2-small]", "tasks=[reach]"])  # what would have been chosen


def test_verb_help_shows_groups_and_settings():
    text = settings_text("suite")
    assert "suite=arm12|arm16|full|policy|quick" in text
    assert "episodes: 50" in text


def test_every_group_file_is_a_choice():
    assert {"quick", "full"} <= set(choices("suite"))
    assert "arm7" in choices("embodiment")


def test_errors_are_of_the_right_kind():
    with pytest.raises(UnknownNameError):
        compose("suite", ["suite=nope"])
    with pytest.raises(ConfigError):
        compose("suite", ["nope=1"])


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
