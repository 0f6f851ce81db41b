"""Code bundles: a user's archive, fetched by digest and unpacked so that nothing in it can reach outside its folder."""

import tarfile
from pathlib import Path, PurePosixPath
from typing import Final

from lepton.artifacts import ArtifactStore
from lepton.errors import InvalidArgument

_MOST_BYTES: Final = 2 << 30
_MOST_ENTRIES: Final = 20_000


def unpack(store: ArtifactStore, project: str, digest: str, folder: Path) -> None:
    """Unpack an archive of the store into a folder; InvalidArgument when it is not one, or too large, or means harm."""
    archive = folder.with_name(f"{folder.name}.tar")
    store.fetch_to(project, digest, archive)
    try:
        with tarfile.open(archive, "r:*") as bundle:
            size = 0
            for number, member in enumerate(bundle):
                size += member.size
                if number >= _MOST_ENTRIES or size > _MOST_BYTES:
                    raise _invalid(f"holds more than {_MOST_ENTRIES} entries or {_MOST_BYTES} bytes")
                bundle.extract(member, folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _invalid(f"{type(error).__name__}: {error}") from error
    finally:
        archive.unlink()


def entry_point(folder: Path, name: str) -> Path:
    """The script of a bundle; InvalidArgument when it is not a file within it."""
    path = folder / PurePosixPath(name)
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise InvalidArgument("INVALID_FIELD", fields={"code.entry_point": f"{name!r} is not a file of the bundle"})
    return path


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={"code.digest": f"is not a usable archive: {problem}"})
