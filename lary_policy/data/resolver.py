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
        self.root = root
        self._folders: dict[tuple[str, str], Path] = {}

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
        parent, _, name = path.rpartition("/")
        if path.startswith("/") or name in ("", ".", ".."):
            return resolve_inside(self.root, path)
        key = (parent, folder)
        if key not in self._folders:
            whole = PurePosixPath(layout.with_prefix(path, folder))
            self._folders[key] = resolve_inside(self.root, str(whole.parent))
        resolved = self._folders[key] / name
        if resolved.is_symlink():
            return resolve_inside(self.root, layout.with_prefix(path, folder))
        return resolved
