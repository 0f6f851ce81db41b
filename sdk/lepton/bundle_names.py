"""Names that every node can hold: what a bundle may call its files."""

from pathlib import PurePosixPath
from typing import Final

DATA_MARK: Final = "LEPTON.data"
"""The global header of an archive of data; its value is FILE when it is that of a single file, else FOLDER."""
FILE: Final = "file"
FOLDER: Final = "folder"

_LONGEST_PART: Final = 255
_LONGEST: Final = 1024


def problem_of(name: str) -> str:
    """What keeps a relative path, with `/` between its parts, from use on every node; empty when nothing does."""
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    parts = name.split("/")
    if not name or name.startswith("/"):
        return "is not a relative path"
    if any(part in ("", ".", "..") for part in parts):
        return "has an empty part, `.` or `..`"
    if any(ord(character) < 32 or ord(character) == 127 or character == "\\" for character in name):
        return "holds a control character or a backslash"
    if len(raw) > _LONGEST or any(len(part.encode()) > _LONGEST_PART for part in parts):
        return f"is longer than {_LONGEST} bytes, or a part of it than {_LONGEST_PART}"
    return ""


def link_target(name: str, target: str) -> str | None:
    """Where a symbolic link called `name` points, as a path within the same folder; None when it leaves the folder."""
    if target.startswith("/"):
        return None
    place = list(PurePosixPath(name).parent.parts)
    for part in target.split("/"):
        if part == "..":
            if not place:
                return None
            place.pop()
        elif part not in ("", "."):
            place.append(part)
    return "/".join(place)
