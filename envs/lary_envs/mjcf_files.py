"""What an MJCF file reads from disk, checked before MuJoCo opens any of it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from lary_policy.errors import SimulationError, UnsafePathError
from lary_policy.paths import resolve_inside

_FOLDERS = ("meshdir", "texturedir", "assetdir")
_NESTED = ("include", "model")  # elements whose file is MJCF again


def require_inside(folder: Path, entry: str) -> Path:
    """Return the resolved path of an MJCF file that, with all it includes, reads nothing outside `folder`.

    Raises:
        UnsafePathError: A path in it is absolute, contains `..` or is a link that leaves `folder`.
        SimulationError: It is not XML.
    """
    pending, roots, bases = [_inside(folder, entry, entry)], {}, {Path()}
    while pending:
        path = pending.pop()
        if path in roots or not path.is_file():
            continue  # MuJoCo itself names files that are missing
        roots[path] = root = _parse(path)
        inner = path.parent.relative_to(folder.resolve())
        bases.add(inner)
        for compiler in root.iter("compiler"):
            dirs = [_plain(compiler.get(name, ".")) for name in _FOLDERS]
            bases.update(base / name for base in (Path(), inner) for name in dirs)
        nested = [_plain(e.get("file", "")) for tag in _NESTED for e in root.iter(tag)]
        pending += [_inside(folder, b / name, path) for b in (Path(), inner) for name in nested]
    for path, root in roots.items():
        for value in _files(root):
            for base in bases:
                _inside(folder, base / value, path)
    return _inside(folder, entry, entry)


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise SimulationError(
            expected="an MJCF file", got=f"'{path}': {error}", fix="Get it again."
        ) from error


def _files(root: ElementTree.Element) -> list[str]:
    """Return all file names: `file`, and `fileright` and its like of skyboxes."""
    return [_plain(v) for e in root.iter() for name, v in e.attrib.items() if name.startswith("file")]


def _plain(path: str) -> str:
    return path.replace("\\", "/")  # MuJoCo takes both for separators on every system


def _inside(folder: Path, relative: str | Path, named_in: str | Path) -> Path:
    try:
        return resolve_inside(folder, relative)
    except UnsafePathError as error:
        raise UnsafePathError(
            expected=f"only paths inside {folder} in '{named_in}'",
            got=f"'{relative}'",
            fix="Use an unmodified model; links must not leave its folder.",
        ) from error
