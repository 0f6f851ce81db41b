"""What of a folder stays out of a bundle: built-in names, and ignore files with git's syntax."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import pathspec

OWN: Final = ".leptonignore"
GITS: Final = ".gitignore"
BUILT_IN: Final = (
    *(
        ".git",
        ".hg",
        ".svn",
        "__pycache__",
        "*.py[co]",
        ".venv",
        "venv",
        "node_modules",
        ".DS_Store",
        ".ipynb_checkpoints",
    ),
    *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".tox", ".idea", ".vscode", "*.egg-info", OWN),
)
"""Left out unless an ignore file takes it back, as with `!venv`."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that hold in one folder: its own, those of the folders above it, and at last the built-in ones."""

    name: str  # of the ignore files that are read
    files: tuple[tuple[str, pathspec.GitIgnoreSpec], ...]  # the outermost first, each with the folder that it is in

    @classmethod
    def of(cls, root: Path) -> Self:
        """The rules at the root of a bundle: of .leptonignore files, or of .gitignore files where the root has none."""
        rules = cls(OWN if (root / OWN).is_file() else GITS, (("", _compiled(BUILT_IN)),))
        return rules.within(root, "")

    def within(self, root: Path, folder: str) -> Self:
        """The rules in a folder below, given as a path from the root (`a/b`, or empty)."""
        path = root / folder / self.name
        if not path.is_file():
            return self
        lines = path.read_text(errors="replace").splitlines()
        return type(self)(self.name, (*self.files, (folder, _compiled(lines))))

    def leave_out(self, path: str, *, is_folder: bool) -> bool:
        """Whether a file or folder, given as a path from the root, stays out; the innermost file with a say counts."""
        asked = f"{path}/" if is_folder else path
        for folder, spec in reversed(self.files):
            verdict = spec.check_file(asked.removeprefix(f"{folder}/") if folder else asked).include
            if verdict is not None:
                return verdict
        return False


def _compiled(lines: Sequence[str]) -> pathspec.GitIgnoreSpec:
    return pathspec.GitIgnoreSpec.from_lines(lines)
