"""Manifests that ranks name: read with a limit, and believed only when everything they list is in the store."""

import asyncio
import json
from typing import Any, Final

from chassis.artifacts import ArtifactStore
from lepton.artifacts import parse_digest
from lepton.errors import InvalidArgument
from lepton.models.package import ModelPackage

_LARGEST_BYTES: Final = 256 << 20


async def checkpoint_size(artifacts: ArtifactStore, project: str, digest: str) -> int:
    """The bytes of a checkpoint's files, every one of which is there in its full size.

    Raises InvalidArgument, NotFound, FailedPrecondition.
    """
    files = await checkpoint_files(artifacts, project, digest)
    for file, size in files.items():
        if await artifacts.size(project, file) != size:
            raise InvalidArgument("MANIFEST_INVALID", manifest=digest, file=file)
    return sum(files.values())


async def checkpoint_files(artifacts: ArtifactStore, project: str, digest: str) -> dict[str, int]:
    """The files that a checkpoint's manifest lists, with their sizes.

    Raises InvalidArgument, NotFound, FailedPrecondition.
    """
    data = await read_manifest(artifacts, project, digest)
    manifest = await asyncio.to_thread(_parse, data, digest)  # of many ranks it is large
    try:
        return {parse_digest(file["digest"]): int(file["size"]) for file in manifest["files"]}
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgument("MANIFEST_INVALID", manifest=digest) from error


async def check_package(artifacts: ArtifactStore, project: str, digest: str) -> None:
    """Raises InvalidArgument, NotFound or FailedPrecondition unless it is a package, every file of which is there."""
    package = ModelPackage.parse(await read_manifest(artifacts, project, digest))
    for file in package.files.values():
        await artifacts.size(project, file)


async def read_manifest(artifacts: ArtifactStore, project: str, digest: str) -> bytes:
    """A manifest's bytes; InvalidArgument when it is far too large to be one."""
    if await artifacts.size(project, digest) > _LARGEST_BYTES:
        raise InvalidArgument("MANIFEST_INVALID", manifest=digest)
    return await artifacts.read(project, digest)


def _parse(data: bytes, digest: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("MANIFEST_INVALID", manifest=digest) from error
    if not isinstance(document, dict):
        raise InvalidArgument("MANIFEST_INVALID", manifest=digest)
    return document
