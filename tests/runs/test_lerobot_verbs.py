"""`lary data to-lerobot` and `from-lerobot`, and the probe suite on what they write, as a user types them."""

import json

import pytest

from lary_policy import cli

DEMOS = ("demos.train=2", "demos.val=1", "demos.test=1", "image_px=28", "cameras=[front]", "device=cpu")
PROBE = ("encoder=pixels", "encoder.image_px=28", "head=mlp-small", "head.train.epochs=1", "head.width=32")


@pytest.fixture(scope="module")
def bridged(tmp_path_factory):
    output = tmp_path_factory.mktemp("bridged")
    assert to_lerobot(output, "env=reach", *DEMOS) == 0
    return output


def to_lerobot(output, *settings):
    out = () if any(s.startswith("out=") for s in settings) else (f"out={output}/lerobot",)
    return cli.main(["data", "to-lerobot", f"output_dir={output}/outputs", *out, *settings])


def test_it_collects_what_is_missing_and_reuses_the_rest(bridged, capsys):
    before = sorted(p.stat().st_mtime_ns for p in (bridged / "lerobot").rglob("*"))
    assert to_lerobot(bridged, "env=reach", *DEMOS) == 0
    assert sorted(p.stat().st_mtime_ns for p in (bridged / "lerobot").rglob("*")) == before
    told = capsys.readouterr().err
    assert "4 episodes (2 train, 1 val, 1 test)" in told
    assert "frames/s" in told
    assert [p.name[:5] for p in (bridged / "outputs" / "cache" / "data").iterdir()] == ["reach"]


def test_a_folder_of_demonstrations_may_be_given_and_comes_back_equal(bridged, capsys):
    root = next((bridged / "outputs" / "cache" / "data").glob("reach*"))
    assert to_lerobot(bridged, f"root={root}", f"out={bridged}/png", "video=false", "device=cpu") == 0
    back = ("data", "from-lerobot", f"root={bridged}/png", f"out={bridged}/back")
    assert cli.main(back) == 0
    assert "4 episodes (2 train, 1 val, 1 test)" in capsys.readouterr().err
    assert (bridged / "back" / "episodes.json").read_text() == (root / "episodes.json").read_text()


def test_the_probe_suite_scores_both_the_same(bridged):
    """Chunks and states are equal; frames of the PNG dataset, too: so are latents and scores."""
    root = next((bridged / "outputs" / "cache" / "data").glob("reach*"))
    scores = []
    for run, place in (("ours", ("source=simulated", f"data_dir={root}")),
                       ("theirs", ("source=lerobot", f"root={bridged}/png"))):  # fmt: skip
        out = (f"output_dir={bridged}/probes", f"run={run}", "device=cpu")
        assert cli.main(["suite", *place, *out, *PROBE, "targets=[relative]"]) == 0
        scores.append(json.loads((bridged / "probes" / run / "report.json").read_text()))
    assert [s["value"] for s in scores[0]] == pytest.approx([s["value"] for s in scores[1]], rel=1e-5)


@pytest.mark.parametrize("action", ["to-lerobot", "from-lerobot"])
def test_help_lists_the_settings(action, capsys):
    assert cli.main(["data", action, "--help"]) == 0
    assert f"lary data {action}" in (told := capsys.readouterr().out)
    assert "out=null" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("to-lerobot", "env=reach"), "out=<folder>"),
        (("to-lerobot", "env=fly", "out=x"), "pick_place"),
        (("to-lerobot", "env=reach", "out=x", "cameras=[top]"), "front, wrist"),
        (("to-lerobot", "env=reach", "out=x", "colour=red"), "expected a known setting"),
        (("from-lerobot", "out=x"), "root=<folder>"),
        (("from-lerobot", "source=calvin", "out=x"), "expected a known setting"),
        (("from-lerobot", "root=nowhere", "out=x"), "nowhere"),
        (("to-lerobot2",), "to-lerobot"),
    ],
)
def test_wrong_usage_is_named(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
