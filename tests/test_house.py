"""The rules of the house: size, documentation, faces, direction, names said once."""

from __future__ import annotations

import ast
import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"lary_policy": ROOT / "lary_policy", "lary_envs": ROOT / "envs" / "lary_envs"}
SOURCES = sorted(path for place in PLACES.values() for path in place.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_FILES, MAX_LINES, MAX_FILE, MAX_FUNCTION, MAX_FOLDER = 373, 56_850, 400, 60, 16
LEAST_TESTS = 0.6  # lines of tests a line of source
# Folders of peers of one kind: adding one more is what they are for.
PEERS = {
    "lary_envs/tasks", "lary_policy/encoders/families", "lary_policy/report/figures",
    "lary_policy/runs/questions", "lary_policy/scores/proxies",
}  # fmt: skip
GROUND = ("errors", "types", "settings", "machine", "console", "paths")
# From what is known to what knows it: a package imports from those before it.
ORDER = (
    *GROUND, "actions", "frames", "encoders", "data", "latents", "heads", "lam", "scores", "rollout",
    "policy", "report", "runs", "cli",
)  # fmt: skip
# LeRobot finds our policy types because this was imported: nothing is taken from it.
IMPORTED_FOR_EFFECT = ("lary_policy.policy.register",)
# What lary_envs may know of lary_policy, and what a report never needs.
ENVS_KNOW = (*GROUND, "actions")
HEAVY = {"report": ("torch", "mujoco", "lary_envs", "lary_policy.encoders", "lary_policy.heads")}


def name_of(path: Path) -> str:
    """Return the dotted name of a module."""
    root = PLACES["lary_envs"].parent if PLACES["lary_envs"] in path.parents else ROOT
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in SOURCES}
PACKAGES = {name_of(path) for path in SOURCES if path.name == "__init__.py"}


def package_of(module: str) -> str:
    """Return the package that a module is in; a package is in itself."""
    return module if module in PACKAGES else module.rpartition(".")[0]


def imports(module: str, *, lazy: bool = True, typing: bool = True) -> Iterator[str]:
    """Yield what a module imports of ours: the modules, or packages whose names it takes.

    Args:
        module: Dotted name.
        lazy: Whether to count imports inside functions.
        typing: Whether to count those that only type checkers see.
    """
    for node in _nodes(ast.parse(MODULES[module].read_text()), lazy, typing):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in PLACES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PLACES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (
                    inner
                    if inner in MODULES and not _taken_from_face(node.module, alias.name)
                    else str(node.module)
                )


def _taken_from_face(package: str | None, name: str) -> bool:
    """Tell whether a package's face has a name that one of its modules has too, e.g. `fit` in fit.py."""
    tree = ast.parse(MODULES[str(package)].read_text()) if package in MODULES else ast.Module([], [])
    return any(
        isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names)
        for node in tree.body
    )


def _nodes(tree: ast.AST, lazy: bool, typing: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not lazy and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if not typing and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from _nodes(node, lazy, typing)


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    yield from (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def _public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Yield public functions and classes of a module with their public methods."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                methods = (m for m in node.body if isinstance(m, ast.FunctionDef))
                yield from (m for m in methods if not m.name.startswith("_"))


def _lines(paths: list[Path]) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: name_of(p))
def test_a_file_is_short_typed_and_documented(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= MAX_FILE
    for function in _functions(tree):
        length = function.end_lineno - function.lineno + 1
        assert length <= MAX_FUNCTION, f"{function.name} has {length} lines"
    assert not text.strip() or ast.get_docstring(tree), "module docstring missing"
    for node in _public(tree):
        assert ast.get_docstring(node), f"{node.name}: docstring missing"
        if isinstance(node, ast.FunctionDef):
            assert node.returns is not None, f"{node.name}: return type missing"
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            untyped = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            assert not untyped, f"{node.name}: no type for {untyped}"


def test_the_house_is_of_its_size():
    assert len(SOURCES) <= MAX_FILES
    assert _lines(SOURCES) <= MAX_LINES
    assert _lines(TESTS) >= LEAST_TESTS * _lines(SOURCES)


def test_most_functions_are_short():
    lengths = sorted(
        f.end_lineno - f.lineno + 1 for path in SOURCES for f in _functions(ast.parse(path.read_text()))
    )
    assert statistics.median(lengths) <= 10
    assert lengths[int(0.95 * len(lengths))] <= 40


def test_no_folder_is_an_attic():
    counts = Counter(path.parent for path in SOURCES)
    full = {
        name_of(folder / "__init__.py").replace(".", "/"): count
        for folder, count in counts.items()
        if count > MAX_FOLDER
    }
    assert set(full) <= PEERS, full


def test_file_names_are_nouns_of_their_own():
    for path in SOURCES:
        assert not path.stem.startswith("source_"), path
        assert not path.stem.endswith(("_2", "utils", "helpers", "misc")), path


@pytest.mark.parametrize("module", sorted(MODULES))
def test_packages_are_imported_by_their_face(module):
    own = package_of(module)
    for target in set(imports(module)):
        package = target.rpartition(".")[0]
        ground = package == "lary_policy" and target.rpartition(".")[2] in GROUND
        inside = own == package or own.startswith(package + ".")
        known = target in PACKAGES or ground or inside or target in IMPORTED_FOR_EFFECT
        assert known, f"{module} reaches past the face of {package}"


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("lary_policy.")))
def test_imports_point_from_what_is_known_to_what_knows_it(module):
    place = module.split(".")[1]
    if place not in ORDER:
        pytest.skip(f"{place} is the package itself")
    for target in set(imports(module)):
        parts = target.split(".")
        if parts[0] == "lary_policy" and len(parts) > 1:
            assert ORDER.index(parts[1]) <= ORDER.index(place), f"{module} imports {target}"


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("lary_envs")))
def test_the_simulator_knows_actions_and_the_ground(module):
    ours = {t.split(".")[1] for t in imports(module) if t.startswith("lary_policy.")}
    assert ours <= set(ENVS_KNOW)


@pytest.mark.parametrize("place", HEAVY)
def test_a_report_needs_no_model(place):
    for module, path in MODULES.items():
        if module.startswith(f"lary_policy.{place}"):
            found = {
                alias.name if isinstance(node, ast.Import) else str(node.module)
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Import | ast.ImportFrom)
                for alias in node.names
            }
            assert not [f for f in found if f.startswith(HEAVY[place])], module


def test_no_circles():
    graph = {
        module: {
            name
            for target in imports(module, lazy=False, typing=False)
            for name in _with_packages(target)
            if name in MODULES and name != module and not module.startswith(name + ".")
        }
        for module in MODULES
    }
    assert list(_circles(graph)) == []


def _with_packages(module: str) -> Iterator[str]:
    yield from itertools.accumulate(module.split("."), lambda a, b: f"{a}.{b}")


def _circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Yield a path for each circle that a walk in depth meets."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> Iterator[list[str]]:
        if module in path:
            yield [*path[path.index(module) :], module]
        elif module not in done:
            for target in sorted(graph[module]):
                yield from walk(target, [*path, module])
            done.add(module)

    for module in graph:
        yield from walk(module, [])


def test_every_public_name_is_said_once():
    places = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    hooks = {"main", "phases"}  # of a verb's file, and of a task's
    said = {name: modules for name, modules in places.items() if len(modules) > 1 and name not in hooks}
    assert said == {}
