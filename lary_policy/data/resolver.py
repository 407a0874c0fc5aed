"""Fast, safe resolution of the paths in a metadata CSV."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from lary_policy.data import layout
from lary_policy.errors import DatasetError
from lary_policy.paths import resolve_inside


class PathResolver:
    """Resolve CSV paths below a root; each folder is checked for links once, each file for being a link.

    Args:
        root: Dataset root that no path may leave.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, Path] = {}

    def __call__(self, path: str | None, folder: str) -> Path:
        """Return the absolute path of a CSV cell, in either style (with or without `folder` in front).

        Raises:
            DatasetError: The cell is empty.
            UnsafePathError: The path is absolute, contains `..` or leaves the root through a link.
        """
        if not path or "\0" in path:
            raise DatasetError(
                expected=f"a path below {folder}/",
                got="an empty cell" if not path else "a path with a NUL byte",
                fix="Complete the row in the CSV.",
            )
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            return resolve_inside(self._root, path)  # raises with the path as it stands in the CSV
        relative = PurePosixPath(layout.with_prefix(path, folder))
        parent = str(relative.parent)
        if parent not in self._folders:
            self._folders[parent] = resolve_inside(self._root, parent)
        resolved = self._folders[parent] / relative.name
        return resolve_inside(self._root, str(relative)) if resolved.is_symlink() else resolved
