"""What is looked at before a package becomes a version: that all is there, that every file is what it is called, and
where the model comes from. Files are looked at, never parsed by a library that runs what it reads.
"""

import asyncio
import contextlib
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from chassis.artifacts import ArtifactStore
from chassis.resources import now
from lepton.errors import FailedPrecondition, InvalidArgument, NotFound
from lepton.inference.v1.model_pb2 import Lineage, ModelVersion, TensorSpec
from lepton.models.formats import LIMITS, Kind, check_pt2, read_header, refuse_pickle, scan_onnx
from lepton.models.formats.safetensors_header import OIP_DATATYPES, TensorHeader, header_bytes
from lepton.models.formats.sniff import HEAD
from lepton.models.package import ENGINES, GOLDEN, ONNX, PT2, WEIGHTS, ModelPackage, Tensor
from lepton.names import ProjectName, VersionName
from services.inference.lineage import MOST_ANCESTRY, ancestry, lineage_of

_LARGEST_MANIFEST_BYTES: Final = 256 << 10
"""The manifest, not the weights; a version and the record of its request go into one transaction."""
_MOST_GENERATIONS: Final = 64
_OURS: Final = frozenset({"PACKAGE_INVALID", "MODEL_FILE_INVALID", "MODEL_FILE_PICKLED"})


class PackageCheck:
    """Makes the version that a package describes.

    `version` finds one that it says it goes back to, `registered` all of a project, by whose packages one is known that
    it was trained on from.
    """

    def __init__(
        self,
        artifacts: ArtifactStore,
        version: Callable[[str], Awaitable[ModelVersion]],
        registered: Callable[[ProjectName], Awaitable[Sequence[ModelVersion]]],
    ) -> None:
        self._artifacts, self._version, self._registered = artifacts, version, registered

    async def describe(self, project: ProjectName, digest: str) -> ModelVersion:
        """The version, without a name. Raises InvalidArgument (PACKAGE_INVALID, MODEL_FILE_...)."""
        try:
            package = await self._manifest(project, digest)
            _check_whole(package)
            sizes = [await self._check_file(project, name, file) for name, file in sorted(package.files.items())]
            await self._check_golden(project, package)
            lineage = await self._lineage(project, package)
        except NotFound as error:
            raise package_invalid(f"an artifact or a version that it names is missing: {error.message}") from error
        except (InvalidArgument, FailedPrecondition) as error:
            raise error if error.reason in _OURS else package_invalid(str(error)) from error
        return ModelVersion(
            uid=str(uuid.uuid4()),
            package=digest,
            inputs=map(_tensor, package.signature.inputs),
            outputs=map(_tensor, package.signature.outputs),
            metrics=package.metrics,
            lineage=lineage,
            create_time=now(),
            stage=ModelVersion.NONE,
            forms=package.forms,
            size_bytes=sum(sizes),
            files=package.files,
        )

    async def _manifest(self, project: ProjectName, digest: str) -> ModelPackage:
        if await self._artifacts.size(project.project, digest) > _LARGEST_MANIFEST_BYTES:
            raise package_invalid("is far too large to be a model package")
        return ModelPackage.parse(await self._artifacts.read(project.project, digest))

    async def _check_file(self, project: ProjectName, name: str, digest: str) -> int:
        """Looks at one file; its size."""
        size = await self._artifacts.size(project.project, digest)
        if size > LIMITS.file_bytes:
            raise package_invalid(f"holds {name} of {size} bytes, {LIMITS.file_bytes} at the most")
        if name in (WEIGHTS, GOLDEN):
            await self._tensors(project, name, digest)
        elif name == ONNX:
            if size > LIMITS.onnx_bytes:
                raise package_invalid(f"holds {name} of {size} bytes, {LIMITS.onnx_bytes} at the most")
            data = await self._artifacts.mapped(project.project, digest)
            await asyncio.to_thread(scan_onnx, data, name)
        else:
            head = await self._artifacts.head(project.project, digest, HEAD)
            if name == PT2 or refuse_pickle(head, name) is Kind.ZIP:
                await self._check_archive(project, name, digest)
        return size

    async def _check_archive(self, project: ProjectName, name: str, digest: str) -> None:
        with tempfile.TemporaryDirectory(prefix="lepton-check-") as aside:
            path = Path(aside, "archive")
            await self._artifacts.fetch_to(project.project, digest, path)
            with await asyncio.to_thread(path.open, "rb") as archive:
                await asyncio.to_thread(check_pt2, archive, name, is_compiled=name.startswith(ENGINES))

    async def _tensors(self, project: ProjectName, name: str, digest: str) -> dict[str, TensorHeader]:
        size = await self._artifacts.size(project.project, digest)
        first = await self._artifacts.head(project.project, digest, HEAD)
        refuse_pickle(first, name)
        head = await self._artifacts.head(project.project, digest, header_bytes(first, name))
        return await asyncio.to_thread(read_header, head, size, name)

    async def _check_golden(self, project: ProjectName, package: ModelPackage) -> None:
        """The golden samples are of the signature."""
        golden = await self._tensors(project, GOLDEN, package.files[GOLDEN])
        for tensor in (*package.signature.inputs, *package.signature.outputs):
            found = golden.get(tensor.name)
            if found is None:
                raise package_invalid(f"has no golden sample of {tensor.name}")
            if OIP_DATATYPES.get(found.dtype) != tensor.datatype or not _fits(found.shape, tensor.shape):
                said = f"{tensor.datatype}{list(tensor.shape)}"
                raise package_invalid(f"has golden samples {found.dtype}{list(found.shape)} of {tensor.name}, {said}")

    async def _lineage(self, project: ProjectName, package: ModelPackage) -> Lineage:
        lineage = lineage_of(package.lineage)
        above = []
        for relation in ("parent", "teacher"):
            if named := getattr(lineage, relation):
                if VersionName.parse(named, f"lineage.{relation}").project != project.project:
                    raise package_invalid(f"goes back to {named}, which is of another project")
                above.append(await self._version(named))
                setattr(lineage, relation, above[-1].name)  # by number: an alias moves
        manifests = await self._packages_above(project, lineage)
        if digests := {each.initial_model for each in (lineage, *manifests)} - {""}:
            above += [version for version in await self._registered(project) if version.package in digests]
        above += [version for each in manifests for version in await self._still_there(project, each)]
        lineage.ancestry.extend(ancestry(lineage, above, manifests))
        if len(lineage.ancestry) > MOST_ANCESTRY:
            raise package_invalid(f"goes back to {len(lineage.ancestry)} sources, {MOST_ANCESTRY} at the most")
        return lineage

    async def _packages_above(self, project: ProjectName, lineage: Lineage) -> list[Lineage]:
        """The lineages of the packages that it was trained on from, registered or not, as far as they are there."""
        found: list[Lineage] = []
        while (digest := lineage.initial_model) and len(found) < _MOST_GENERATIONS:
            if not await self._artifacts.exists(project.project, digest):
                break
            lineage = lineage_of((await self._manifest(project, digest)).lineage)
            found.append(lineage)
        return found

    async def _still_there(self, project: ProjectName, lineage: Lineage) -> list[ModelVersion]:
        """The versions that the lineage of an unregistered package names, as far as they have not been deleted.

        Whoever uploads a package writes its lineage: what it says of other projects tells nothing of them.
        """
        found = []
        for named in filter(None, (lineage.parent, lineage.teacher)):
            with contextlib.suppress(NotFound, InvalidArgument):
                if VersionName.parse(named).project == project.project:
                    found.append(await self._version(named))
        return found


def package_invalid(problem: str) -> InvalidArgument:
    """A package that cannot become a version."""
    return InvalidArgument("PACKAGE_INVALID", fields={"model_version.package": problem})


def _check_whole(package: ModelPackage) -> None:
    if not package.forms:
        raise package_invalid(f"has no {WEIGHTS}, no {ONNX} and no {PT2}: nothing that can be run")
    if WEIGHTS in package.files and ONNX not in package.files and package.architecture is None:
        raise package_invalid(f"has {WEIGHTS} and no architecture that they belong to")
    if GOLDEN not in package.files:
        raise package_invalid(f"has no {GOLDEN}")


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(want in (-1, size) for size, want in zip(shape, wanted, strict=True))


def _tensor(tensor: Tensor) -> TensorSpec:
    return TensorSpec(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
