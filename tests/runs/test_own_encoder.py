"""An encoder of a user's package, and one found by `auto:`, through the command line's stages."""

from __future__ import annotations

import json
import sys

import pytest
from own_encoder import NAME, write_own_package

from lary_policy import cli
from lary_policy.cli.compose import compose
from lary_policy.cli.help import run_help
from lary_policy.encoders import base
from lary_policy.encoders.view import EncoderView
from lary_policy.errors import UnknownNameError
from lary_policy.runs.config import run_config
from lary_policy.runs.context import RunContext


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """The working directory with the example's package; registry and modules are put back afterwards."""
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    monkeypatch.chdir(tmp_path)
    write_own_package(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_pkg"]:
        del sys.modules[name]


def test_the_group_takes_names_that_have_no_file(folder):
    raw = compose("probe", [f"encoder={NAME}", "encoder.weights=random", "encoder.image_px=64"])
    assert run_config(raw).encoders == (EncoderView(NAME, "random", image_px=64),)
    raw = compose("extract", ["encoder=auto:facebook/dinov2-small"])
    assert run_config(raw).encoders[0].name == "auto:facebook/dinov2-small"
    raw = compose("extract", ["encoder=lapa-dinov3:cs64-sl49-dim256-lr1e-4"])
    assert run_config(raw).encoders[0].name == "lapa-dinov3:cs64-sl49-dim256-lr1e-4"


def test_lists_take_them_too(folder):
    raw = compose("suite", [f"encoders=[pixels,{NAME},auto:facebook/dinov2-small]"])
    names = [choice.name for choice in run_config(raw).encoders]
    assert names == ["pixels", NAME, "auto:facebook/dinov2-small"]


def test_help_names_the_forms_and_the_template_is_no_choice():
    text = run_help("probe", [])
    assert "package.module:Attribute|auto:" in text
    with pytest.raises(UnknownNameError, match="dinov2-small"):
        RunContext.create(run_config(compose("probe", ["encoder=dinov2-smal"])))


@pytest.mark.parametrize("name", [NAME, "auto:test_vit"])
def test_extract_and_probe_run_with_it(folder, copy, suite_settings, name):
    settings = [s for s in suite_settings if not s.startswith(("tasks", "encoders", "image_px"))]
    arguments = ["env=reach", f"encoder={name}", "encoder.weights=random", f"output_dir={copy.output_dir}"]
    small = ["image_px=56", "encoder.image_px=64", "run=own"]
    assert cli.main(["probe", *settings, *arguments, *small]) == 0
    config = json.loads((copy.output_dir / "own" / "run.json").read_text())["config"]
    assert config["encoders"][0]["name"] == name
    label = name.replace(":", "-")
    stores = list((copy.output_dir / "cache" / "latents").glob(f"{label}-*"))
    label = f"{label}-random-64px"
    assert len(copy.cells("extract", f"reach-{label}")) == 1
    assert len(copy.cells("probe", f"reach-{label}")) == 3
    assert len(stores) == 1


def test_a_page_of_everything_holds_own_encoders_that_were_typed(folder, copy, suite_settings, capfd):
    """A file names them, which is no reason to import what lies in the working directory."""
    fresh = dict(base._REGISTRY)
    settings = [s for s in suite_settings if not s.startswith(("tasks", "encoders", "image_px"))]
    arguments = ["env=reach", f"encoder={NAME}", "encoder.weights=random", f"output_dir={copy.output_dir}"]
    asked = ["image_px=56", "encoder.image_px=64"]
    assert cli.main(["probe", *settings, *arguments, *asked, "run=own"]) == 0
    page = ["report", f"output_dir={copy.output_dir}", "run=all"]

    def reported(*words):
        base._REGISTRY.clear()  # as in a new process
        base._REGISTRY.update(fresh)
        for name in [name for name in sys.modules if name.partition(".")[0] == "my_pkg"]:
            del sys.modules[name]
        assert cli.main([*page, *words]) == 0
        found = json.loads((copy.output_dir / "all" / "report.json").read_text())
        return any(score["encoder"].startswith("my_pkg") for score in found), capfd.readouterr().err

    capfd.readouterr()
    there, said = reported()
    assert not there
    assert f"lary report trust={NAME}." in said
    assert "of the runs that cannot be set up" in said
    assert "delete the folders" not in said
    there, said = reported(f"trust={NAME}")
    assert there
    assert "cannot be set up" not in said
