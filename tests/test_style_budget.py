"""The size and documentation budget that keeps the code readable."""

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "lary_policy").rglob("*.py"), *(ROOT / "envs" / "lary_envs").rglob("*.py")])
MAX_FILE, MAX_MEDIAN_FILE, MAX_FUNCTION = 400, 120, 60


def _functions(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _public_api(tree: ast.Module):
    """Yield public module-level functions and classes with their public methods."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (
                    m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")
                )


def test_there_are_sources():
    assert len(SOURCES) > 40


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_is_within_budget_typed_and_documented(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= MAX_FILE
    for function in _functions(tree):
        length = function.end_lineno - function.lineno + 1
        assert length <= MAX_FUNCTION, f"{function.name} has {length} lines"
    if path.stat().st_size:
        assert ast.get_docstring(tree), "module docstring missing"
    for node in _public_api(tree):
        assert ast.get_docstring(node), f"{node.name}: docstring missing"
        if isinstance(node, ast.FunctionDef):
            assert node.returns is not None, f"{node.name}: return type missing"
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            untyped = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            assert not untyped, f"{node.name}: no type for {untyped}"


def test_median_file_length():
    lengths = [len(p.read_text().splitlines()) for p in SOURCES]
    assert statistics.median(lengths) <= MAX_MEDIAN_FILE
