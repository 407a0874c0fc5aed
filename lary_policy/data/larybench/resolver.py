"""Fast, safe resolution of the paths in a metadata CSV."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from lary_policy.data import layout
from lary_policy.errors import DatasetError
from lary_policy.paths import resolve_inside


class PathResolver:
    """Resolve CSV paths below a root; each folder is listed once for links among its files.

    Args:
        root: Dataset root that no path may leave.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[tuple[str, str], tuple[str, frozenset[str]]] = {}

    def __call__(self, path: str | None, folder: str) -> Path:
        """Return the absolute path of a CSV cell, see `locate`."""
        return Path(self.locate(path, folder))

    def locate(self, path: str | None, folder: str) -> str:
        """Return the absolute path of a CSV cell, in either style (with or without `folder` in front).

        It is text: to take `Path` objects apart costs more than to read a file.

        Raises:
            DatasetError: The cell is empty.
            UnsafePathError: The path is absolute, contains `..` or leaves the root through a link.
        """
        if path and path[0] != "/" and "\0" not in path:
            parent, _, name = path.rpartition("/")
            known = self._folders.get((parent, folder))
            if known is not None and name not in known[1]:
                return known[0] + name
        return self._find(path, folder)

    def _find(self, path: str | None, folder: str) -> str:
        """Return where a cell points to, after a look at its folder."""
        if not path or "\0" in path:
            raise DatasetError(
                expected=f"a path below {folder}/",
                got="an empty cell" if not path else "a path with a NUL byte",
                fix="Complete the row in the CSV.",
            )
        parent, _, name = path.rpartition("/")
        if path.startswith("/") or name in ("", ".", ".."):
            return str(resolve_inside(self.root, path))
        key = (parent, folder)
        if key not in self._folders:
            whole = PurePosixPath(layout.with_prefix(path, folder))
            resolved = resolve_inside(self.root, str(whole.parent))
            self._folders[key] = f"{resolved}/", _links(resolved) | {"", ".", ".."}
        place, links = self._folders[key]
        if name in links:
            return str(resolve_inside(self.root, layout.with_prefix(path, folder)))
        return place + name


def _links(folder: Path) -> frozenset[str]:
    """Return the names of the symbolic links in a folder, which one listing tells."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_symlink())
    except OSError:
        return frozenset()  # the folder is missing: reading the file will say so
