"""The verbs that run stages, as a user types them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lary_policy import cli


def overrides(verb: str, settings: tuple[str, ...]) -> list[str]:
    """Return the settings of the tiny suite with the groups `env` and `encoder` where the verb has them."""
    groups = {"data": ("env=reach",), "report": ()}.get(verb, ("env=reach", "encoder=pixels"))
    return [*settings, *groups]


def printed_path(capsys: pytest.CaptureFixture[str]) -> Path:
    return Path(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.mark.parametrize("verb", ["data", "extract", "probe", "rollout", "report"])
def test_each_verb_continues_what_the_suite_left(copy, capsys, suite_settings, verb):
    """Nothing is computed twice, whichever verb asks for it."""
    before = copy.snapshot()
    assert (
        cli.main([verb, *overrides(verb, suite_settings), f"output_dir={copy.output_dir}", "run=again"]) == 0
    )
    path = printed_path(capsys)
    assert copy.snapshot() == before
    assert path == (
        copy.output_dir / "again" / "report.html" if verb == "report" else copy.output_dir / "again"
    )
    assert json.loads((copy.output_dir / "again" / "run.json").read_text())["config"]["tasks"] == ["reach"]


def verify(copy) -> int:
    return cli.main(["data", "verify", f"output_dir={copy.output_dir}"])


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_verify_finds_nothing_wrong_in_a_sound_output_folder(copy, capsys):
    assert verify(copy) == 0
    said = capsys.readouterr().err
    cells = len(list((copy.output_dir / "cache").glob("*/*/result.json")))
    found = re.search(r"(\d+) folders checked, 0 problems", said)
    assert int(found[1]) >= 3 + cells > 3  # a dataset, a store, a report, and every cell
    assert "WRONG" not in said


def test_verify_names_a_shard_with_a_flipped_byte(copy, capsys):
    (shard,) = (copy.output_dir / "cache" / "latents").rglob("*.safetensors")
    flip(shard, -7)
    assert verify(copy) == 1
    said = capsys.readouterr().err
    assert str(shard) in said
    assert "1 problems" in said
    (record,) = copy.output_dir.glob("verify-*.json")
    assert str(record) in said  # in one piece, to be copied
    problems = [p for row in json.loads(record.read_text()) for p in row["problems"]]
    assert [p["item"] for p in problems] == [str(shard)]


def test_verify_names_a_damaged_image_and_action(copy, capsys):
    image = max((copy.output_dir / "cache" / "data").rglob("*.png"))
    action = min((copy.output_dir / "cache" / "data").rglob("action_*.npy"))
    flip(image, image.stat().st_size // 2)
    action.write_bytes(action.read_bytes()[:-8])
    assert verify(copy) == 1
    said = capsys.readouterr().err
    assert image.name in said
    assert action.name in said


def test_verify_needs_something_to_check(tmp_path, capsys):
    assert cli.main(["data", "verify", f"output_dir={tmp_path}"]) == 2
    assert "Run `lary data` first" in capsys.readouterr().err
    assert cli.main(["data", "verifi"]) == 2
    assert "Did you mean 'verify'" in capsys.readouterr().err


def test_report_shows_what_is_finished_and_names_what_is_not(copy, capsys, suite_settings):
    (cell,) = (copy.output_dir / "cache" / "rollout").glob("reach-pixels-subgoal-*")
    (cell / "result.json").unlink()
    arguments = ["report", *suite_settings, f"output_dir={copy.output_dir}", "run=partial"]
    assert cli.main(arguments) == 0
    page = printed_path(capsys).read_text()
    assert "not on this page: rollout reach-pixels-subgoal-absolute-mlp512-project32." in page
    assert not (cell / "result.json").exists()


def test_report_of_nothing_is_a_named_error(tmp_path, capsys, suite_settings):
    assert cli.main(["report", *suite_settings, f"output_dir={tmp_path}"]) == 2
    assert "Run `lary suite`" in capsys.readouterr().err
