"""What is built and locked: names, caps with reasons, hashes, targets, and what a wheel holds."""

from __future__ import annotations

import email
import importlib.metadata
import itertools
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lary_policy
from lary_policy.machine import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
PROJECT = tomllib.loads(PYPROJECT)
LOCK = (ROOT / "requirements.lock").read_text()
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", LOCK, re.MULTILINE)
}


def git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return done.stdout.splitlines()


def test_names_and_versions():
    project = PROJECT["project"]
    assert project["name"] == "lerobot_policy_lary"  # LeRobot looks for the prefix, underscores and all
    assert importlib.metadata.metadata("lerobot_policy_lary")["Name"] == "lerobot_policy_lary"
    assert project["requires-python"] == ">=3.12,<3.14"
    assert project["scripts"] == {"lary": "lary_policy.cli:command"}
    assert lary_policy.__version__ == project["version"]
    assert "Unreleased" in CHANGELOG or project["version"] in CHANGELOG


def test_licence_is_apache():
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def capped(name: str, end: str) -> list[tuple[str, str]]:
    """Return (line before, line) of every requirement with an upper bound in one list of pyproject.toml."""
    block = PYPROJECT[PYPROJECT.index(name) :]
    lines = block[: block.index(end)].splitlines()
    pairs = itertools.pairwise(lines)
    return [(a.strip(), b.strip()) for a, b in pairs if b.strip().startswith('"') and ("<" in b or "==" in b)]


@pytest.mark.parametrize("name", ["dependencies = [", "sim = [", "metaworld = [", "weights = ["])
def test_each_cap_has_its_reason_on_the_line_above(name):
    found = capped(name, "\n]")
    assert found
    follows_pin = [line for above, line in found if not above.startswith("#") and "==" not in line]
    assert follows_pin == []


def test_python_cap_and_tools_have_reasons():
    lines = PYPROJECT.splitlines()
    python = next(i for i, line in enumerate(lines) if line.startswith("requires-python"))
    assert lines[python - 1].startswith("#")
    assert "# All tools below:" in PYPROJECT[PYPROJECT.index("dev = [") :]


def test_lerobot_and_torch_follow_the_agreed_ranges():
    ranges = {r.name: r for r in map(Requirement, PROJECT["project"]["dependencies"])}
    assert ranges["lerobot"].extras == {"dataset"}
    assert str(ranges["lerobot"].specifier) == "<0.7,>=0.6.1"
    theirs = {
        r.name: r for r in map(Requirement, importlib.metadata.requires("lerobot") or []) if not r.marker
    }
    for name in ("torch", "torchvision"):
        for version in ("2.7.0", "2.11.0", "2.12.0", "0.22.0", "0.26.0", "0.27.0"):
            assert ranges[name].specifier.contains(version) == theirs[name].specifier.contains(version)


def test_lock_is_pinned_hashed_and_free_of_addresses():
    assert "://" not in LOCK
    assert " @ " not in LOCK
    assert "--index" not in LOCK
    blocks = re.split(r"\n(?=[A-Za-z0-9])", LOCK.strip())
    for block in blocks:
        assert re.match(r"[A-Za-z0-9._\[\]-]+==\S+", block), block[:60]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block[:60]
    assert len(blocks) > 50


def test_lock_holds_every_direct_requirement_in_its_range():
    project, tools = PROJECT["project"], PROJECT["dependency-groups"]["dev"]
    extras = [project["optional-dependencies"][name] for name in ("sim", "weights", "metaworld")]
    wanted = [*project["dependencies"], *(one for extra in extras for one in extra), *tools]
    for requirement in map(Requirement, wanted):
        if requirement.name == project["name"]:
            continue
        version = PINS.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in requirements.lock: make lock"
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{requirement} has {version}: make lock"
        )


def test_the_base_needs_no_simulator_and_the_extras_say_what_does():
    extras, base = PROJECT["project"]["optional-dependencies"], PROJECT["project"]["dependencies"]
    simulators = {"mujoco", "mujoco-warp", "warp-lang", "metaworld"}
    assert not simulators & {canonicalize_name(Requirement(one).name) for one in base}
    assert {name: tuple(extras[name]) for name in EXTRAS} == EXTRAS
    (everything,) = map(Requirement, extras["all"])
    assert everything.name == PROJECT["project"]["name"]
    assert everything.extras == set(extras) - {"all"}


def test_what_stays_out_of_git():
    tracked = git("ls-files")
    assert "requirements.lock" in tracked
    assert not [path for path in tracked if path.endswith("uv.lock")]
    assert not [path for path in tracked if path.split("/")[0] in ("outputs", ".venv", "dist", "build")]
    assert "uv.lock" in (ROOT / ".gitignore").read_text().split()


def test_makefile_has_the_targets_and_they_do_what_they_say():
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    assert {"suite", "test", "lint", "bench", "gpu", "wheel"} <= targets
    phony = next(line for line in text.splitlines() if line.startswith(".PHONY"))
    assert targets <= {*phony.split()}
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make")
    for target, command in (
        ("suite", "lary suite"),
        ("test", "pytest"),
        ("lint", "ruff check"),
        ("gpu", "benchmarks/gpu.py"),
    ):
        planned = subprocess.run([make, "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
        assert command in planned.stdout


def test_ci_runs_lint_types_tests_and_the_wheel_smoke():
    text = (ROOT / ".ci" / "run").read_text()
    steps = ["make lint", "make types", "make test", "wheel-smoke"]
    assert [text.index(step) for step in steps] == sorted(text.index(step) for step in steps)
    for script in (ROOT / ".ci").iterdir():
        assert subprocess.run(["bash", "-n", str(script)], capture_output=True).returncode == 0


def test_a_python_is_found_for_the_environment():
    done = subprocess.run(["bash", str(ROOT / ".ci" / "find-python")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    version = subprocess.run([done.stdout.strip(), "--version"], capture_output=True, text=True).stdout
    assert re.match(r"Python 3\.1[23]\.", version)


def test_the_wheel_holds_the_packages_and_their_configs_and_nothing_else(tmp_path):
    uv = next(
        (p for p in (Path(sys.executable).parent / "uv", shutil.which("uv")) if p and Path(p).exists()), None
    )
    if uv is None:
        pytest.skip("no uv")
    build = [
        str(uv),
        "build",
        "--offline",
        "--wheel",
        "--quiet",
        "--python",
        sys.executable,
        "--out-dir",
        str(tmp_path),
        str(ROOT),
    ]
    done = subprocess.run(build, capture_output=True, text=True)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip("hatchling cannot be had without a network")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (n for n in names if n.endswith(".dist-info/METADATA"))
        assert email.message_from_bytes(archive.read(metadata))["Name"] == "lerobot_policy_lary"
    tops = {n.split("/")[0] for n in names if ".dist-info" not in n}
    assert tops == {"lary_policy", "lary_envs", "lerobot_policy_lary.py"}
    shipped = {n.removeprefix("lary_policy/configs/") for n in names if n.startswith("lary_policy/configs/")}
    here = {str(p.relative_to(ROOT / "configs")) for p in (ROOT / "configs").rglob("*") if p.is_file()}
    assert shipped == here
    stubs = {f"lary_envs/{p.relative_to(ROOT / 'envs/lary_envs')}" for p in ROOT.glob("envs/**/*.pyi")}
    stubs |= {str(p.relative_to(ROOT)) for p in ROOT.glob("lary_policy/**/*.pyi")}
    assert stubs
    assert stubs <= set(names)  # a face that is attached to its stub cannot be imported without it


def test_install_lines_of_the_readme_need_no_index_that_lacks_the_package():
    """Every line names a clone or a wheel of this version, and extras that exist."""
    readme = (ROOT / "README.md").read_text()
    lines = [line for line in readme.splitlines() if line.startswith("pip install")]
    extras = set(PROJECT["project"]["optional-dependencies"])
    assert len(lines) == 2
    for line in lines:
        place, asked = re.fullmatch(r'pip install "([^\[]+)\[(\w+)\]"\s+#.*', line).groups()
        assert (
            place == "." or place == f"./dist/lerobot_policy_lary-{lary_policy.__version__}-py3-none-any.whl"
        )
        assert asked in extras
    assert {"CPU-only", "GB"} <= set(re.findall(r"CPU-only|GB", readme))
    sources = (path.read_text() for path in (ROOT / "lary_policy").rglob("*.py"))
    assert not any(re.search(r"pip install ['\"]?lerobot_policy_lary", text) for text in sources)
