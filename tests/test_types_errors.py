"""Records and errors."""

import copy
import dataclasses
import inspect
import json
import pickle

import pytest

from lary_policy import errors
from lary_policy.errors import DatasetError
from lary_policy.scores.score import Score
from lary_policy.types import EpisodeResult, LatentSpec, Quarantined


def score(**changes):
    fields = {
        "stage": "probe",
        "encoder": "pixels",
        "head": "mlp512-project32",
        "embodiment": "arm7",
        "task": "reach",
        "mode": "pair",
        "target": "relative",
        "metric": "mse",
        "value": 0.25,
        "ci95": (0.2, 0.3),
        "n": 120,
        "split": "test",
        "seed": 0,
        "protocol": "native",
        "fingerprint": "0123456789abcdef",
        "seconds": 1.5,
    }
    return Score(**{**fields, **changes})


def test_score_survives_json():
    assert Score.from_dict(json.loads(json.dumps(score().to_dict()))) == score()
    assert tuple(score().to_dict()) == Score.columns()


def test_score_refuses_unknown_and_missing_columns():
    with pytest.raises(DatasetError, match="colour"):
        Score.from_dict({**score().to_dict(), "colour": "red"})
    missing = score().to_dict()
    del missing["split"]
    with pytest.raises(DatasetError, match="split"):
        Score.from_dict(missing)
    for name, value in (
        ("ci95", [1]),
        ("ci95", "ab"),
        ("value", None),
        ("n", "3"),
        ("task", 3),
        ("seed", 1.5),
    ):
        with pytest.raises(DatasetError, match="a score with the fields"):
            Score.from_dict({**score().to_dict(), name: value})
    with pytest.raises(DatasetError):
        Score.from_dict([1, 2])


@pytest.mark.parametrize(
    "record", [score(), LatentSpec("frame", 4, 8), Quarantined("a.png", "truncated", "extract")]
)
def test_records_are_immutable(record):
    name = dataclasses.fields(record)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, name, "other")


def test_episode_result_tells_success_from_success_at_end():
    result = EpisodeResult(7, True, False, 100, 40, None, 1e-4, 1.0)
    assert result.success
    assert not result.success_at_end


def test_latent_grid_must_hold_all_tokens():
    assert LatentSpec("frame", 64, 384, (1, 8, 8)).grid == (1, 8, 8)
    with pytest.raises(errors.ShapeError, match="grid of 64 tokens"):
        LatentSpec("frame", 64, 384, (1, 8, 7))


def test_error_message_says_expected_got_and_fix():
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    assert errors.summary(MuteError()) == "MuteError: its text raises ValueError"
    error = errors.ConfigError(expected="a number", got="'x'", fix="Set seed=0.")
    assert str(error) == "expected a number; got 'x'. Set seed=0."
    assert (error.expected, error.got, error.fix) == ("a number", "'x'", "Set seed=0.")


def test_unknown_name_lists_valid_names_and_the_closest():
    error = errors.UnknownNameError("encoder", "dinov2-smal", ["pixels", "dinov2-small"])
    assert "Did you mean 'dinov2-small'?" in str(error)
    assert "Valid names: dinov2-small, pixels." in str(error)
    assert "(none)" in str(errors.UnknownNameError("encoder", "x", []))


def test_every_error_has_the_common_base_and_a_docstring():
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
    assert len(classes) > 10
    for cls in classes:
        assert issubclass(cls, errors.LaryPolicyError)
        assert cls.__doc__


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_reach_other_processes_whole(copied):
    for error in (
        errors.ConfigError(expected="one", got="two", fix="Add one."),
        errors.UnknownNameError("task", "reech", ["reach"]),
    ):
        twin = copied(error)
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert (twin.expected, twin.got, twin.fix) == (error.expected, error.got, error.fix)
