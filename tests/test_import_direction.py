"""Imports point in the reading direction: what is measured knows nothing of what measures it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Package -> packages of ours it must not import.
FORBIDDEN = {
    "encoders": ("heads", "data", "policy", "rollout", "report", "stages"),
    "heads": ("data", "policy", "rollout", "report", "stages"),
    "data": ("heads", "policy", "rollout", "report", "stages"),
    "policy": ("rollout", "stages"),
    "rollout": ("report", "stages"),
    "report": ("heads", "data", "encoders", "rollout", "stages"),
}
ALSO_FORBIDDEN = {"encoders": ("lary_envs",), "heads": ("lary_envs",), "report": ("lary_envs", "torch")}
ENVS_MAY_IMPORT = ("actions", "errors", "paths", "types")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _offenders(path: Path, banned: tuple[str, ...]) -> list[str]:
    return [n for n in _imports(path) if any(n == b or n.startswith(b + ".") for b in banned)]


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_package_does_not_import_what_comes_after_it(folder):
    files = list((ROOT / "lary_policy" / folder).rglob("*.py"))
    banned = (*(f"lary_policy.{p}" for p in FORBIDDEN[folder]), *ALSO_FORBIDDEN.get(folder, ()))
    assert files
    assert {f.name: bad for f in files if (bad := _offenders(f, banned))} == {}


def test_envs_know_only_actions_and_the_ground():
    allowed = tuple(f"lary_policy.{m}" for m in ENVS_MAY_IMPORT)
    for path in (ROOT / "envs" / "lary_envs").rglob("*.py"):
        ours = [n for n in _imports(path) if n.startswith("lary_policy.")]
        assert [n for n in ours if not n.startswith(allowed)] == [], path.name


@pytest.mark.parametrize("module", ["lary_policy", "lary_policy.cli", "lary_policy.policy"])
def test_light_imports_stay_light(module):
    heavy = ("torch", "transformers", "mujoco", "warp", "diffusers")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
