"""What a revision's servers load: its Triton repository in the artifact store, made from its version's package."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from chassis.artifacts import ArtifactStore
from chassis.logs import logger
from lepton.errors import InvalidArgument
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.models import ModelPackage
from lepton.models.package import GOLDEN, ONNX
from lepton.names import DeploymentName, DeploymentRevisionName, VersionName
from lepton.repository import Manifest, Variant
from lepton.scheduler.v1.program_pb2 import ServedModel
from services.inference.serving import model_name
from services.inference.triton_repository.configuration import OWN_VERSION
from services.inference.triton_repository.engines import BuiltEngine, places
from services.inference.triton_repository.options import ServingOptions
from services.inference.triton_repository.rendering import Rendered
from services.inference.triton_repository.variants import variants
from services.inference.triton_repository.warmup import Warmup

log = logger(__name__)
_LARGEST_FACTS_BYTES: Final = 64 << 10


def versions_beside(revision: DeploymentRevision) -> tuple[int, ...]:
    """The numbers of the versions that are served beside a revision's own. Raises InvalidArgument."""
    policy = ServingOptions.of(revision.serving).version_policy
    own = _number(revision)
    return () if policy is None else tuple(number for number in policy.versions(own) if number != own)


async def build(
    revision: DeploymentRevision,
    package: ModelPackage,
    artifacts: ArtifactStore,
    others: Mapping[int, ModelPackage] | None = None,
) -> list[ServedModel]:
    """Writes the repositories of a revision. The package's files name its ONNX file, as do those of `others`.

    Every form that a node could run is in the manifest, best first, and the node takes the first that it can.
    Raises InvalidArgument.
    """
    name = DeploymentRevisionName.parse(revision.name)
    served = model_name(DeploymentName(name.project, name.deployment))
    options = ServingOptions.of(revision.serving)
    rendered = variants(
        served,
        _versions(revision, package, others or {}),
        package.signature,
        options,
        engines=await engines(package, name.project, artifacts),
        warmup=await _warmup(package, name.project, artifacts) if options.warmup else None,
    )
    manifest = await store(rendered, name.project, artifacts)
    return [ServedModel(name=served, repository=manifest, golden=package.files[GOLDEN])]


async def store(rendered: list[Rendered], project: str, artifacts: ArtifactStore) -> str:
    """Stores rendered forms of one model and returns the digest of their manifest."""
    made = []
    for form in rendered:
        files = {
            path: content if isinstance(content, str) else await artifacts.put_bytes(project, content)
            for path, content in form.files.items()
        }
        made.append(
            Variant(engine=form.engine.value, key=form.key, requires=form.requires, files=files, golden=form.golden)
        )
    return await artifacts.put_bytes(project, Manifest(variants=tuple(made)).render())


async def engines(package: ModelPackage, project: str, artifacts: ArtifactStore) -> list[BuiltEngine]:
    """The engines that a package holds beside its model; one whose facts do not fit its place is left out."""
    found = []
    for key, place, golden in places(package.files):
        try:
            engine = BuiltEngine.of(
                key, package.files[key.file], package.signature, await _facts(package, project, place, artifacts)
            )
        except InvalidArgument as error:
            log.warning("engine left out", engine=str(key), problem=str(error))
            continue
        if engine is not None:
            found.append(replace(engine, golden=package.files.get(golden, "")))
    return found


async def _facts(package: ModelPackage, project: str, place: str, artifacts: ArtifactStore) -> bytes:
    digest = package.files.get(place)
    if digest is None:
        return b""
    if await artifacts.size(project, digest) > _LARGEST_FACTS_BYTES:
        raise InvalidArgument("MODEL_PACKAGE_INVALID", problem=f"{place} is far too large")
    return await artifacts.read(project, digest)


def needs_export(package: ModelPackage) -> bool:
    """Whether an ONNX file has to be made of the package first."""
    return ONNX not in package.files


def _versions(
    revision: DeploymentRevision, package: ModelPackage, others: Mapping[int, ModelPackage]
) -> dict[int, str]:
    if not revision.serving.HasField("version_policy"):
        return {OWN_VERSION: package.files[ONNX]}
    for number, other in others.items():
        if ONNX not in other.files:
            raise _invalid(f"version {number} has no {ONNX}, so it cannot be served beside; optimise or import it")
        if other.signature != package.signature:
            raise _invalid(f"version {number} has another signature; deploy it under a name of its own")
    found = {number: other.files[ONNX] for number, other in others.items()}
    return dict(sorted({**found, _number(revision): package.files[ONNX]}.items()))


async def _warmup(package: ModelPackage, project: str, artifacts: ArtifactStore) -> Warmup | None:
    try:
        return Warmup.of(await artifacts.read(project, package.files[GOLDEN]), package.signature)
    except InvalidArgument as error:
        # Whoever serves it will refuse the same samples, with the reason, where it can be seen.
        log.warning("no warm-up", golden=package.files[GOLDEN], problem=str(error))
        return None


def _number(revision: DeploymentRevision) -> int:
    return int(VersionName.parse(revision.model_version).version)


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={"deployment.serving.version_policy": problem})
